"""Intervals of figures on faces of which some show the same person: people are counted, and not their pictures.

A share has Wilson's score interval (1927) at an effective number of samples, n / deff, with Kish's design effect
deff = 1 + (m - 1) rho (Survey Sampling, 1965). m is how many pictures there are of the person in a picture, in the mean
over pictures, and rho how alike the answers about one person are, from an analysis of variance, 0 to 1.

Everything else has a percentile bootstrap over people, with the same resamples for every attacker, so that differences
are paired. Resamples do not reach far out: a lower bound of a verdict (`Estimate.bound`) is the figure minus multiples
of its bootstrap deviation. Where no persons are known every picture is of its own, and both are the ordinary ones.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.people import Indices

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Resamples:
    """How often each test sample is drawn in each of `count` bootstrap resamples of the people.

    `people` says who is in a sample, int64 [N], numbered from 0. `bounds` is how many lower bounds have to hold
    together at `confidence` (Bonferroni); 0: none is asked for.
    """

    people: Indices
    count: int = 1000
    confidence: float = 0.95
    seed: int = 0
    bounds: int = 0

    @cached_property
    def weights(self) -> Numbers:
        """Float64 [count, N]; all pictures of a person are drawn together."""
        people = int(self.people.max()) + 1
        draws = np.random.default_rng(self.seed).multinomial(people, np.full(people, 1 / people), size=self.count)
        return draws.astype(np.float64)[:, self.people]

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

    def means(self, per_sample: Numbers) -> Numbers:
        """The mean of a figure per sample [N] in every resample, [count]."""
        means: Numbers = self.weights @ per_sample / self.weights.sum(axis=1)
        return means

    def mean(self, per_sample: Numbers) -> Estimate:
        """The mean of a figure per sample."""
        return self.estimate(float(per_sample.mean()), self.means(per_sample))


def share(values: Numbers, people: Indices, confidence: float = 0.95) -> Estimate:
    """The mean of `values` [N], each of them a share from 0 to 1, of samples of `people`; NaN where there are none."""
    if not len(values):
        return wilson(math.nan, 0)
    return wilson(float(values.mean()), len(values) / _design_effect(values, people), confidence)


def recorded_accuracy(score: Mapping[str, Any], people: Indices, confidence: float = 0.95) -> Estimate:
    """The accuracy of a score in a checkpoint, on a split of `people`: how alike answers about one person are it does
    not say, so that they are taken for all the same.

    The right answers are counted anew, as its share is in single precision.
    """
    samples = score["samples"]
    right = round(score["accuracy"] * samples) / samples if samples else math.nan
    return wilson(right, samples / _pictures(people), confidence)


def wilson(share: float, samples: float, confidence: float = 0.95) -> Estimate:
    """A share of so many independent samples with Wilson's score interval; NaN where there are none."""
    if not samples:
        return Estimate(math.nan, math.nan, math.nan)
    z = float(norm.ppf(0.5 + confidence / 2))
    centre = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return Estimate(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def _design_effect(values: Numbers, people: Indices) -> float:
    """How many dependent samples are worth as much as one independent one."""
    return 1 + (_pictures(people) - 1) * _correlation(values, people)


def _pictures(people: Indices) -> float:
    """Of the person in a picture, in the mean over pictures."""
    counts = np.bincount(people)
    return float((counts**2).sum() / counts.sum()) if len(people) else 1.0


def _correlation(values: Numbers, people: Indices) -> float:
    """Within people, by a one-way analysis of variance (Fisher, 1925), 0 to 1; 1 where nothing varies within anybody,
    for example where all are right."""
    counts, samples = np.bincount(people), len(values)
    means = np.bincount(people, values) / counts
    between = float(counts @ (means - values.mean()) ** 2) / max(1, len(counts) - 1)
    within = float(((values - means[people]) ** 2).sum()) / max(1, samples - len(counts))
    typical = (samples - _pictures(people)) / max(1, len(counts) - 1)
    total = between + (typical - 1) * within
    return min(1.0, max(0.0, (between - within) / total)) if within and total > 0 else 1.0
