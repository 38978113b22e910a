"""Pictures from shards to batches, by either of two ways: decoded once and kept, or decoded as they are needed."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import file_sha256, make_once, replacing
from privatenet.data_shards.reading.plan import DataState, Rows, TrainingPlan
from privatenet.data_shards.shards.manifest import Split, load_manifest
from privatenet.data_shards.uri import Uri

Mode = Literal["auto", "cached", "streaming"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class DataConfig:
    """Where the data are and how they are read.

    Args:
        shards: Folder of the shards and their manifest.json, or its URL (s3://, gs://, abfs://, https:// and others). A
            name and password in it are written to no file: resuming or auditing needs them again.
        mode: `cached` decodes every picture once and keeps it, `streaming` decodes as it goes in bounded memory, `auto`
            caches what fits in `cache_gib`.
        cache_gib: Largest decoded data set that `auto` keeps, per process, in GiB.
        cache: Folder on this machine in which all its runs share what they fetch and decode; where it is empty, decoded
            pictures stay in each process's memory, and what is fetched goes to ~/.cache/privatenet.
        workers: Threads per process that read and decode.
        validation: Fraction of the training split, per class, that chooses the best model and is not trained on.
        window: Shards whose samples are shuffled together.
    """

    shards: Uri = Uri("shards/demo")
    mode: Mode = "auto"
    cache_gib: float = 8.0
    cache: str = ""
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
    """Keep what was decoded, `pixels` of `rows` of the split: on the device if half its free memory holds them."""

    def __init__(self, split: Split, rows: Rows, pixels: Tensor, device: torch.device) -> None:
        fits = device.type == "cpu" or pixels.nbytes < torch.cuda.mem_get_info(device)[0] / 2
        self.pixels = pixels.to(device) if fits else pixels
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
    if not cached:
        return StreamedPictures(split, device)
    if config.cache:
        every = np.arange(len(split))
        return CachedPictures(split, every, _shared_pixels(split, Path(config.cache), config.workers), device)
    return CachedPictures(split, rows, torch.cat(list(_decoded(split, rows, config.workers))), device)


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
    yield from _ahead(
        lambda micro: (make_batch(split, pictures, micro.rows, micro.positions), micro.state),
        plan.micro_batches(state),
        config.workers,
    )


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


def _shared_pixels(split: Split, cache: Path, workers: int) -> Tensor:
    """Every picture of the split, uint8 [N, 3, H, W], mapped from a file that is decoded once per machine.

    Processes share its pages; what one of them were to write, it alone would see.
    """
    manifest = load_manifest(split.directory)
    path = cache / manifest.fingerprint[:16] / f"pictures-{split.name}.npy"
    shape = (len(split), *split.image_size, 3)

    def write() -> None:
        for shard, tar in zip(manifest.shards(split.name), split.paths, strict=True):
            if file_sha256(tar) != shard.sha256:  # what is wrong here would be wrong in every run from now on
                raise DataError(f"{tar}: its bytes are not those that the manifest names; build the shards again")
        with replacing(path) as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for pixels in _decoded(split, np.arange(len(split)), workers):
                stream.write(pixels.permute(0, 2, 3, 1).numpy().data)

    make_once(path, write)
    try:
        mapped = np.lib.format.open_memmap(path, mode="c")
        whole = mapped.shape == shape and mapped.dtype == np.uint8
        whole = whole and mapped.offset + mapped.nbytes == path.stat().st_size
    except ValueError:
        whole = False
    if not whole:
        raise DataError(f"{path}: is damaged, accepted: uint8 of {shape}; remove it, it will be decoded again")
    return torch.from_numpy(mapped).permute(0, 3, 1, 2)


def _decoded(split: Split, rows: Rows, workers: int) -> Iterator[Tensor]:
    """Yield `rows` in order, in pieces as `decode` gives them, decoded by threads."""
    pieces = np.array_split(rows, max(1, len(rows) // 256))
    return _ahead(lambda piece: decode(split, piece), pieces, workers)


def _ahead(work: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[_Result]:
    """Yield the `work` of each item, in order, done by threads that are at most one item each ahead."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
