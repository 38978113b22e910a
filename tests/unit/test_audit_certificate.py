"""The certificate against known truths: by simulation, in closed form and by numerical integration."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm

from privatenet.audit.certificate.bound import Certificate, certify_codes, certify_gaussian
from privatenet.audit.certificate.words import sentence
from privatenet.audit.errors import AuditError

POPULATIONS = 1000


def violations(draw: Callable[[np.random.Generator], float], truth: float) -> float:
    """How often a bound is below the truth."""
    return float(np.mean([draw(np.random.default_rng(seed)) < truth for seed in range(POPULATIONS)]))


def joint(codes: int, classes: int, seed: int) -> np.ndarray:
    """A random joint table of code and label, [codes, classes]."""
    return np.random.default_rng(seed).dirichlet(np.full(codes * classes, 0.7)).reshape(codes, classes)


def pictures(table: np.ndarray, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Independent codes and labels."""
    return np.unravel_index(rng.choice(table.size, count, p=table.ravel()), table.shape)


@pytest.mark.parametrize("codes", [2, 8, 64])
@pytest.mark.parametrize("classes", [2, 5])
def test_codes_tell_more_than_is_certified_no_more_often_than_stated(codes: int, classes: int) -> None:
    tables = [joint(codes, classes, seed) for seed in range(POPULATIONS)]
    accuracy, balanced = 0, 0
    for seed, table in enumerate(tables):
        certificate = certify_codes(*pictures(table, np.random.default_rng(seed), 200), None, 0.95)
        accuracy += certificate.bound < table.max(axis=1).sum()
        balanced += certificate.balanced < (table / table.sum(axis=0)).max(axis=1).sum() / classes
        assert certificate.slack == pytest.approx(math.sqrt(math.log(20) / 400))
        assert certificate.bound == min(1, certificate.estimate + certificate.slack)
    assert max(accuracy, balanced) <= 0.05 * POPULATIONS


def test_the_balanced_bound_of_two_classes_is_that_of_their_total_variation() -> None:
    """The published form of the slack, with uneven classes."""
    labels = np.repeat([0, 1], [150, 50])
    codes = np.concatenate([np.repeat([0, 1], [90, 60]), np.repeat([0, 1], [10, 40])])
    certificate = certify_codes(codes, labels, None, 0.9)
    assert certificate.tv == pytest.approx(0.4 + math.sqrt(math.log(10) / 2 * (1 / 150 + 1 / 50)))
    assert certificate.majority == pytest.approx(0.75)


@pytest.mark.parametrize(("dimensions", "share", "noise"), [(1, 0.5, 0.7), (2, 0.7, 0.7), (1, 0.7, 9)])
def test_a_noisy_vector_tells_more_than_is_certified_no_more_often_than_stated(
    dimensions: int, share: float, noise: float
) -> None:
    """Centres N(+-0.4, 0.5^2 I): releases are N(+-0.4, (0.5^2 + noise^2) I). The last ones tell next to nothing."""
    deviation = math.hypot(0.5, noise)
    line, step = np.linspace(-7 * deviation, 7 * deviation, 601, retstep=True)
    grid = np.stack(np.meshgrid(*[line] * dimensions), axis=-1)
    densities = [norm.pdf(grid, mean, deviation).prod(axis=-1) for mean in (-0.4, 0.4)]
    truth = float(np.maximum(share * densities[0], (1 - share) * densities[1]).sum() * step**dimensions)

    def draw(rng: np.random.Generator) -> float:
        labels = (rng.random(60) > share).astype(np.int64)
        centres = rng.normal(0.8 * labels[:, None] - 0.4, 0.5, (60, dimensions))
        certificate = certify_gaussian(centres, noise, labels, None, 0.95, 60, int(rng.integers(2**32)))
        assert certificate.slack == pytest.approx(math.sqrt(math.log(20) / 60))
        return certificate.bound

    assert violations(draw, truth) <= 0.05


def test_the_monte_carlo_estimate_is_the_integral_over_releases() -> None:
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(30, 1)), np.arange(30) % 3
    grid = np.linspace(-8, 8, 4001)
    density = norm.pdf(grid[:, None], centres[:, 0], 0.5)
    integral = sum(density[:, labels == label].sum(axis=1) for label in range(3))
    assert np.trapezoid(integral, grid) == pytest.approx(30, abs=1e-6)
    exact = np.trapezoid(np.max([density[:, labels == label].sum(axis=1) for label in range(3)], axis=0), grid) / 30
    certificate = certify_gaussian(centres, 0.5, labels, None, 0.95, 50_000, 0)
    assert certificate.estimate == pytest.approx(exact, abs=3e-3)


@pytest.mark.parametrize("releases", [1, 4, 16])
def test_releases_of_one_picture_tell_what_their_mean_tells(releases: int) -> None:
    """Two point centres 1 apart: V = Phi(sqrt(r) / 2 sigma)."""
    labels = np.arange(2000) % 2
    certificate = certify_gaussian(labels[:, None] + 5.0, 1.5, labels, None, 0.95, 10_000, 0, releases)
    assert certificate.estimate == pytest.approx(norm.cdf(math.sqrt(releases) / 3), abs=5e-3)


