"""The samples of one split, from the indices of its shards: in little memory, as there may be millions."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, overload

import numpy as np
import numpy.typing as npt

from privatenet.data_shards.shards.manifest import Index, Manifest, Shard, damaged, label_names, load_manifest
from privatenet.data_shards.sources.schema import Schema


class Names(Sequence[str]):
    """Many short strings in little memory: their UTF-8, one behind the other, and where each ends."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._bytes, self._ends = bytearray(), array("q")
        self.extend(names)

    def extend(self, names: Iterable[str]) -> None:
        for name in names:
            self._bytes += name.encode()
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        return self._bytes[self._ends[place - 1] if place else 0 : self._ends[place]].decode()


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split, in the order of its shards.

    `labels` is int64 [N, A], a column per attribute in schema order; sample `i` is the `sizes[i]` bytes of JPEG or
    PNG at `offsets[i]` of the tar `paths[shard[i]]`. `persons` is int64 [N], the number of each sample's person (-1:
    unknown), or None where nobody in this split is known. Where tars come and go, `tars` opens them.
    """

    directory: Path
    name: str
    schema: Schema
    image_size: tuple[int, int]
    names: Sequence[str]
    labels: npt.NDArray[np.int64]
    persons: npt.NDArray[np.int64] | None
    shard: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    paths: tuple[Path, ...]
    tars: "Tars | None" = None

    def __len__(self) -> int:
        return len(self.names)

    def open_tar(self, number: int) -> int:
        """A file descriptor of the tar `paths[number]`, for whoever asks to close."""
        path = self.paths[number]
        return self.tars.open(path.name) if self.tars else os.open(path, os.O_RDONLY)

    def read(self, sample: int) -> bytes:
        """The JPEG or PNG of one sample."""
        descriptor = self.open_tar(int(self.shard[sample]))
        try:
            return os.pread(descriptor, int(self.sizes[sample]), int(self.offsets[sample]))
        finally:
            os.close(descriptor)


class Tars(Protocol):
    """Tars that are not all in the split's folder; see passing.py."""

    def open(self, name: str) -> int: ...

    def ask(self, names: Iterable[str]) -> None: ...


def open_split(directory: Path, split: str, tars: Tars | None = None) -> Split:
    """The samples of a split; DataError where a shard is missing, has another size or an index of another content.

    With `tars` none of the shards need be there yet.
    """
    manifest = load_manifest(directory)
    shards = manifest.shards(split)
    for shard in shards if tars is None else ():
        _check_size(directory / shard.name, shard)
    columns = label_names(manifest.schema, manifest.persons)
    # Filled shard by shard: as Python's numbers and strings a million samples would take half a gigabyte.
    table, start = np.empty((2 + len(columns), manifest.num_samples(split)), dtype=np.int64), 0
    names = Names()
    for shard in shards:
        index = _open_index(directory, shard, manifest)
        stop = start + shard.samples
        table[:, start:stop] = index.offsets, index.sizes, *(index.labels[name] for name in columns)
        names.extend(index.names)
        start = stop
    offsets, sizes, *_ = table
    persons = table[-1] if manifest.persons else None
    return Split(
        directory=directory,
        name=split,
        schema=manifest.schema,
        image_size=manifest.image_size,
        names=names,
        labels=table[2 : 2 + len(manifest.schema.names)].T,
        persons=persons if persons is not None and (persons >= 0).any() else None,
        shard=np.repeat(np.arange(len(shards), dtype=np.int32), [shard.samples for shard in shards]),
        offsets=offsets,
        sizes=sizes,
        paths=tuple(directory / shard.name for shard in shards),
        tars=tars,
    )


def _check_size(tar: Path, shard: Shard) -> None:
    size = tar.stat().st_size if tar.is_file() else None
    if size != shard.bytes:
        state = "is missing" if size is None else f"has {size:,} bytes"
        raise damaged(f"{tar}: {state}, accepted: {shard.bytes:,} bytes")


def _open_index(directory: Path, shard: Shard, manifest: Manifest) -> Index:
    path = directory / shard.index_name
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != shard.index_sha256:
        state = "is not the index that the manifest names" if content else "is missing"
        raise damaged(f"{path}: {state}")
    index = Index.decode(content, path)
    problem = index.mismatch(shard, manifest)
    if problem or not index.describes(shard):
        raise damaged(f"{path}: {problem or 'is of another tar'}")
    return index
