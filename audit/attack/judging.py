"""What a fleet's answers come to: the best attacker on every tap and attribute, its measures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from privatenet.audit.attack.features import LABEL, LOGITS
from privatenet.audit.attack.findings import Attack, Estimate, Leak, chosen
from privatenet.audit.attack.fleet import AttackResults, Fleet, Result, Unit
from privatenet.audit.attack.intervals import Numbers, Resamples
from privatenet.audit.attack.label import label_results
from privatenet.audit.attack.measures import (
    SIGNS,
    calibrate,
    class_frequencies,
    code_length,
    entropy,
    judge,
    probabilities,
)
from privatenet.audit.attack.online import code_blocks
from privatenet.audit.attack.samples import (
    AttackLabels,
    AttackSplit,
    Labels,
    Representation,
    labelled_split,
    people_in,
)
from privatenet.audit.people import Indices
from privatenet.data_shards.reading.plan import Rows
from privatenet.distributed.faces import Faces

UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class JudgedLeak:
    """A leak, which test samples its best attacker was right about, and who is in them: to compare networks by."""

    leak: Leak
    right: Numbers
    people: Indices


def judge_leaks(attacked: AttackResults, with_code: bool = True) -> list[JudgedLeak]:
    """Every leak of one network, that of the predicted label where logits are attacked; without the code length, which
    costs four more fits each, unless `with_code`."""
    fleet, leaks = attacked.fleet, []
    every = [*attacked.results, *(label_results(fleet) if LOGITS in fleet.features.shapes else ())]
    taps = list(dict.fromkeys(result.unit.tap for result in every))
    for tap in taps:
        by_kind = cache(partial(_representations, fleet))
        for attribute in fleet.config.attributes:
            results = [r for r in every if (r.unit.tap, r.unit.attribute) == (tap, attribute)]
            bounds = len(SIGNS) * len(taps) * len(fleet.folds)
            leaks.append(_judge_leak(results, fleet, bounds, by_kind if with_code and tap != LABEL else None))
    return leaks


def log_probabilities(result: Result, labels: AttackLabels, num_classes: int) -> Iterator[tuple[Numbers, Numbers]]:
    """For every seed, calibrated log-probabilities [N, K] of the tuning and of the testing samples."""
    frequencies = class_frequencies(labels.fitting, num_classes)
    for logits in zip(result.answers.tuning, result.answers.testing, strict=True):
        tuning, testing = (values.astype(np.float64) for values in logits)
        calibration = calibrate(tuning, labels.tuning)
        yield probabilities(tuning, calibration, frequencies), probabilities(testing, calibration, frequencies)


def _representations(fleet: Fleet, tap: str, faces: str) -> Mapping[str, Representation]:
    """Those of a tap by their kind, by the samples of the first fold."""
    unit = next(unit for unit in fleet.units() if (unit.tap, unit.faces, unit.fold) == (tap, faces, 0))
    return {representation.kind: representation for representation in fleet.representations(unit)}


def _judge_leak(
    results: list[Result], fleet: Fleet, bounds: int,
    representations: Callable[[str, str], Mapping[str, Representation]] | None,
) -> JudgedLeak:  # fmt: skip
    """The leak of one tap and attribute; with a code length where its tap's `representations` are there to ask for."""
    config, unit = fleet.config, results[0].unit
    attribute = fleet.faces.schema.attribute(unit.attribute)
    trials = {faces: _Trial.of(splits, fleet.faces, unit.attribute) for faces, splits in fleet.folds.items()}
    labels = trials[unit.faces].labels
    people = trials[unit.faces].people
    resamples = Resamples(people, config.resamples, config.confidence, bounds=bounds)
    attempts: dict[Unit, list[Result]] = {}
    for result in results:
        attempts.setdefault(replace(result.unit, fold=0), []).append(result)
    judged = [
        _judge_attack(folds, trials[unit.faces], len(attribute.classes), resamples) for unit, folds in attempts.items()
    ]
    attacks = tuple(attack for attack, _ in judged)
    best = max(chosen(attacks).values(), key=lambda place: attacks[place].excess.value)
    winner = list(attempts)[best]
    length = UNKNOWN
    if representations:
        known = partial(representations, winner.tap, winner.faces)
        length = code_length(code_blocks(winner, fleet, known), config.confidence)
    counts = np.bincount(labels, minlength=len(attribute.classes))
    leak = Leak(
        tap=unit.tap,
        attribute=unit.attribute,
        classes=attribute.classes,
        class_counts=tuple(int(count) for count in counts),
        majority=float(counts.max() / counts.sum()),
        entropy=entropy(trials[winner.faces].folds[0].fitting),
        attacks=attacks,
        best=best,
        code_length=length,
    )
    return JudgedLeak(leak, judged[best][1], people)


@dataclass(frozen=True)
class _Trial:
    """The labels of each fold; of all judged samples in order the labels, who is in them, and where in the folds'
    answers they are."""

    folds: list[AttackLabels]
    labels: Labels
    people: Indices
    order: Rows

    @classmethod
    def of(cls, splits: Sequence[AttackSplit], faces: Faces, attribute: str) -> "_Trial":
        known = [labelled_split(split, faces, attribute) for split in splits]
        rows = np.concatenate([subset.testing for subset, _ in known])
        order = np.argsort(rows)
        labels = np.concatenate([labels.testing for _, labels in known])[order]
        return cls([labels for _, labels in known], labels, people_in(faces, rows[order]), order)


def _judge_attack(
    results: Sequence[Result], trial: _Trial, num_classes: int, resamples: Resamples
) -> tuple[Attack, Numbers]:
    """The measures of a unit over its folds, by the seed that tunes best, and which test samples it was right about."""
    losses, answers, right = [], [], []
    for result, labels in zip(results, trial.folds, strict=True):
        seeds = list(log_probabilities(result, labels, num_classes))
        by_seed = [-tuning[np.arange(len(tuning)), labels.tuning].mean() for tuning, _ in seeds]
        best = int(np.argmin(by_seed))
        losses.append(by_seed[best])
        answers.append(seeds[best][1])
        right.append([testing.argmax(axis=1) == labels.testing for _, testing in seeds])
    log_p = np.concatenate(answers)[trial.order]
    first = results[0]
    attack = Attack(
        attacker=first.unit.attacker,
        representation=first.unit.representation,
        faces=first.unit.faces,
        numbers=first.numbers,
        note=first.note,
        seeds=len(first.answers.testing),
        tuning=float(np.mean(losses) / np.log(2)),
        spread=float(np.concatenate(right, axis=1).mean(axis=1).std()),
        seconds=sum(result.seconds for result in results),
        **vars(judge(log_p, trial.labels, resamples)),
    )
    return attack, (log_p.argmax(axis=1) == trial.labels).astype(np.float64)
