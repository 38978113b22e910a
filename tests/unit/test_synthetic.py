"""Rendered faces: the same seed draws the same picture, every label is visible, and labels tie together on demand."""

import numpy as np
import pytest
from privatenet.data_shards.synthetic import AGE_GROUPS, EMOTIONS, GENDERS, draw_labels, render_face


def _chi_square(labels: np.ndarray, num_classes: int, column: int) -> float:
    """Pearson's statistic of the table of emotions against the labels in `column`."""
    table = np.zeros((len(EMOTIONS), num_classes))
    np.add.at(table, (labels[:, 0], labels[:, column]), 1)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    return float(((table - expected) ** 2 / expected).sum())


def test_same_seed_draws_the_same_bytes() -> None:
    first, second, other = (render_face(3, 1, 2, np.random.default_rng(seed)).tobytes() for seed in (5, 5, 6))
    assert first == second
    assert first != other


@pytest.mark.parametrize("changed", [(1, 0, 2), (0, 1, 2), (0, 0, 4)], ids=["emotion", "gender", "age_group"])
def test_each_label_changes_the_mean_picture_beyond_chance(changed: tuple[int, int, int]) -> None:
    def mean_face(labels: tuple[int, int, int], seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return np.mean([np.asarray(render_face(*labels, rng, size=32).convert("L"), float) for _ in range(150)], axis=0)

    unchanged = (0, 0, 2)
    by_chance = np.abs(mean_face(unchanged, 1) - mean_face(unchanged, 2))[8:26, 8:24].max()
    assert np.abs(mean_face(changed, 3) - mean_face(unchanged, 1))[8:26, 8:24].max() > 1.3 * by_chance


@pytest.mark.parametrize("size", [24, 64, 100])
def test_pictures_have_the_size_asked_for(size: int) -> None:
    picture = render_face(0, 0, 0, np.random.default_rng(0), size=size)
    assert (picture.mode, picture.size) == ("RGB", (size, size))


def test_every_combination_of_labels_can_be_drawn() -> None:
    rng = np.random.default_rng(0)
    for labels in np.ndindex(len(EMOTIONS), len(GENDERS), len(AGE_GROUPS)):
        assert np.asarray(render_face(*labels, rng, size=32)).std() > 10


# The statistic's mean is its degrees of freedom, 6 and 24; the bounds below are exceeded by chance once in a million.
@pytest.mark.parametrize(("column", "num_classes", "bound"), [(1, 2, 40.0), (2, 5, 76.0)], ids=["gender", "age_group"])
def test_correlation_ties_private_labels_to_emotion_only_when_asked(
    column: int, num_classes: int, bound: float
) -> None:
    independent = draw_labels(20_000, 0.0, np.random.default_rng(1))
    tied = draw_labels(20_000, 0.8, np.random.default_rng(1))
    assert _chi_square(independent, num_classes, column) < bound
    assert _chi_square(tied, num_classes, column) > 100 * bound


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_no_class_becomes_rare_at_any_correlation(correlation: float) -> None:
    labels = draw_labels(20_000, correlation, np.random.default_rng(2))
    assert (labels.shape, labels.dtype) == ((20_000, 3), np.int64)
    for column, classes in enumerate((EMOTIONS, GENDERS, AGE_GROUPS)):
        assert (np.bincount(labels[:, column], minlength=len(classes)) / len(labels)).min() > 0.04


@pytest.mark.parametrize("correlation", [-0.1, 1.5, float("nan")])
def test_bad_correlation_is_refused_with_its_value_and_range(correlation: float) -> None:
    with pytest.raises(ValueError, match=rf"{correlation}.*0 to 1"):
        draw_labels(10, correlation, np.random.default_rng(0))
