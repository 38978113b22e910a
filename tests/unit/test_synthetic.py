"""Rendered faces: the same seed draws the same picture, every label is visible, and labels tie together on demand."""

import io
import pickle
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.sources.record import check_records
from privatenet.data_shards.sources.synthetic import (
    AGE_GROUPS,
    EMOTIONS,
    GENDERS,
    SYNTHETIC_SCHEMA,
    draw_labels,
    render_face,
    synthetic_source,
)


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


@cache
def _mean_face(labels: tuple[int, int, int], seed: int) -> np.ndarray:
    """The inner face, averaged over chance; grey, 0 to 255."""
    rng = np.random.default_rng(seed)
    faces = [np.asarray(render_face(*labels, rng, size=32).convert("L"), float) for _ in range(80)]
    return np.mean(faces, axis=0)[8:26, 8:24]


@pytest.mark.parametrize("changed", [(1, 0, 2), (0, 1, 2), (0, 0, 4)], ids=["emotion", "gender", "age_group"])
def test_each_label_changes_the_mean_picture_beyond_chance(changed: tuple[int, int, int]) -> None:
    unchanged = (0, 0, 2)
    by_chance = np.abs(_mean_face(unchanged, 1) - _mean_face(unchanged, 2)).max()
    assert np.abs(_mean_face(changed, 3) - _mean_face(unchanged, 1)).max() > 1.3 * by_chance


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
    with pytest.raises(DataError, match=rf"{correlation}.*0 to 1"):
        draw_labels(10, correlation, np.random.default_rng(0))


def test_a_source_draws_the_same_faces_in_any_order_and_after_pickling() -> None:
    source, again = synthetic_source(4, 2, seed=3), pickle.loads(pickle.dumps(synthetic_source(4, 2, seed=3)))
    assert source == again
    forwards = [source.read(record) for record in source.records]
    assert [again.read(record) for record in reversed(again.records)] == forwards[::-1]
    assert len(set(forwards)) == 6
    with Image.open(io.BytesIO(forwards[0])) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (100, 100))


def test_a_face_shows_the_labels_of_its_record() -> None:
    source = synthetic_source(1, 1)
    record = source.records[0]
    emotion, gender, age_group = record.labels
    others = (
        ((emotion + 1) % 7, gender, age_group),
        (emotion, 1 - gender, age_group),
        (emotion, gender, (age_group + 2) % 5),
    )
    assert len({source.read(replace(record, labels=labels)) for labels in (record.labels, *others)}) == 4


def test_another_seed_gives_other_labels_other_faces_and_other_locations() -> None:
    one, other = synthetic_source(40, 1, seed=1), synthetic_source(40, 1, seed=2)
    assert [record.labels for record in one.records] != [record.labels for record in other.records]
    assert one.read(one.records[0]) != other.read(replace(other.records[0], labels=one.records[0].labels))
    # A folder of shards tells by the records alone whether a build may go on in it.
    assert {record.location for record in one.records}.isdisjoint(record.location for record in other.records)


def test_records_can_become_shards_and_say_their_split() -> None:
    source = synthetic_source(50, 8, correlation=0.7)
    check_records(source.records, source.schema)
    assert source.schema == SYNTHETIC_SCHEMA
    assert [attribute.classes for attribute in source.schema.attributes] == [EMOTIONS, GENDERS, AGE_GROUPS]
    assert [record.split for record in source.records] == ["train"] * 50 + ["test"] * 8
    assert [source.records[i].name for i in (0, 42, 57)] == ["train_000000", "train_000042", "test_000007"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"train": 0}, "train is 0, accepted: 1 or more"),
        ({"test": -2}, "test is -2, accepted: 1 or more"),
        ({"seed": -1}, "seed is -1, accepted: 0 or more"),
        ({"correlation": 1.5}, "is 1.5, accepted: 0 to 1"),
        ({"correlation": float("nan")}, "is nan, accepted: 0 to 1"),
    ],
)
def test_bad_numbers_are_refused_with_their_value_and_range(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        synthetic_source(**{"train": 2, "test": 2, **bad})
