"""Measures of leakage, each with its interval: pure functions of an attacker's answers and the truth.

An attribute is said to leak where any of many figures surely tells something: the `SIGNS` of the best attacker at every
tap, on each kind of faces. Each has a lower bound (`Estimate.bound`) of a confidence so high that all of them hold
together (Bonferroni): where nothing tells anything, one of them is wrong in at most 5 % of audits at 95 %.

Intervals count people, see intervals.py. A class without samples is left out of what it would make undefined, and a
measure that nothing defines is NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.metrics import confusion_matrix

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.attack.intervals import Numbers, Resamples, share
from privatenet.audit.attack.samples import Labels
from privatenet.audit.people import Indices, number_people

SIGNS = ("accuracy", "bits", "balanced", "auc")
"""By which figures an attack may tell something: excess accuracy, usable bits, balanced accuracy, AUC."""

FLOOR = 1e-3
"""Share of the fitting samples' class frequencies in every calibrated answer: nothing is ever impossible."""


def calibrate(tuning: Numbers, labels: Labels) -> tuple[float, Numbers]:
    """A temperature and a bias per class that make logits [N, K] into probabilities, fitted on the tuning samples.

    Guo et al., "On calibration of modern neural networks", ICML 2017; a light pull towards no change keeps classes
    with hardly a sample from running away.
    """
    classes = tuning.shape[1]
    truth = np.eye(classes)[labels]

    def loss(parameters: Numbers) -> tuple[float, Numbers]:
        scale, bias = np.exp(parameters[0]), parameters[1:]
        log_p = log_softmax(scale * tuning + bias, axis=1)
        wrong: Numbers = (np.exp(log_p) - truth) / len(labels)
        gradient = np.concatenate([[float((wrong * tuning).sum()) * scale], wrong.sum(axis=0)])
        pull = 1e-3 * parameters
        return float(-(log_p * truth).sum() / len(labels) + 0.5 * (pull @ parameters)), gradient + pull

    fitted = minimize(
        loss, np.zeros(classes + 1), jac=True, method="L-BFGS-B", bounds=[(-7, 7)] + [(-20, 20)] * classes
    )
    return float(np.exp(fitted.x[0])), fitted.x[1:]


def probabilities(logits: Numbers, calibration: tuple[float, Numbers], frequencies: Numbers) -> Numbers:
    """Calibrated log-probabilities [N, K] of logits [N, K]."""
    scale, bias = calibration
    answers: Numbers = np.log((1 - FLOOR) * np.exp(log_softmax(scale * logits + bias, axis=1)) + FLOOR * frequencies)
    return answers


def class_frequencies(labels: Labels, classes: int) -> Numbers:
    """Of the fitting samples, every class counted once more than it occurs (Laplace): none is impossible."""
    shares: Numbers = (np.bincount(labels, minlength=classes) + 1) / (len(labels) + classes)
    return shares


@dataclass(frozen=True)
class Judgement:
    """All measures of one attacker's answers."""

    accuracy: Estimate
    excess: Estimate
    balanced_accuracy: Estimate
    auc: Estimate
    bits: Estimate
    confusion: tuple[tuple[int, ...], ...]


def judge(log_p: Numbers, labels: Labels, resamples: Resamples) -> Judgement:
    """Measure log-probabilities [N, K] against int64 labels [N] of the test samples."""
    classes = log_p.shape[1]
    answers = log_p.argmax(axis=1)
    right = (answers == labels).astype(np.float64)
    counts = np.bincount(labels, minlength=classes)
    majority = (labels == counts.argmax()).astype(np.float64)
    matrix = confusion_matrix(labels, answers, labels=np.arange(classes))
    return Judgement(
        accuracy=share(right, resamples.people, resamples.confidence),
        excess=resamples.mean(right - majority),
        balanced_accuracy=balanced_accuracy(right, labels, classes, resamples),
        auc=macro_auc(log_p, labels, resamples),
        bits=resamples.mean(information(log_p, labels)),
        confusion=tuple(tuple(int(count) for count in row) for row in matrix),
    )


def information(log_p: Numbers, labels: Labels) -> Numbers:
    """Bits that the answers [N, K] say about each sample's label: their mean is H(S) - cross-entropy.

    A lower bound on the mutual information (Xu et al., "A theory of usable information", ICLR 2020); H(S) is that of
    the test samples' own frequencies.
    """
    shares = np.bincount(labels, minlength=log_p.shape[1]) / len(labels)
    bits: Numbers = (log_p[np.arange(len(labels)), labels] - np.log(shares[labels])) / math.log(2)
    return bits


def balanced_accuracy(right: Numbers, labels: Labels, classes: int, resamples: Resamples) -> Estimate:
    """The mean recall over the classes that occur."""
    members = np.eye(classes)[labels]
    members = members[:, members.any(axis=0)]
    value = float((right @ members / members.sum(axis=0)).mean())
    class_weights = resamples.weights @ members
    recalls = (resamples.weights * right) @ members / np.where(class_weights, class_weights, math.nan)
    return resamples.estimate(value, _mean_defined(recalls))


def macro_auc(log_p: Numbers, labels: Labels, resamples: Resamples) -> Estimate:
    """Area under the ROC curve, one class against the rest, averaged over the classes that occur."""
    present = [k for k in range(log_p.shape[1]) if 0 < (labels == k).sum() < len(labels)]
    if not present:
        return Estimate(math.nan, math.nan, math.nan)
    unweighted = np.ones((1, len(labels)))
    areas = [[_auc(log_p[:, k], labels == k, weights) for k in present] for weights in (unweighted, resamples.weights)]
    return resamples.estimate(float(np.mean(areas[0])), _mean_defined(np.stack(areas[1], axis=1)))


def _auc(scores: Numbers, positive: npt.NDArray[np.bool_], weights: Numbers) -> Numbers:
    """Of every row of `weights` [B, N]: the share of (positive, negative) pairs in order, ties counting half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    ordered = weights[:, order]
    positives = np.add.reduceat(ordered * positive[order], starts, axis=1)
    negatives = np.add.reduceat(ordered * ~positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    areas: Numbers = (positives * below).sum(axis=1) / np.where(pairs, pairs, math.nan)
    return areas


def _mean_defined(values: Numbers) -> Numbers:
    """Row means of what is not NaN; NaN for a row of nothing else."""
    defined = np.isfinite(values)
    count = defined.sum(axis=1)
    means: Numbers = np.where(defined, values, 0).sum(axis=1) / np.where(count, count, math.nan)
    return means


def entropy(labels: Labels) -> float:
    """H(S) in bits of the labels' own frequencies."""
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def code_length(blocks: Sequence[tuple[Numbers, Labels, Indices]], confidence: float = 0.95) -> Estimate:
    """Online code length in bits a label: what it costs to send labels block by block (Voita and Titov, EMNLP 2020).

    `blocks` are (log-probabilities [n, K], labels [n], persons [n], -1 where unknown) of consecutive blocks, each
    answered by an attacker that has learnt from those before it, the first one by the uniform code.
    """
    costs = np.concatenate([-log_p[np.arange(len(labels)), labels] for log_p, labels, _ in blocks]) / math.log(2)
    people = number_people(np.concatenate([persons for *_, persons in blocks]))
    return Resamples(people, 400, confidence).mean(costs)
