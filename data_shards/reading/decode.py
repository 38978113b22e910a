"""From the bytes in a shard to pixels."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.reading.ahead import ahead
from privatenet.data_shards.reading.plan import Rows
from privatenet.data_shards.shards.picture import PictureError, decode_into
from privatenet.data_shards.shards.split import Split

_CHUNK = 256
"""Pictures that a thread decodes at a time."""


def decode(split: Split, rows: Sequence[int] | Rows) -> Tensor:
    """Read and decode rows of a split: uint8 [B, 3, H, W], channels last. DataError names a picture that cannot be."""
    pixels = np.empty((len(rows), *split.image_size, 3), dtype=np.uint8)
    files: dict[int, int] = {}
    try:
        for place, row in enumerate(rows):
            shard = int(split.shard[row])
            if shard not in files:
                files[shard] = split.open_tar(shard)
            data = os.pread(files[shard], int(split.sizes[row]), int(split.offsets[row]))
            try:
                decode_into(data, f"picture '{split.names[row]}'", pixels[place])
            except PictureError as error:
                path = split.paths[shard]
                raise DataError(
                    f"{path}: {error}; `privatenet shards verify {path.parent}` lists what is damaged"
                ) from error
    finally:
        for file in files.values():
            os.close(file)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def decode_in_chunks(split: Split, rows: Rows, threads: int) -> Iterator[Tensor]:
    """Yield `rows` in order, some hundred at a time, as `decode` gives them, decoded by threads."""
    chunks = np.array_split(rows, max(1, len(rows) // _CHUNK))
    return ahead(lambda chunk: decode(split, chunk), chunks, threads)
