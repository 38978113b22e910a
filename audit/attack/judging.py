"""What a fleet's answers come to: the best attacker on every tap and attribute, selected by tuning, its measures."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from privatenet.audit.attack.features import LOGITS, Features
from privatenet.audit.attack.findings import Attack, Estimate, Leak
from privatenet.audit.attack.fleet import AttackResults, Fleet, Result
from privatenet.audit.attack.measures import (
    Numbers,
    Resamples,
    calibrate,
    class_frequencies,
    code_length,
    entropy,
    judge,
    probabilities,
    wilson,
)
from privatenet.audit.attack.online import code_blocks
from privatenet.audit.attack.samples import AttackLabels, AttackSplit, Representation, labelled_split, testing_data
from privatenet.distributed.faces import Faces

UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class JudgedLeak:
    """A leak, and which test samples its best attacker was right about: what changes are computed from."""

    leak: Leak
    right: Numbers


def judge_leaks(attacked: AttackResults, with_code: bool = True) -> list[JudgedLeak]:
    """Every leak of one network; without the code length, which costs four more fits each, unless `with_code`."""
    fleet = attacked.fleet
    leaks = []
    for tap in fleet.features.shapes:
        by_kind = cache(partial(_representations, fleet, tap))
        for attribute in fleet.config.attributes:
            results = [r for r in attacked.results if (r.unit.tap, r.unit.attribute) == (tap, attribute)]
            if results:  # attackers of maps alone have nothing to say of logits
                leaks.append(_judge_leak(results, fleet, by_kind if with_code else None))
    return leaks


def utility(features: Features, faces: Faces, split: AttackSplit, confidence: float) -> tuple[Estimate, float]:
    """How often the logits name the target class of the samples that judge, and the share of its largest class."""
    column = faces.schema.names.index(faces.schema.target)
    labels = testing_data(split, faces).labels[split.testing, column]
    known = labels >= 0
    predictions = np.asarray(features.array(split.testing_split, LOGITS)[split.testing]).argmax(axis=1)
    right = (predictions == labels)[known]
    majority = float(np.bincount(labels[known]).max() / known.sum())
    return wilson(int(right.sum()), len(right), confidence), majority


def log_probabilities(result: Result, labels: AttackLabels, num_classes: int) -> Iterator[tuple[Numbers, Numbers]]:
    """For every seed, calibrated log-probabilities [N, K] of the tuning and of the testing samples."""
    frequencies = class_frequencies(labels.fitting, num_classes)
    for logits in zip(result.answers.tuning, result.answers.testing, strict=True):
        tuning, testing = (values.astype(np.float64) for values in logits)
        calibration = calibrate(tuning, labels.tuning)
        yield probabilities(tuning, calibration, frequencies), probabilities(testing, calibration, frequencies)


def _representations(fleet: Fleet, tap: str) -> Mapping[str, Representation]:
    return {representation.kind: representation for representation in fleet.representations(tap)}


def _judge_leak(
    results: list[Result], fleet: Fleet, representations: Callable[[], Mapping[str, Representation]] | None
) -> JudgedLeak:
    """The leak of one tap and attribute; with a code length where its tap's `representations` are there to ask for."""
    config, unit = fleet.config, results[0].unit
    attribute = fleet.faces.schema.attribute(unit.attribute)
    _, labels = labelled_split(fleet.split, fleet.faces, unit.attribute)
    resamples = Resamples(len(labels.testing), config.resamples, config.confidence)
    judged = [_judge_attack(result, labels, len(attribute.classes), resamples) for result in results]
    attacks = tuple(attack for attack, _ in judged)
    best = min(range(len(attacks)), key=lambda place: attacks[place].tuning)
    length = UNKNOWN
    if representations:
        length = code_length(code_blocks(results[best].unit, fleet, representations), config.confidence)
    counts = np.bincount(labels.testing, minlength=len(attribute.classes))
    leak = Leak(
        tap=unit.tap,
        attribute=unit.attribute,
        classes=attribute.classes,
        class_counts=tuple(int(count) for count in counts),
        majority=float(counts.max() / counts.sum()),
        entropy=entropy(labels.fitting),
        attacks=attacks,
        best=best,
        code_length=length,
    )
    return JudgedLeak(leak, judged[best][1])


def _judge_attack(
    result: Result, labels: AttackLabels, num_classes: int, resamples: Resamples
) -> tuple[Attack, Numbers]:
    """The measures of a unit by the seed that tunes best, and which test samples that one was right about."""
    seeds = list(log_probabilities(result, labels, num_classes))
    losses = [-tuning[np.arange(len(tuning)), labels.tuning].mean() for tuning, _ in seeds]
    right = [(testing.argmax(axis=1) == labels.testing).astype(np.float64) for _, testing in seeds]
    best = int(np.argmin(losses))
    _, testing = seeds[best]
    attack = Attack(
        attacker=result.unit.attacker,
        representation=result.unit.representation,
        numbers=result.numbers,
        note=result.note,
        seeds=len(seeds),
        tuning=float(losses[best] / np.log(2)),
        spread=float(np.std([values.mean() for values in right])),
        seconds=result.seconds,
        **vars(judge(testing, labels.testing, resamples)),
    )
    return attack, right[best]
