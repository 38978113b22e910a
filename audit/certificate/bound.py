"""A bound on the accuracy of every adversary, whatever it knows and computes, from n people used for nothing else.

A release u of picture x has density q(u|x). Person j, drawn independently from the population, has weight W_j = 1 / n,
spread evenly over their m_j pictures x_i. With h_j(s, u) = sum of q(u|x_i) / m_j over those with label s:
    V     = integral of max_s E h(s, u) du           the best adversary, a random picture of a random person
    V_hat = integral of max_s sum_j W_j h_j(s, u) du
Jensen: max is convex, so E V_hat >= V. McDiarmid: the integral of h_j over s and u is 1 whatever the labels of j's
pictures, so another person in j's place moves V_hat by at most W_j; m draws of u estimate V_hat with values in [0, 1].
Both errors are sub-Gaussian, the second one given the people, so their variance proxies add up (no delta is split):
    P[V <= estimate + sqrt(ln(1 / delta) / 2 (sum_j W_j^2 + 1 / m))] >= 1 - delta
The noise of a release is taken to be secret, and as random as it says.
Balanced form (mean recall over classes): the same with W_j = 1 / (classes people_in_class), given every person's class.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from privatenet.audit.errors import AuditError
from privatenet.audit.people import Indices, number_people, persons_or_unknown

Numbers = npt.NDArray[np.float64]

FEWEST_PEOPLE = 20
MOST_NUMBERS = 16
"""Numbers in a noisy vector: in more dimensions hardly two pictures' releases overlap, and the bound comes near 1."""

_PAIRS = 2**20
"""Pairs of a draw and a picture held at once: 8 MiB."""


@dataclass(frozen=True)
class Certificate:
    """What no adversary exceeds with the stated confidence; `bound` and `balanced` each hold with it, not both at once.

    Args:
        estimate: V_hat, the best adversary's accuracy if the people were the whole population.
        slack: What chance may have hidden.
        bound: On the accuracy of any adversary, 1 at most.
        balanced: Bound on the mean recall over the classes that occur. A person belongs to the class of most of their
            pictures (the lower one of two equals), and their pictures with another label are left out.
        tv: Of two classes, the bound on the total variation between their releases, 2 balanced - 1; otherwise None.
        fewest: People of the class that has fewest of them: of a handful, `balanced` says little.
        majority: Accuracy of always naming the commonest class.
        confidence: 1 - delta.
        people: The n of the slack.
        pictures: How many they have together.
        unidentified: Pictures whose person is unknown, each taken for a person of its own: an assumption.
        channel: What is released: a code, or a vector with Gaussian noise.
        releases: Releases of one picture that an adversary may combine; of codes, the one that was drawn.
        draws: Of the Monte Carlo estimate; 0 where the integral is a finite sum.
    """

    estimate: float
    slack: float
    bound: float
    balanced: float
    tv: float | None
    fewest: int
    majority: float
    confidence: float
    people: int
    pictures: int
    unidentified: int
    channel: Literal["codes", "gaussian"]
    releases: int
    draws: int


def certify_codes(codes: Indices, labels: Indices, persons: Indices | None, confidence: float) -> Certificate:
    """Certify a release of one of finitely many codes, int64 [N]; a predicted label alone is one.

    `labels` are int64 [N] from 0; `persons` int64 [N], -1 where unknown; None: all are. Raises `AuditError` for unknown
    labels and fewer than 20 people.
    """
    return _certify(partial(_code_accuracy, codes, labels), labels, persons, confidence, "codes")


def code_accuracy(codes: Indices, labels: Indices, persons: Indices | None) -> float:
    """How often the best guess from a code alone, int64 [N], is right of these very people, each alike in weight."""
    person = number_people(persons_or_unknown(persons, len(labels)))
    return _code_accuracy(codes, labels, _alike(person))


def certify_gaussian(
    centres: Numbers,
    sigma: float,
    labels: Indices,
    persons: Indices | None,
    confidence: float,
    draws: int,
    seed: int,
    releases: int = 1,
) -> Certificate:
    """Certify `releases` of `centres` [N, d], each with fresh noise N(0, sigma^2 I); their mean tells all of them.

    Labels, persons and errors as in `certify_codes`; also raises `AuditError` for a vector without noise, which is no
    channel, and for more than 16 numbers.
    """
    if not (0 < sigma < math.inf):
        raise AuditError(
            f"sigma {sigma:g}: a vector without noise cannot be certified; accepted: sigma above 0, or codes"
        )
    if centres.shape[1] > MOST_NUMBERS:
        raise AuditError(
            f"a vector of {centres.shape[1]:,} numbers cannot be certified: the bound comes near 1 in so many "
            f"dimensions; accepted: at most {MOST_NUMBERS}, or codes"
        )
    if not np.isfinite(centres).all():
        raise AuditError("the vectors to be certified hold NaN or infinity; accepted: finite numbers")
    if releases < 1 or draws < 1:
        raise AuditError(f"{releases} releases, {draws} draws; accepted: 1 or more of each")
    scaled = centres * (math.sqrt(releases) / sigma)

    def accuracy(weights: Numbers) -> float:
        return _mixture_accuracy(scaled, labels, weights, draws, seed)

    return _certify(accuracy, labels, persons, confidence, "gaussian", releases, draws)


