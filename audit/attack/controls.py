"""Figures to read an audit's by: what the true target label alone tells, and the adversaries of the training run."""

import numpy as np

from privatenet.audit.attack.findings import Control, Estimate
from privatenet.audit.attack.measures import Resamples, balanced_accuracy, recorded_accuracy, wilson
from privatenet.audit.attack.networks import adversaries_on, known_adversaries
from privatenet.audit.attack.samples import AttackSplit, labelled_split, labels_of
from privatenet.audit.settings import AuditConfig
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.faces import Faces


def target_label_control(attribute: str, config: AuditConfig, faces: Faces, split: AttackSplit) -> Control | None:
    """What the true target label alone tells: the most frequent class among the fitting samples of that label.

    None where there are no samples to fit on or to judge on whose target and attribute are both known.
    """
    targets = labels_of(faces, faces.schema.target)
    with_target, _ = labelled_split(split, faces, faces.schema.target)
    subset, labels = labelled_split(with_target, faces, attribute)
    if not len(labels.fitting) or not len(labels.testing):
        return None
    fitting_targets, testing_targets = targets[subset.fitting], targets[subset.testing]
    overall = int(np.bincount(labels.fitting).argmax())
    most_frequent = {
        target: int(np.bincount(labels.fitting[fitting_targets == target]).argmax())
        for target in np.unique(fitting_targets)
    }
    predictions = np.array([most_frequent.get(target, overall) for target in testing_targets])
    right = predictions == labels.testing
    resamples = Resamples(len(right), config.resamples, config.confidence)
    num_classes = len(faces.schema.attribute(attribute).classes)
    accuracy = wilson(int(right.sum()), len(right), config.confidence)
    balanced = balanced_accuracy(right.astype(np.float64), labels.testing, num_classes, resamples)
    return Control("target-label", "", attribute, accuracy, balanced)


def adversary_controls(config: AuditConfig, source: Checkpoint) -> list[Control]:
    """The adversaries of the training run itself: on pictures, on the unprotected network, and the known ones here."""
    known = known_adversaries(source)
    checkpoints = {"unprotected-adversary": known} if known else {}
    if source.state["stage"] == "private":
        checkpoints["known-adversary"] = source
        if (unknown := adversaries_on(source, "unknown")) is not None:
            checkpoints["unknown-adversary"] = unknown
    controls = []
    for kind, adversaries in checkpoints.items():
        for head, score in adversaries.state["test"].items():
            tap, _, attribute = head.partition("-")
            if attribute in config.attributes:
                accuracy = recorded_accuracy(score, config.confidence)
                balanced = Estimate(score["balanced_accuracy"], float("nan"), float("nan"))
                name, place = ("image-adversary", "") if tap == "image" else (kind, tap)
                controls.append(Control(name, place, attribute, accuracy, balanced))
    return controls
