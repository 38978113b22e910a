"""Measures against scikit-learn, statistics and arithmetic, and intervals against what they promise."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from audited import GENDER, findings, leak
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from privatenet.audit.attack.findings import read_findings, write_findings
from privatenet.audit.attack.intervals import Resamples, recorded_accuracy, share, wilson
from privatenet.audit.attack.judging import JudgedLeak
from privatenet.audit.attack.measures import (
    calibrate,
    class_frequencies,
    code_length,
    entropy,
    judge,
    probabilities,
)
from privatenet.audit.attack.relative import above_floor, leakage_left
from privatenet.audit.attack.utility import utility
from privatenet.audit.errors import AuditError
from privatenet.audit.settings import AuditConfig


def answers(samples: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of an attacker that is somewhat right, with ties, and the truth."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    logits = np.round(rng.normal(size=(samples, classes)) + np.eye(classes)[labels], 1)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), labels


@pytest.mark.parametrize("classes", [2, 5])
def test_measures_are_those_that_scikit_learn_computes(classes: int) -> None:
    log_p, labels = answers(400, classes)
    judged = judge(log_p, labels, Resamples(np.arange(400)))
    predicted = log_p.argmax(axis=1)
    assert judged.accuracy.value == pytest.approx((predicted == labels).mean())
    assert judged.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(labels, predicted))
    scores = np.exp(log_p[:, 1]) if classes == 2 else np.exp(log_p)
    # Rounding breaks ties in one class's column that are ties in the other's.
    assert judged.auc.value == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"), abs=1e-3)
    bits = entropy(labels) - log_loss(labels, np.exp(log_p)) / math.log(2)
    assert judged.bits.value == pytest.approx(bits)
    assert judged.excess.value == pytest.approx((predicted == labels).mean() - np.bincount(labels).max() / 400)
    assert sum(map(sum, judged.confusion)) == 400


def test_the_auc_counts_ties_as_half() -> None:
    log_p = np.log(np.array([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]))
    judged = judge(log_p, np.array([0, 1, 1, 0]), Resamples(np.arange(4)))
    assert judged.auc.value == pytest.approx(7 / 8)


@pytest.mark.parametrize("right", [0, 1, 37, 99, 100])
def test_wilsons_interval_is_the_published_one(right: int) -> None:
    published = binomtest(right, 100).proportion_ci(0.95, method="wilson")
    answers = (np.arange(100) < right).astype(np.float64)
    for ours in (
        share(answers, np.arange(100)),
        recorded_accuracy({"accuracy": right / 100, "samples": 100}, np.arange(100)),
    ):
        assert (ours.low, ours.value, ours.high) == pytest.approx((published.low, right / 100, published.high))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 120 draws of an attacker that is right with chance 0.7, within three standard deviations of 95 %."""
    held = np.zeros(4)
    truth = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        labels = (rng.random(300) < 0.5).astype(np.int64)
        flip = rng.random(300) < 0.3
        answer = labels ^ flip
        log_p = np.log(np.where(np.eye(2)[answer] > 0, 0.7, 0.3))
        judged = judge(log_p, labels, Resamples(np.arange(300), 300))
        truth = [0.7, 0.7, 0.7, 1 - (-0.7 * math.log2(0.7) - 0.3 * math.log2(0.3))]
        for place, estimate in enumerate((judged.accuracy, judged.balanced_accuracy, judged.auc, judged.bits)):
            held[place] += estimate.low <= truth[place] <= estimate.high
    assert (held / 120 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 120)).all(), held


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("right", [0.6, 0.9])
def test_pictures_of_one_person_are_taken_for_independent(right: float, same: bool) -> None:
    """Of 300 draws of 200 people with 1 to 33 pictures each, mostly few, who are right more or less often, or always
    or never: an interval holds the truth in 93 % or more; by pictures it would in less than 85 %."""
    held = dict.fromkeys(("people", "recorded", "pictures"), 0)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        people = np.repeat(np.arange(200), np.minimum(rng.zipf(2, 200), 33))
        own = rng.random(200) < right if same else rng.beta(right, 1 - right, 200)
        answers = (rng.random(len(people)) < own[people]).astype(np.float64)
        score = {"accuracy": answers.mean(), "samples": len(people)}
        estimates = {
            "people": share(answers, people),
            "recorded": recorded_accuracy(score, people),
            "pictures": wilson(answers.mean(), len(people)),
        }
        for name, estimate in estimates.items():
            held[name] += estimate.low <= right <= estimate.high
    assert held["people"] >= 0.93 * 300
    assert held["recorded"] >= 0.93 * 300
    assert held["pictures"] < 0.85 * 300


