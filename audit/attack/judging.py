"""What a fleet's answers come to: the best attacker on every tap and attribute, its measures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from privatenet.audit.attack.features import LABEL, LOGITS
from privatenet.audit.attack.findings import UNKNOWN, Attack, Leak, chosen
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
    LabelledFaces,
    Labels,
    labelled_split,
    people_in,
)
from privatenet.audit.people import Indices
from privatenet.data_shards.reading.plan import Rows
from privatenet.distributed import agree
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.threads import one_thread

BEST_OF_EACH_FOLD = "best of each fold"
"""An attack's name where folds of fresh faces have different best attackers."""


@dataclass(frozen=True)
class JudgedLeak:
    """A leak, which test samples its best attacker was right about, and who is in them: to compare networks by."""

    leak: Leak
    right: Numbers
    people: Indices


def judge_leaks(attacked: AttackResults, ranks: Ranks, with_code: bool = True) -> list[JudgedLeak]:
    """Every leak of one network, that of the predicted label where logits are attacked; without the code length, which
    costs four more fits each, unless `with_code`. All ranks call it together, share the leaks, and get all."""
    fleet = attacked.fleet
    labels = agree.each(ranks, lambda: label_results(fleet) if LOGITS in fleet.features.shapes else [])
    every = [*attacked.results, *labels]
    taps = list(dict.fromkeys(result.unit.tap for result in every))
    bounds = len(SIGNS) * len(taps) * len(fleet.folds)

    def judge(place: tuple[str, str]) -> JudgedLeak:
        results = [result for result in every if (result.unit.tap, result.unit.attribute) == place]
        return _judge_leak(results, fleet, ranks, bounds, with_code and place[0] != LABEL)

    with one_thread():
        return agree.shared(ranks, list(product(taps, fleet.config.attributes)), judge)


def log_probabilities(result: Result, labels: AttackLabels, num_classes: int) -> Iterator[tuple[Numbers, Numbers]]:
    """For every seed, calibrated log-probabilities [N, K] of the tuning and of the testing samples."""
    frequencies = class_frequencies(labels.fitting, num_classes)
    for logits in zip(result.answers.tuning, result.answers.testing, strict=True):
        tuning, testing = (values.astype(np.float64) for values in logits)
        calibration = calibrate(tuning, labels.tuning)
        yield probabilities(tuning, calibration, frequencies), probabilities(testing, calibration, frequencies)


def _judge_leak(results: list[Result], fleet: Fleet, ranks: Ranks, bounds: int, with_code: bool) -> JudgedLeak:
    """The leak of one tap and attribute."""
    config, unit = fleet.config, results[0].unit
    attribute = fleet.faces.schema.attribute(unit.attribute)
    trials = {faces: _Trial.of(splits, fleet.faces, unit.attribute) for faces, splits in fleet.folds.items()}
    labels = trials[unit.faces].labels
    people = trials[unit.faces].people
    resamples = Resamples(people, config.resamples, config.confidence, bounds=bounds)
    tuned: dict[Unit, list[_Tuned]] = {}
    for result in results:
        labels_of_fold = trials[result.unit.faces].folds[result.unit.fold]
        tuned.setdefault(replace(result.unit, fold=0), []).append(_tune(result, labels_of_fold, len(attribute.classes)))
    judged = [_judge_attack(folds, trials[unit.faces], resamples) for unit, folds in tuned.items()]
    winners = {faces: _best_of_each_fold(tuned, faces) for faces in trials}
    judged += [_judge_attack(folds, trials[faces], resamples) for faces, folds in winners.items() if _differ(folds)]
    attacks = tuple(attack for attack, _ in judged)
    best = max(chosen(attacks).values(), key=lambda place: attacks[place].excess.value)
    winner = replace(winners[attacks[best].faces][0].result.unit, fold=0)
    length = code_length(code_blocks(winner, fleet, ranks), config.confidence) if with_code else UNKNOWN
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
    def of(cls, splits: Sequence[AttackSplit], faces: LabelledFaces, attribute: str) -> "_Trial":
        known = [labelled_split(split, faces, attribute) for split in splits]
        rows = np.concatenate([subset.testing for subset, _ in known])
        order = np.argsort(rows)
        labels = np.concatenate([labels.testing for _, labels in known])[order]
        return cls([labels for _, labels in known], labels, people_in(faces, rows[order]), order)


@dataclass(frozen=True)
class _Tuned:
    """What a unit answers about the test samples of its fold, by the seed that tunes best: log-probabilities [N, K],
    with which tuning cross-entropy; and by seed which samples it is right about, bool [N]."""

    result: Result
    loss: float
    answers: Numbers
    right: list[npt.NDArray[np.bool_]]


def _tune(result: Result, labels: AttackLabels, num_classes: int) -> _Tuned:
    seeds = list(log_probabilities(result, labels, num_classes))
    losses = [-tuning[np.arange(len(tuning)), labels.tuning].mean() for tuning, _ in seeds]
    best = int(np.argmin(losses))
    right = [testing.argmax(axis=1) == labels.testing for _, testing in seeds]
    return _Tuned(result, float(losses[best]), seeds[best][1], right)


def _best_of_each_fold(tuned: Mapping[Unit, Sequence[_Tuned]], faces: str) -> list[_Tuned]:
    """In every fold the unit that tunes best there: a fold's tuning samples are other folds' test samples, and chosen
    by all folds together an attacker would be judged on samples that it was chosen by."""
    units = [folds for unit, folds in tuned.items() if unit.faces == faces]
    return [min(fold, key=lambda each: (math.isnan(each.loss), each.loss)) for fold in zip(*units, strict=True)]


def _differ(folds: Sequence[_Tuned]) -> bool:
    return len({replace(fold.result.unit, fold=0) for fold in folds}) > 1


def _judge_attack(folds: Sequence[_Tuned], trial: _Trial, resamples: Resamples) -> tuple[Attack, Numbers]:
    """The measures of a unit over its folds, or of several that were chosen by fold; and which test samples were
    answered rightly."""
    log_p = np.concatenate([fold.answers for fold in folds])[trial.order]
    first, several = folds[0].result, _differ(folds)
    attack = Attack(
        attacker=BEST_OF_EACH_FOLD if several else first.unit.attacker,
        representation="" if several else first.unit.representation,
        faces=first.unit.faces,
        numbers=max(fold.result.numbers for fold in folds),
        note="" if several else first.note,
        seeds=len(first.answers.testing),
        tuning=float(np.mean([fold.loss for fold in folds]) / np.log(2)),
        spread=float(np.concatenate([fold.right for fold in folds], axis=1).mean(axis=1).std()),
        seconds=sum(fold.result.seconds for fold in folds),
        **vars(judge(log_p, trial.labels, resamples)),
    )
    return attack, (log_p.argmax(axis=1) == trial.labels).astype(np.float64)