def _certify(
    accuracy: Callable[[Numbers], float],
    labels: Indices,
    persons: Indices | None,
    confidence: float,
    channel: Literal["codes", "gaussian"],
    releases: int = 1,
    draws: int = 0,
) -> Certificate:
    """Certify a channel by the best adversary's `accuracy` on pictures of given weights [N], which sum to 1."""
    if not 0 < confidence < 1:
        raise AuditError(f"confidence {confidence:g}; accepted: between 0 and 1, for example 0.95")
    if (labels < 0).any():
        raise AuditError(f"{(labels < 0).sum():,} of {len(labels):,} labels are unknown; accepted: labels from 0")
    known = persons_or_unknown(persons, len(labels))
    person = number_people(known)
    people = int(person.max(initial=-1)) + 1
    if people < FEWEST_PEOPLE:
        raise AuditError(f"{people} people are too few for a certificate; accepted: {FEWEST_PEOPLE} or more")

    def bound(weights: Numbers) -> tuple[float, float]:
        spread = float((np.bincount(person, weights) ** 2).sum()) + (1 / draws if draws else 0.0)
        return accuracy(weights), math.sqrt(-math.log(1 - confidence) / 2 * spread)

    alike = _alike(person)
    estimate, slack = bound(alike)
    home = _home(labels, person)
    balanced = min(1.0, sum(bound(_balanced_weights(labels, person, home))))
    return Certificate(
        estimate=estimate,
        slack=slack,
        bound=min(1.0, estimate + slack),
        balanced=balanced,
        tv=2 * balanced - 1 if len(np.unique(labels)) == 2 else None,
        fewest=int(np.unique(home, return_counts=True)[1].min()),
        majority=float(np.bincount(labels, alike).max()),
        confidence=confidence,
        people=people,
        pictures=len(labels),
        unidentified=int((known < 0).sum()),
        channel=channel,
        releases=releases,
        draws=draws,
    )


def _alike(person: Indices) -> Numbers:
    """Weights [N] of pictures that sum to 1, every one of the persons 0 to P - 1 alike."""
    pictures = np.bincount(person)
    weights: Numbers = 1 / (len(pictures) * pictures[person])
    return weights


def _home(labels: Indices, person: Indices) -> Indices:
    """Each person's class: that of most of their pictures, the lower one of two equals."""
    home: Indices = _table(person, labels, np.ones(len(labels))).argmax(axis=1)
    return home


def _balanced_weights(labels: Indices, person: Indices, home: Indices) -> Numbers:
    """Float64 [N], sum 1: every class alike, in it every person, of theirs every picture with the class's label."""
    members, alike = np.bincount(home), labels == home[person]
    pictures = np.bincount(person, alike)
    weights: Numbers = alike / (np.count_nonzero(members) * members[home] * pictures)[person]
    return weights


def _table(rows: Indices, labels: Indices, weights: Numbers) -> Numbers:
    """Sum of weights [N] in each of [rows, classes]."""
    shape = (rows.max() + 1, labels.max() + 1)
    return np.bincount(np.ravel_multi_index((rows, labels), shape), weights, minlength=math.prod(shape)).reshape(shape)


def _code_accuracy(codes: Indices, labels: Indices, weights: Numbers) -> float:
    code = np.unique(codes, return_inverse=True)[1]
    return float(_table(code, labels, weights).max(axis=1).sum())


def _mixture_accuracy(centres: Numbers, labels: Indices, weights: Numbers, draws: int, seed: int) -> float:
    """Mean of max_s p(s|u) over draws u of the mixture of N(centre, I), centres [N, d] of weights [N].

    A draw is near its own centre, so that the density never underflows as a whole and needs no logarithm.
    """
    rng = np.random.default_rng(seed)
    members = np.zeros((len(labels), labels.max() + 1))
    members[np.arange(len(labels)), labels] = weights
    releases = centres[rng.choice(len(centres), draws, p=weights)] + rng.standard_normal((draws, centres.shape[1]))
    total = 0.0
    for chunk in np.array_split(releases, math.ceil(draws * len(centres) / _PAIRS)):
        density = np.exp(cdist(chunk, centres, "sqeuclidean") / -2) @ members
        total += float((density.max(axis=1) / density.sum(axis=1)).sum())
    return total / draws