def test_a_bound_of_a_verdict_is_of_pictures() -> None:
    """Where everybody has five, all answered alike, it is as far off as that of a fifth of them, each taken once."""
    right = (np.random.default_rng(0).random(200) < 0.7).astype(np.float64)
    once = Resamples(np.arange(200), 300, bounds=24).mean(right)
    often = Resamples(np.arange(1000) // 5, 300, bounds=24).mean(np.repeat(right, 5))
    assert (often.value, often.low, often.high, often.bound) == pytest.approx(
        (once.value, once.low, once.high, once.bound)
    )


def test_the_leakage_that_is_left_is_of_other_pictures_than_the_whole() -> None:
    """An attacker who is right where the unprotected network's is, above the floor, in a third of the people: a third
    is left, and its interval is that of which people these are, not that of two figures apart."""
    people = np.arange(900) // 3
    floor, whole = np.zeros(900), (people % 10 < 9).astype(np.float64)
    excess = whole * (people % 3 == 0)
    left = leakage_left(excess - floor, whole - floor, Resamples(people, 400))
    assert left is not None
    assert left.value == pytest.approx(1 / 3)
    half = 1.96 * math.sqrt(1 / 3 * 2 / 3 / 270)
    assert (left.low, left.high) == pytest.approx((1 / 3 - half, 1 / 3 + half), abs=0.012)
    same = leakage_left(whole, whole, Resamples(people, 100))
    assert same is not None
    assert (same.low, same.value, same.high) == (1, 1, 1)
    below = leakage_left(-whole / 10, whole, Resamples(people, 100))
    assert below is not None
    assert below.high < 0
    assert leakage_left(excess, np.tile([1.0, -1.0, 0.0], 300), Resamples(people, 100)) is None


def test_what_is_read_beyond_the_target_is_claimed_at_a_tap_that_tells_no_more() -> None:
    """Five taps whose attackers are as often right as the floor is: in at most one audit of twenty one is above it."""
    rng, people, config = np.random.default_rng(0), np.arange(300), AuditConfig(resamples=200)
    claims = 0
    for _ in range(200):
        floor = (rng.random(300) < 0.6).astype(np.float64)
        floor[:20] = np.nan
        equal = [(rng.random(300) < 0.6).astype(np.float64) for _ in range(5)]
        taps = [
            JudgedLeak(leak(f"layer{tap}", "gender", GENDER, 0.1), right, people) for tap, right in enumerate(equal)
        ]
        above = [judged.leak.above for judged in above_floor(taps, {"gender": floor}, config)]
        claims += any(one is not None and one.bound is not None and one.bound > 0 for one in above)
    assert claims <= 0.08 * 200
    (known,) = above_floor(
        [JudgedLeak(leak("arm", "gender", GENDER, 0.1), np.ones(300), people)], {"gender": floor}, config
    )
    assert known.leak.above is not None
    assert known.leak.above.value == pytest.approx(1 - np.nanmean(floor))
    assert above_floor(taps, {}, config) == taps


def test_the_utility_of_a_noisy_network_is_luck() -> None:
    """The mean over draws of the noise and over faces whose target is known; a face is as one, however often drawn."""
    labels = np.array([[0], [1], [1], [-1]])
    split = SimpleNamespace(labels=labels, persons=np.full(4, -1))
    empty = SimpleNamespace(labels=labels[:0], persons=split.persons[:0])
    faces: Any = SimpleNamespace(train=empty, test=split, schema=SimpleNamespace(names=["emotion"], target="emotion"))
    answers = np.eye(2)[[[0, 0], [1, 0], [0, 0], [0, 1]]]
    estimate, majority = utility(answers.astype(np.float32), faces, np.arange(4), 0.95)
    assert (estimate.value, majority) == (0.5, pytest.approx(2 / 3))
    assert (estimate.low, estimate.high) == pytest.approx((wilson(0.5, 3).low, wilson(0.5, 3).high))


def test_a_class_that_does_not_occur_leaves_every_measure_defined_and_one_sample_is_no_crash() -> None:
    log_p, labels = answers(60, 4)
    labels[labels == 3] = 0
    judged = judge(log_p, labels, Resamples(np.arange(60)))
    for estimate in (judged.balanced_accuracy, judged.auc, judged.bits, judged.excess):
        assert estimate.low <= estimate.value <= estimate.high
    alone = judge(log_p[:1], labels[:1], Resamples(np.arange(1)))
    assert math.isnan(alone.auc.value)
    assert alone.balanced_accuracy.value in (0.0, 1.0)
    assert math.isnan(share(np.zeros(0), np.arange(0)).value)


def test_calibration_mends_an_overconfident_attacker_and_never_says_never() -> None:
    log_p, labels = answers(2000, 3)
    loud = 10 * log_p
    frequencies = class_frequencies(labels, 3)
    mended = probabilities(loud, calibrate(loud, labels), frequencies)
    assert np.allclose(np.exp(mended).sum(axis=1), 1)
    assert log_loss(labels, np.exp(mended)) < log_loss(labels, np.exp(log_p)) + 0.01
    assert np.exp(mended).min() > 1e-4


def test_code_length_is_the_labels_entropy_for_an_attacker_that_knows_only_their_frequencies() -> None:
    labels = np.repeat([0, 1], [300, 100])
    log_p = np.log(np.tile([0.75, 0.25], (400, 1)))
    strangers = np.full(400, -1)
    length = code_length([(log_p[:50], labels[:50], strangers[:50]), (log_p[50:], labels[50:], strangers[50:])])
    assert length.value == pytest.approx(entropy(labels))
    assert length.low < length.value < length.high


def test_an_audit_reads_back_as_it_was_written_with_its_undefined_figures(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    write_findings(findings(), path)
    assert repr(read_findings(path)) == repr(findings())  # NaN is not equal to itself, but looks the same
    assert "nan" in repr(findings())


def test_a_damaged_audit_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    with pytest.raises(AuditError, match="cannot be read"):
        read_findings(path)
    path.write_text('{"version": 1}')
    with pytest.raises(AuditError, match="is no audit of version 3"):
        read_findings(path)
