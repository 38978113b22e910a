"""The plan: what each rank reads, and in which order."""

import itertools

import numpy as np
import pytest

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.reading.plan import (
    DataState,
    TrainingPlan,
    epoch_order,
    evaluation_rows,
    known_rows,
    protecting_rows,
    validation_mask,
)

SHARDS = np.repeat(np.arange(7, dtype=np.int32), 15)  # 105 samples in 7 shards
ROWS = np.arange(len(SHARDS), dtype=np.int64)


def plan(world_size: int = 1, rank: int = 0, accumulation: int = 1, batch_size: int = 24) -> TrainingPlan:
    return TrainingPlan(ROWS, SHARDS, batch_size, 5, world_size, rank, accumulation, window=3)


def global_rows(world_size: int, accumulation: int, micro_batches: int) -> list[int]:
    """The sequence of rows that all ranks together read."""
    ranks = [
        itertools.islice(plan(world_size, rank, accumulation).micro_batches(DataState()), micro_batches)
        for rank in range(world_size)
    ]
    return [int(row) for together in zip(*ranks, strict=True) for micro in together for row in micro.rows]


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (3, 1), (4, 1), (4, 2), (1, 3), (8, 3)])
def test_the_order_of_samples_does_not_depend_on_ranks_or_accumulation(world_size: int, accumulation: int) -> None:
    assert global_rows(world_size, accumulation, 9 * accumulation) == global_rows(1, 1, 9)


def test_every_rank_gets_equally_many_equally_large_batches() -> None:
    lengths = [
        [len(micro.rows) for micro in itertools.islice(plan(6, rank).micro_batches(DataState()), 8)]
        for rank in range(6)
    ]
    assert lengths == [[4] * 8] * 6


def test_an_epoch_reads_no_sample_twice_and_epochs_differ() -> None:
    first, second = global_rows(1, 1, 4), global_rows(1, 1, 8)[96:]
    assert len(set(first)) == len(first) == 96 == len(set(second))
    assert first != second


@pytest.mark.parametrize("taken", [1, 3, 4, 6])
def test_resuming_goes_on_with_the_very_next_sample_on_another_number_of_ranks(taken: int) -> None:
    *_, last = itertools.islice(plan(2).micro_batches(DataState()), taken)
    rest = next(iter(plan(1).micro_batches(last.state)))
    assert list(rest.rows) == global_rows(1, 1, taken + 1)[-24:]


def test_positions_count_on_over_epochs_and_belong_to_the_sample_not_to_the_rank() -> None:
    alone = [micro.positions for micro in itertools.islice(plan().micro_batches(DataState()), 6)]
    second = [micro.positions for micro in itertools.islice(plan(2, 1).micro_batches(DataState()), 6)]
    assert all(np.array_equal(whole[12:], half) for whole, half in zip(alone, second, strict=True))
    assert len(set(np.concatenate(alone))) == 6 * 24


def test_shuffling_keeps_to_the_window_of_shards() -> None:
    order = SHARDS[epoch_order(SHARDS, seed=0, epoch=0, window=2)]
    windows = [order[start : start + 30] for start in range(0, 105, 30)]
    assert [len(set(window)) for window in windows] == [2, 2, 2, 1]
    assert sorted(epoch_order(SHARDS, 0, 0, 2)) == list(ROWS)


def test_evaluation_reads_every_sample_exactly_once_on_any_number_of_ranks() -> None:
    for world_size in (1, 2, 3, 8, 200):
        shares = [evaluation_rows(ROWS, world_size, rank) for rank in range(world_size)]
        assert sorted(np.concatenate(shares)) == list(ROWS)


def test_batches_that_cannot_be_cut_evenly_and_too_few_samples_are_refused() -> None:
    with pytest.raises(DataError, match="batch_size 24 cannot be cut evenly into 5 ranks"):
        plan(world_size=5)
    with pytest.raises(DataError, match="105 training samples are too few"):
        plan(batch_size=128)


def test_known_rows_leave_out_samples_with_any_unsure_label() -> None:
    assert list(known_rows(np.array([[0, 1], [-1, 1], [2, -1], [3, 0]]))) == [0, 3]


def test_samples_without_a_target_serve_where_any_protected_label_is_known_and_others_where_all_are() -> None:
    labels = np.array([[0, 1], [-1, 1], [2, -1], [-1, -1], [3, 0]])
    assert list(protecting_rows(np.array([5, 5, -1, -1, -1]), labels)) == [0, 2, 4]
    known = np.zeros(5, dtype=np.int64)
    assert np.array_equal(protecting_rows(known, labels), known_rows(np.column_stack([known, labels])))


def test_validation_takes_its_share_of_samples_without_a_target_too() -> None:
    classes = np.array([0] * 100 + [-1] * 50)
    mask = validation_mask([f"face{number}" for number in range(150)], classes, 0.1)
    assert [int(mask[classes == value].sum()) for value in (0, -1)] == [10, 5]


def test_validation_takes_its_share_of_every_class_whatever_the_order_and_never_a_whole_class() -> None:
    names = [f"face{number}" for number in range(203)]
    classes = np.array([0] * 100 + [1] * 100 + [2] * 3)
    mask = validation_mask(names, classes, 0.1)
    assert [int(mask[classes == value].sum()) for value in range(3)] == [10, 10, 0]
    back = validation_mask(names[::-1], classes[::-1], 0.1)
    assert np.array_equal(back[::-1], mask)
    assert validation_mask(["a"], np.array([0]), 0.9).sum() == 0


def test_validation_without_people_takes_the_samples_that_it_always_took() -> None:
    mask = validation_mask([f"face{number}" for number in range(40)], np.arange(40) % 3, 0.2, "salt")
    assert list(np.flatnonzero(mask)) == [3, 4, 5, 9, 17, 21, 22, 32, 34]


def test_validation_takes_whole_people_and_about_its_share_of_every_class() -> None:
    rng = np.random.default_rng(0)
    names = [f"face{number}" for number in range(900)]
    classes, persons = rng.choice(3, 900, p=[0.6, 0.3, 0.1]), rng.integers(-1, 200, 900)
    persons[:40] = -1  # unknown: each a person of its own
    mask = validation_mask(names, classes, 0.2, persons=persons)
    assert not set(persons[mask & (persons >= 0)]) & set(persons[~mask])
    assert set(mask[persons < 0]) == {True, False}
    for value in range(3):
        assert abs(mask[classes == value].mean() - 0.2) < 0.03
    back = validation_mask(names[::-1], classes[::-1], 0.2, persons=persons[::-1])
    assert np.array_equal(back[::-1], mask)


def test_a_person_who_alone_shows_a_class_stays_in_training() -> None:
    classes = np.array([0] * 8 + [1] * 4)
    persons = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7])
    assert not validation_mask([str(row) for row in range(12)], classes, 0.5, persons=persons)[7:].any()
