"""Where batches take pictures from: decoded once and kept, in memory or in a file that processes share, or streamed."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import make_once, replacing
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.decode import decode, decode_in_chunks
from privatenet.data_shards.reading.plan import Rows
from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.data_shards.shards.split import Split
from privatenet.data_shards.shards.verify import check_sums


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
    """Keep decoded pictures, `pixels` uint8 [N, H, W, 3] of `rows` of the split: on the device if half its free memory
    holds them."""

    def __init__(self, split: Split, rows: Rows, pixels: Tensor, device: torch.device) -> None:
        fits = device.type == "cpu" or pixels.nbytes < torch.cuda.mem_get_info(device)[0] / 2
        self.pixels = pixels.to(device) if fits else pixels
        self.device = device
        self.place = np.full(len(split.names), -1, dtype=np.int64)
        self.place[rows] = np.arange(len(rows))

    def fetch(self, rows: Rows) -> Tensor:
        places = torch.from_numpy(self.place[rows]).to(self.pixels.device, non_blocking=True)
        return self.pixels.index_select(0, places).to(self.device, non_blocking=True).permute(0, 3, 1, 2)


def open_pictures(split: Split, rows: Rows, device: torch.device, config: DataConfig) -> Pictures:
    """The pictures of these rows of the split, cached or streamed as `config.mode` says."""
    height, width = split.image_size
    cached = (
        len(rows) * 3 * height * width <= config.cache_gib * 2**30 if config.mode == "auto" else config.mode == "cached"
    )
    if not cached:
        return StreamedPictures(split, device)
    if config.cache:
        every = np.arange(len(split))
        return CachedPictures(split, every, _shared_pixels(split, Path(config.cache), config.workers), device)
    return CachedPictures(split, rows, _decoded(split, rows, config.workers), device)


def _decoded(split: Split, rows: Rows, workers: int) -> Tensor:
    """The pictures of `rows`, uint8 [N, H, W, 3]; no more of them are in memory twice than are being decoded."""
    pixels, start = torch.empty(len(rows), *split.image_size, 3, dtype=torch.uint8), 0
    for chunk in decode_in_chunks(split, rows, workers):
        pixels[start : start + len(chunk)] = chunk.permute(0, 2, 3, 1)
        start += len(chunk)
    return pixels


def _shared_pixels(split: Split, cache: Path, workers: int) -> Tensor:
    """Every picture of the split, uint8 [N, H, W, 3], mapped from a file that is decoded once per machine.

    Processes share its pages; what one of them were to write, it alone would see.
    """
    path = cache / load_manifest(split.directory).fingerprint[:16] / f"pictures-{split.name}.npy"
    shape = (len(split), *split.image_size, 3)

    def write() -> None:
        if not split.tars:  # which are checked as they come
            check_sums(split, workers)  # what is wrong here would be wrong in every run from now on
        with replacing(path) as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for pixels in decode_in_chunks(split, np.arange(len(split)), workers):
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
    return torch.from_numpy(mapped)
