"""Figures to read an audit's by: what the true target label alone tells, and the adversaries of the training run."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from privatenet.audit.attack.features import Features
from privatenet.audit.attack.findings import Control, Estimate
from privatenet.audit.attack.intervals import Numbers, Resamples, recorded_accuracy, share
from privatenet.audit.attack.measures import balanced_accuracy
from privatenet.audit.attack.networks import adversaries_on, known_adversaries
from privatenet.audit.attack.representations import features_of
from privatenet.audit.attack.samples import (
    AttackSplit,
    LabelledFaces,
    judged_rows,
    labelled_split,
    labels_of,
    people_in,
)
from privatenet.audit.attack.together import JUDGING_BATCH
from privatenet.audit.settings import AuditConfig
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.faces import Faces
from privatenet.distributed.stages.trained import load_adversaries
from privatenet.models.adversary import Pair
from privatenet.models.arm import one_by_one
from privatenet.models.network import Network


@dataclass(frozen=True)
class Floor:
    """What the true target label alone tells, and of which test samples with a known label it does, float64 [N]: 1,
    else 0, and NaN where the target is unknown."""

    control: Control
    right: Numbers


def target_label_floors(config: AuditConfig, faces: LabelledFaces, split: AttackSplit) -> dict[str, Floor]:
    """`target_label_floor` of all attributes where there is one."""
    floors = {attribute: target_label_floor(attribute, config, faces, split) for attribute in config.attributes}
    return {attribute: floor for attribute, floor in floors.items() if floor}


def target_label_floor(attribute: str, config: AuditConfig, faces: LabelledFaces, split: AttackSplit) -> Floor | None:
    """What the true target label alone tells: the most frequent class among the fitting samples of that label.

    None where there are no samples to fit on or to judge on whose target and attribute are both known.
    """
    targets, labels = labels_of(faces, faces.schema.target), labels_of(faces, attribute)
    labelled, _ = labelled_split(split, faces, attribute)
    both, _ = labelled_split(labelled, faces, faces.schema.target)
    if not len(both.fitting) or not len(both.testing):
        return None
    fitting_labels, fitting_targets = labels[both.fitting], targets[both.fitting]
    overall = int(np.bincount(fitting_labels).argmax())
    most_frequent = {
        target: int(np.bincount(fitting_labels[fitting_targets == target]).argmax())
        for target in np.unique(fitting_targets)
    }
    predictions = np.array([most_frequent.get(target, overall) for target in targets[both.testing]])
    right = (predictions == labels[both.testing]).astype(np.float64)
    people = people_in(faces, both.testing)
    resamples = Resamples(people, config.resamples, config.confidence)
    num_classes = len(faces.schema.attribute(attribute).classes)
    accuracy = share(right, people, config.confidence)
    balanced = balanced_accuracy(right, labels[both.testing], num_classes, resamples)
    aligned = np.full(len(labelled.testing), np.nan)
    aligned[targets[labelled.testing] >= 0] = right
    return Floor(Control("target-label", "", attribute, accuracy, balanced), aligned)


def adversary_controls(
    config: AuditConfig, source: Checkpoint, faces: Faces, network: Network, features: Features
) -> list[Control]:
    """The adversaries of the training run itself: on pictures, on the unprotected network, and the known ones here.

    `network` and its `features` are those of `source`. Where a private network was not trained against a known
    adversary, that is asked here, as it was trained on the unprotected network.
    """
    known = known_adversaries(source)
    checkpoints = {"unprotected-adversary": known} if known else {}
    if source.state["stage"] == "private":
        checkpoints["known-adversary"] = source
        if (unknown := adversaries_on(source, "unknown")) is not None:
            checkpoints["unknown-adversary"] = unknown
    people = people_in(faces, judged_rows(faces))
    controls = []
    for kind, adversaries in checkpoints.items():
        for head, score in adversaries.state["test"].items():
            tap, _, attribute = head.partition("-")
            if attribute in config.attributes:
                accuracy = recorded_accuracy(score, people, config.confidence)
                balanced = Estimate(score["balanced_accuracy"], float("nan"), float("nan"))
                name, place = ("image-adversary", "") if tap == "image" else (kind, tap)
                controls.append(Control(name, place, attribute, accuracy, balanced))
    if known and source.state["stage"] == "private":
        pairs = [Pair.parse(name) for name in known.state["test"] if name not in source.state["test"]]
        asked = [p.name for p in pairs if p.attribute in config.attributes and p.tap in features.shapes]
        trained = load_adversaries(known, network, asked)
        controls += [_ask(Pair.parse(name), trained[name], config, faces, features) for name in asked]
    return controls


def _ask(pair: Pair, adversary: nn.Module, config: AuditConfig, faces: Faces, features: Features) -> Control:
    """A known adversary's answers to the test samples whose label is known."""
    rows = judged_rows(faces)
    rows = rows[labels_of(faces, pair.attribute)[rows] >= 0]
    labels, values = labels_of(faces, pair.attribute)[rows], features_of(features, pair.tap, rows)
    adversary = one_by_one(adversary).cpu().eval()
    with torch.inference_mode():
        chunks = np.array_split(values, -(-len(values) // JUDGING_BATCH))
        answers = np.concatenate([adversary(torch.from_numpy(chunk.copy())).argmax(dim=1).numpy() for chunk in chunks])
    right, people = (answers == labels).astype(np.float64), people_in(faces, rows)
    resamples = Resamples(people, config.resamples, config.confidence)
    balanced = balanced_accuracy(right, labels, len(faces.schema.attribute(pair.attribute).classes), resamples)
    return Control("known-adversary", pair.tap, pair.attribute, share(right, people, config.confidence), balanced)
