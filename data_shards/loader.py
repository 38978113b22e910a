"""Pictures from shards to batches, by either of two ways: decoded once and kept, or decoded as they are needed."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.manifest import Split
from privatenet.data_shards.plan import DataState, Rows, TrainingPlan

Mode = Literal["auto", "cached", "streaming"]


@dataclass(frozen=True)
class DataConfig:
    """Where the data are and how they are read.

    Args:
        shards: Folder of the shards and their manifest.json.
        mode: `cached` decodes every picture once and keeps it, `streaming` decodes as it goes in bounded memory, `auto`
            caches what fits in `cache_gib`.
        cache_gib: Largest decoded data set that `auto` keeps, per process, in GiB.
        workers: Threads per process that read and decode.
        validation: Fraction of the training split, per class, that chooses the best model and is not trained on.
        window: Shards whose samples are shuffled together.
    """

    shards: str = "shards/demo"
    mode: Mode = "auto"
    cache_gib: float = 8.0
    workers: int = 2
    validation: float = 0.1
    window: int = 16


@dataclass(frozen=True)
class Batch:
    """One rank's samples on the device: images uint8 [B, 3, H, W], labels int64 [B] per attribute (-1 is unsure).

    `positions` int64 [B] are the samples' places in the run's sequence (in evaluation: their rows).
    """

    images: Tensor
    labels: dict[str, Tensor]
    positions: Tensor


class Pictures(Protocol):
    """Where pictures come from: rows of a split in, uint8 [B, 3, H, W] on the device out."""

    device: torch.device

    def fetch(self, rows: Rows) -> Tensor: ...


class StreamedPictures:
    """Read and decode on demand; keeps nothing."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.split, self.device = split, device

    def fetch(self, rows: Rows) -> Tensor:
        return decode(self.split, rows).to(self.device, non_blocking=True)


class CachedPictures:
    """Decode `rows` once, by `workers` threads, and keep them: on the device if half its free memory holds them."""

    def __init__(self, split: Split, rows: Rows, device: torch.device, workers: int) -> None:
        pieces = np.array_split(rows, max(1, len(rows) // 256))
        with ThreadPoolExecutor(workers) as pool:
            pixels = torch.cat(list(pool.map(lambda piece: decode(split, piece), pieces)))
        fits = device.type == "cpu" or pixels.nbytes < torch.cuda.mem_get_info(device)[0] / 2
        self.pixels = pixels.to(device) if fits else pixels.pin_memory()
        self.device = device
        self.place = np.full(len(split.names), -1, dtype=np.int64)
        self.place[rows] = np.arange(len(rows))

    def fetch(self, rows: Rows) -> Tensor:
        places = torch.from_numpy(self.place[rows]).to(self.pixels.device)
        return self.pixels.index_select(0, places).to(self.device, non_blocking=True)


def open_pictures(split: Split, rows: Rows, device: torch.device, config: DataConfig) -> Pictures:
    """Choose the way of `config.mode` for these rows of the split."""
    height, width = split.image_size
    cached = (
        len(rows) * 3 * height * width <= config.cache_gib * 2**30 if config.mode == "auto" else config.mode == "cached"
    )
    return CachedPictures(split, rows, device, config.workers) if cached else StreamedPictures(split, device)


def training_batches(
    split: Split, pictures: Pictures, plan: TrainingPlan, state: DataState, config: DataConfig
) -> Iterator[tuple[Batch, DataState]]:
    """Yield this rank's micro-batches and the state to go on from after each, from `state` on, without end.

    Where pictures are streamed, threads work ahead, a batch each; what they hold is bounded, and the order does not
    depend on them. Cached ones are picked here: a second thread's arithmetic would fight the training for cores.
    """
    if isinstance(pictures, CachedPictures):
        for micro in plan.micro_batches(state):
            yield make_batch(split, pictures, micro.rows, micro.positions), micro.state
    with ThreadPoolExecutor(config.workers) as pool:
        ahead: deque[tuple[Future[Batch], DataState]] = deque()
        for micro in plan.micro_batches(state):
            ahead.append((pool.submit(make_batch, split, pictures, micro.rows, micro.positions), micro.state))
            if len(ahead) > config.workers:
                batch, after = ahead.popleft()
                yield batch.result(), after


def evaluation_batches(split: Split, pictures: Pictures, rows: Rows, batch_size: int) -> Iterator[Batch]:
    """Yield `rows` in order, the last batch as short as it comes."""
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        yield make_batch(split, pictures, part, part)


def make_batch(split: Split, pictures: Pictures, rows: Rows, positions: Rows) -> Batch:
    device = pictures.device
    labels = torch.from_numpy(split.labels[rows]).to(device, non_blocking=True)
    named = dict(zip(split.schema.names, labels.unbind(1), strict=True))
    return Batch(pictures.fetch(rows), named, torch.from_numpy(positions).to(device, non_blocking=True))


def decode(split: Split, rows: Sequence[int] | Rows) -> Tensor:
    """Read and decode rows of a split: uint8 [B, 3, H, W], channels last. `DataError` names one that cannot be."""
    height, width = split.image_size
    out = np.empty((len(rows), height, width, 3), dtype=np.uint8)
    files: dict[int, int] = {}
    try:
        for place, row in enumerate(rows):
            shard = int(split.shard[row])
            if shard not in files:
                files[shard] = os.open(split.paths[shard], os.O_RDONLY)
            data = os.pread(files[shard], int(split.sizes[row]), int(split.offsets[row]))
            try:
                out[place] = np.asarray(Image.open(BytesIO(data)))
            except (OSError, ValueError, SyntaxError) as error:
                path = split.paths[shard]
                raise DataError(
                    f"{path}: picture {split.names[row]!r} cannot be decoded as a {height}x{width} JPEG ({error}); "
                    f"`privatenet shards verify {path.parent}` lists what is damaged"
                ) from error
    finally:
        for file in files.values():
            os.close(file)
    return torch.from_numpy(out).permute(0, 3, 1, 2)
