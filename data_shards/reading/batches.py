"""Batches of a rank: pictures, labels and places of the rows that the plan names, made ahead where they are decoded."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from privatenet.data_shards.reading.ahead import ahead
from privatenet.data_shards.reading.cache import CachedPictures, Pictures
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.plan import DataState, MicroBatch, Rows, TrainingPlan
from privatenet.data_shards.shards.split import Split

_ASKED_AHEAD = 4096
"""How many samples, of all ranks, before it is due a shard is fetched that does not stay here."""


@dataclass(frozen=True)
class Batch:
    """One rank's samples on the device: images uint8 [B, 3, H, W], labels int64 [B] per attribute (-1 is unsure).

    `positions` int64 [B] are the samples' places in the run's sequence (in evaluation: their rows).
    """

    images: Tensor
    labels: dict[str, Tensor]
    positions: Tensor


def training_batches(
    split: Split, pictures: Pictures, plan: TrainingPlan, state: DataState, config: DataConfig
) -> Iterator[tuple[Batch, DataState]]:
    """Yield this rank's micro-batches and the state to go on from after each, from `state` on, without end.

    Where pictures are streamed, threads work ahead, a batch each; what they hold is bounded, and the order does not
    depend on them. Cached ones are picked here: a second thread's arithmetic would fight the training for cores.
    """

    def load(micro: MicroBatch) -> tuple[Batch, DataState]:
        return make_batch(split, pictures, micro.rows, micro.positions), micro.state

    if isinstance(pictures, CachedPictures):
        return map(load, plan.micro_batches(state))
    micro_batches = plan.micro_batches(state)
    if split.tars:
        micro_batches = _announced(micro_batches, split, _ASKED_AHEAD // plan.world_size)
    return ahead(load, micro_batches, config.workers)


def _announced(micro_batches: Iterator[MicroBatch], split: Split, samples: int) -> Iterator[MicroBatch]:
    """The same micro-batches, whose shards are asked for some `samples` before they are due."""
    coming: deque[MicroBatch] = deque()
    for micro in micro_batches:
        _ask(split, micro.rows)
        coming.append(micro)
        if len(coming) * len(micro.rows) > samples:
            yield coming.popleft()


def _ask(split: Split, rows: Rows) -> None:
    if split.tars:
        split.tars.ask(split.paths[number].name for number in np.unique(split.shard[rows]))


def evaluation_batches(split: Split, pictures: Pictures, rows: Rows, batch_size: int) -> Iterator[Batch]:
    """Yield `rows` in order, the last batch as short as it comes."""
    for start in range(0, len(rows), batch_size):
        batch_rows = rows[start : start + batch_size]
        _ask(split, rows[start : start + _ASKED_AHEAD // 4])
        yield make_batch(split, pictures, batch_rows, batch_rows)


def make_batch(split: Split, pictures: Pictures, rows: Rows, positions: Rows) -> Batch:
    """The batch of `rows`, whose places in the run's sequence are `positions`."""
    device = pictures.device
    labels = torch.from_numpy(split.labels[rows]).to(device, non_blocking=True)
    by_attribute = dict(zip(split.schema.names, labels.unbind(1), strict=True))
    return Batch(pictures.fetch(rows), by_attribute, torch.from_numpy(positions).to(device, non_blocking=True))
