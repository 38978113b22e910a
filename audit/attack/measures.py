"""Measures of leakage, each with its interval: pure functions of an attacker's answers and the truth.

An attribute is said to leak where any of many figures surely tells something: the `SIGNS` of the best attacker at every
tap, on each kind of faces. Each has a lower bound (`Estimate.bound`) of a confidence so high that all of them hold
together (Bonferroni): where nothing tells anything, one of them is wrong in at most 5 % of audits at 95 %. Resamples do
not reach so far out, so a bound is the figure minus multiples of its bootstrap deviation.

Accuracies have Wilson's score interval; everything else a percentile bootstrap over test samples, with the same
resamples for every attacker, so that differences are paired. A class without samples is left out of what it would make
undefined, and a measure that nothing defines is NaN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import norm
from sklearn.metrics import confusion_matrix

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.attack.samples import Labels

Numbers = npt.NDArray[np.float64]

SIGNS = ("accuracy", "bits", "balanced", "auc")
"""By which figures an attack may tell something: excess accuracy, usable bits, balanced accuracy, AUC."""

FLOOR = 1e-3
"""Share of the fitting samples' class frequencies in every calibrated answer: nothing is ever impossible."""


@dataclass(frozen=True)
class Resamples:
    """How often each of `samples` test samples is drawn in each of `count` bootstrap resamples.

    `bounds` is how many lower bounds have to hold together at `confidence`; 0: none is asked for.
    """

    samples: int
    count: int = 1000
    confidence: float = 0.95
    seed: int = 0
    bounds: int = 0

    @cached_property
    def weights(self) -> Numbers:
        """Float64 [count, samples]; rows sum to `samples`."""
        rng = np.random.default_rng(self.seed)
        draws = rng.multinomial(self.samples, np.full(self.samples, 1 / self.samples), size=self.count)
        return draws.astype(np.float64)

    def estimate(self, value: float, resampled: Numbers) -> Estimate:
        """`value` with the percentile interval of the same figure on every resample; undefined ones are left out."""
        defined = resampled[np.isfinite(resampled)]
        if not len(defined):
            return Estimate(value, math.nan, math.nan)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        bound = None
        if self.bounds:
            bound = value - float(norm.isf((1 - self.confidence) / self.bounds) * defined.std())
        return Estimate(value, float(low), float(high), bound)

    def mean(self, per_sample: Numbers) -> Estimate:
        """The mean of a figure per sample."""
        return self.estimate(float(per_sample.mean()), self.weights @ per_sample / self.samples)


def wilson(right: int, samples: int, confidence: float = 0.95) -> Estimate:
    """A share with Wilson's score interval (1927); NaN where there are no samples."""
    if not samples:
        return Estimate(math.nan, math.nan, math.nan)
    z = float(norm.ppf(0.5 + confidence / 2))
    share = right / samples
    centre = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return Estimate(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def recorded_accuracy(score: Mapping[str, Any], confidence: float = 0.95) -> Estimate:
    """The accuracy of a score in a checkpoint, by the count of right answers: its share is in single precision."""
    return wilson(round(score["accuracy"] * score["samples"]), score["samples"], confidence)


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
        accuracy=wilson(int(right.sum()), len(labels), resamples.confidence),
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


def code_length(blocks: Sequence[tuple[Numbers, Labels]], confidence: float = 0.95) -> Estimate:
    """Online code length in bits a label: what it costs to send labels block by block (Voita and Titov, EMNLP 2020).

    `blocks` are (log-probabilities [n, K], labels [n]) of consecutive blocks, each answered by an attacker that has
    learnt from those before it, the first one by the uniform code. The interval is over labels.
    """
    costs = np.concatenate([-log_p[np.arange(len(labels)), labels] for log_p, labels in blocks]) / math.log(2)
    return Resamples(len(costs), 400, confidence).mean(costs)