def test_centres_far_apart_or_far_from_zero_stay_finite() -> None:
    labels = np.arange(40) % 2
    certificate = certify_gaussian(1e9 + 1e6 * labels[:, None], 1e-3, labels, None, 0.95, 100, 0)
    assert (certificate.estimate, certificate.bound) == pytest.approx((1, 1))


def crowd(table: np.ndarray, rng: np.random.Generator, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, labels, persons: 1 to 10 pictures of each of 100 people, from tables of their own; spread 0: one cell."""
    persons = np.repeat(np.arange(100), rng.integers(1, 11, 100))
    cells = np.eye(table.size)[rng.choice(table.size, 100, p=table.ravel())]
    tables = rng.dirichlet(table.ravel() / spread, 100) if spread else cells
    chosen = (tables.cumsum(axis=1)[persons, :-1] < rng.random((len(persons), 1))).sum(axis=1)
    return *np.unravel_index(chosen, table.shape), persons


@pytest.mark.parametrize("spread", [0, 1])
def test_pictures_of_one_person_are_not_counted_as_independent(spread: float) -> None:
    """By person the bound holds, also where a person's pictures differ in label; identical pictures break it else."""
    table = np.array([[0.4, 0.1], [0.15, 0.35]])
    by_person = violations(lambda rng: certify_codes(*crowd(table, rng, spread), 0.95).bound, 0.75)
    by_picture = violations(lambda rng: certify_codes(*crowd(table, rng, spread)[:2], None, 0.95).bound, 0.75)
    assert by_person <= 0.05
    assert spread or by_picture > 0.1


def test_identical_pictures_add_nothing() -> None:
    codes, labels = pictures(joint(8, 3, 0), np.random.default_rng(0), 50)
    persons = np.repeat(np.arange(50), np.arange(50) % 7 + 1)
    once = certify_codes(codes, labels, None, 0.95)
    often = certify_codes(codes[persons], labels[persons], persons, 0.95)
    measures = ("estimate", "slack", "bound", "balanced", "majority", "people")
    assert [getattr(often, name) for name in measures] == pytest.approx([getattr(once, name) for name in measures])
    assert (often.pictures, once.unidentified, often.unidentified) == (len(persons), 50, 0)


def test_a_person_belongs_to_the_class_of_most_of_their_pictures() -> None:
    """Of the balanced bound; their other pictures are left out of it, and only of it."""
    codes, labels = pictures(joint(8, 2, 0), np.random.default_rng(0), 900)
    persons = np.arange(900) // 3
    most = labels == np.repeat(np.bincount(persons, labels) >= 2, 3)
    mixed = certify_codes(codes, labels, persons, 0.95)
    pure = certify_codes(codes[most], labels[most], persons[most], 0.95)
    assert 300 < most.sum() < 900
    assert mixed.balanced < 1
    assert mixed.balanced == pytest.approx(pure.balanced)
    assert mixed.bound != pytest.approx(pure.bound)


def test_an_unknown_person_is_a_person_of_their_own() -> None:
    persons = np.where(np.arange(60) < 40, np.arange(60) // 2, -1)
    certificate = certify_codes(np.zeros(60, np.int64), np.arange(60) % 2, persons, 0.95)
    assert (certificate.people, certificate.pictures, certificate.unidentified) == (40, 60, 20)


def test_a_class_without_pictures_changes_nothing() -> None:
    codes, labels = pictures(joint(8, 2, 0), np.random.default_rng(0), 50)
    assert certify_codes(codes, 3 * labels, None, 0.95) == certify_codes(codes, labels, None, 0.95)


def gaussian(pictures: int = 30, dimensions: int = 2, sigma: float = 1.0, confidence: float = 0.95) -> Certificate:
    labels = np.arange(pictures) % 2
    return certify_gaussian(np.zeros((pictures, dimensions)), sigma, labels, None, confidence, 10, 0)


@pytest.mark.parametrize(
    ("certify", "reason"),
    [
        (lambda: gaussian(sigma=0), "without noise"),
        (lambda: gaussian(dimensions=17), "dimensions"),
        (lambda: gaussian(pictures=19), "19 people"),
        (lambda: gaussian(confidence=1), "between 0 and 1"),
        (lambda: certify_codes(np.zeros(30), np.arange(30) - 1, None, 0.95), "1 of 30 labels are unknown"),
    ],
)
def test_what_cannot_be_certified_is_refused_with_the_reason(certify: Callable[[], Certificate], reason: str) -> None:
    with pytest.raises(AuditError, match=reason):
        certify()


def test_the_sentence_rounds_the_bound_up_and_says_whose_pictures_it_rests_on() -> None:
    labels = np.repeat([0, 1], [641, 359])
    codes = np.zeros(1000, np.int64)
    known = sentence(certify_codes(codes, labels, np.arange(1000) // 2, 0.95), "gender", "test")
    assert known == (
        "No adversary whatever names gender right more often than 69.6 % (95 % confidence; one code; 500 people of the "
        "test split, all alike in weight, with 1,000 pictures; always the commonest class: 64.1 %)."
    )
    assert "only if no two are of one person" in sentence(certify_codes(codes, labels, None, 0.95), "gender", "test")
    assert "cannot be bounded" in sentence(certify_codes(labels, labels, None, 0.95), "gender", "test")
