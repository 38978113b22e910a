"""Which samples each rank reads at each step: pure functions of the manifest's order, a seed, and the ranks.

The order of samples in the sequence of global batches depends on the seed and the epoch alone. Ranks cut every global
batch between them, so that a run may go on with another number of ranks at the very next sample.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, repeat

import numpy as np
import numpy.typing as npt

from privatenet.data_shards.errors import DataError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DataState:
    """Where training stands in its data: the epoch, and how many of its samples all ranks together have taken."""

    epoch: int = 0
    sample: int = 0


@dataclass(frozen=True)
class MicroBatch:
    """One rank's share of one micro-batch: rows of the split, their place in the run's sequence, the state after it."""

    rows: Rows
    positions: Rows
    state: DataState


@dataclass(frozen=True)
class TrainingPlan:
    """Equal steps for every rank, every epoch a new order of all samples but the remainder of the last global batch.

    `rows` are the split's rows that take part and `shards` the shard of each; `batch_size` counts the samples of one
    optimisation step over all ranks and micro-batches; `window` is the number of shards whose samples are mixed.
    Raises `DataError` where the batch cannot be cut evenly or there are fewer samples than one batch.
    """

    rows: Rows
    shards: npt.NDArray[np.int32]
    batch_size: int
    seed: int = 0
    world_size: int = 1
    rank: int = 0
    accumulation: int = 1
    window: int = 16

    def __post_init__(self) -> None:
        shares = self.world_size * self.accumulation
        if self.batch_size % shares:
            raise DataError(
                f"batch_size {self.batch_size} cannot be cut evenly into {self.world_size} ranks x "
                f"{self.accumulation} accumulation steps: accepted are multiples of {shares}"
            )
        if len(self.rows) < self.batch_size:
            raise DataError(
                f"{len(self.rows)} training samples are too few for one step of batch_size {self.batch_size} on "
                f"{self.world_size} ranks: accepted are at least as many samples as the batch holds"
            )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.rows) // self.batch_size

    @property
    def samples_per_epoch(self) -> int:
        return self.steps_per_epoch * self.batch_size

    def micro_batches(self, state: DataState) -> Iterator[MicroBatch]:
        """Yield this rank's micro-batches from `state` on, epoch after epoch, without end."""
        size = self.batch_size // self.accumulation
        epoch, sample = (state.epoch, state.sample) if state.sample < self.samples_per_epoch else (state.epoch + 1, 0)
        while True:
            order = self.rows[epoch_order(self.shards, self.seed, epoch, self.window)]
            while sample + size <= self.samples_per_epoch:
                places = sample + rank_slice(size, self.world_size, self.rank)
                sample += size
                yield MicroBatch(order[places], epoch * len(self.rows) + places, DataState(epoch, sample))
            epoch, sample = epoch + 1, 0


def epoch_order(shards: npt.NDArray[np.int32], seed: int, epoch: int, window: int) -> Rows:
    """Shuffle places 0..n-1: shards in random order, `window` of them at a time, the samples of a window mixed.

    Reading stays within `window` shards however large the data set is, and a data set of no more shards than that is
    shuffled uniformly.
    """
    rng = np.random.default_rng((seed, epoch))
    numbers = rng.permutation(np.unique(shards))
    order = np.argsort(shards, kind="stable").astype(np.int64)
    starts = np.searchsorted(shards[order], numbers)
    ends = np.searchsorted(shards[order], numbers, side="right")
    pieces = [order[start:end] for start, end in zip(starts, ends, strict=True)]
    windows = [np.concatenate(pieces[i : i + window]) for i in range(0, len(pieces), window)]
    return np.concatenate([rng.permutation(members) for members in windows])


def rank_slice(size: int, world_size: int, rank: int) -> Rows:
    """Places within a global batch of `size` that belong to `rank`: contiguous, of equal length."""
    share = size // world_size
    return np.arange(rank * share, (rank + 1) * share, dtype=np.int64)


def evaluation_rows(rows: Rows, world_size: int, rank: int) -> Rows:
    """The rows that `rank` evaluates: over all ranks every row exactly once, with no padding."""
    return rows[rank::world_size]


def known_rows(labels: npt.NDArray[np.int64]) -> Rows:
    """Rows of `labels` [N, A] in which every attribute is known (none is unsure)."""
    return np.flatnonzero((labels >= 0).all(axis=1)).astype(np.int64)


def protecting_rows(targets: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> Rows:
    """Rows that serve to protect the attributes of `labels` [N, A]: where the target is known (`targets` [N]), those
    in which every attribute is known, too; elsewhere, for nothing but the protection, those in which any is."""
    known = labels >= 0
    return np.flatnonzero(np.where(targets >= 0, known.all(axis=1), known.any(axis=1))).astype(np.int64)


def validation_mask(
    names: Sequence[str],
    classes: npt.NDArray[np.int64],
    fraction: float,
    salt: str = "",
    persons: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.bool_]:
    """Choose `fraction` of every class for validation by the hash of the sample's name, whatever the order of samples.

    Where `persons` are known (int64 [N], -1: unknown), whole people are chosen, by the hash of their number, each where
    that brings the classes nearer to `fraction`. Every class keeps at least one sample for training. The choice is part
    of the data set, not of a run's seed, so that a network and its adversaries agree on what neither has seen; another
    `salt` gives an independent choice.
    """
    numbers = map(int, persons) if persons is not None else repeat(-1, len(names))
    # No name has a slash.
    keys = (name if number < 0 else f"/{number}" for name, number in zip(names, numbers, strict=True))
    hashes = np.fromiter((_hash(salt + key) for key in keys), dtype=np.uint64, count=len(names))
    training = Counter(classes.tolist())
    missing = Counter({value: min(round(fraction * size), size - 1) for value, size in training.items()})
    mask = np.zeros(len(names), dtype=np.bool_)
    for _, group in groupby(hashes.argsort(kind="stable"), key=hashes.__getitem__):
        if max(missing.values()) <= 0:  # nobody brings a class nearer any more
            break
        rows = list(group)
        counts = Counter(classes[rows].tolist())
        nearer = sum([abs(missing[value] - count) - abs(missing[value]) for value, count in counts.items()]) < 0
        if nearer and all(count < training[value] for value, count in counts.items()):
            mask[rows] = True
            missing.subtract(counts)
            training.subtract(counts)
    return mask


def _hash(text: str) -> int:
    """64 bits of SHA-256: of a million texts no two have the same."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
