"""From the bytes in a shard to pixels."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.reading.ahead import ahead
from privatenet.data_shards.reading.plan import Rows
from privatenet.data_shards.shards.picture import PictureError, decode_plain, decode_stored
from privatenet.data_shards.shards.split import Split

_CHUNK = 256
"""Pictures that a thread decodes at a time."""


def decode(split: Split, rows: Sequence[int] | Rows) -> Tensor:
    """Read and decode rows of a split: uint8 [B, 3, H, W], channels last. DataError names a picture that cannot be."""
    pixels = np.empty((len(rows), *split.image_size, 3), dtype=np.uint8)
    # All are read before any is decoded: threads then seldom wait for each other.
    for data, row, place in zip(_read(split, rows), rows, pixels, strict=True):
        if not decode_plain(data, place):
            place[:] = _decode_other(data, split, int(row))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _read(split: Split, rows: Sequence[int] | Rows) -> list[bytes]:
    """The bytes of `rows`, as they are stored."""
    files: dict[int, int] = {}
    places = zip(*(column[rows].tolist() for column in (split.shard, split.sizes, split.offsets)), strict=True)
    try:
        pieces = []
        for shard, size, offset in places:
            if shard not in files:
                files[shard] = split.open_tar(shard)
            pieces.append(os.pread(files[shard], size, offset))
        return pieces
    finally:
        for file in files.values():
            os.close(file)


def _decode_other(data: bytes, split: Split, row: int) -> npt.NDArray[np.uint8]:
    """What is no plain JPEG: a PNG, say."""
    try:
        return np.asarray(decode_stored(data, f"picture '{split.names[row]}'", split.image_size))
    except PictureError as error:
        path = split.paths[split.shard[row]]
        raise DataError(f"{path}: {error}; `privatenet shards verify {path.parent}` lists what is damaged") from error


def decode_in_chunks(split: Split, rows: Rows, threads: int) -> Iterator[Tensor]:
    """Yield `rows` in order, some hundred at a time, as `decode` gives them, decoded by threads."""
    chunks = np.array_split(rows, max(1, len(rows) // _CHUNK))
    return ahead(lambda chunk: decode(split, chunk), chunks, threads)
