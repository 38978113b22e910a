"""A sharded data set's table of contents: `manifest.json`, and beside each shard the index of its samples.

    manifest.json       schema, picture size, and for each shard its name, samples, bytes, sha256 and class counts
    train-000000.tar    WebDataset: <name>.jpg or .png, and <name>.json (class index by attribute, -1 for unknown)
    train-000000.json   where each picture's bytes lie in the tar, so that any sample is one read away, and its labels

Where the source knows who is in a picture, the manifest has `persons` true, and among a sample's labels is `person`: a
number for each person, the same in all splits, or -1 where the person is unknown.

The manifest stays small whatever the data set's size, and its sha256 is the data set's fingerprint.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import replacing
from privatenet.data_shards.sources.schema import PERSON, Schema

MANIFEST = "manifest.json"
VERSION = 1

_SHARD = re.compile(r"[a-z0-9_]+-\d{6,}\.tar")


@dataclass(frozen=True)
class Shard:
    """One tar: its file name, size and sums, and per attribute the samples of each class (unknown left out)."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str
    class_counts: dict[str, tuple[int, ...]]

    @property
    def index_name(self) -> str:
        return index_name(self.name)


@dataclass(frozen=True)
class Skipped:
    """A sample that a build left out because its picture was corrupt."""

    name: str
    split: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a sharded data set holds.

    `image_size` is (height, width) in pixels, the same for every picture; `persons` says whether any picture's person
    is known.
    """

    version: int
    schema: Schema
    image_size: tuple[int, int]
    splits: dict[str, tuple[Shard, ...]]
    skipped: tuple[Skipped, ...] = ()
    persons: bool = False

    @property
    def fingerprint(self) -> str:
        """sha256 of the manifest as compact JSON: two data sets with the same one hold the same bytes."""
        return hashlib.sha256(json.dumps(self.to_dict(), separators=(",", ":")).encode()).hexdigest()

    def num_samples(self, split: str) -> int:
        return sum(shard.samples for shard in self.shards(split))

    def shards(self, split: str) -> tuple[Shard, ...]:
        """The split's shards; DataError where there is no such split."""
        if split not in self.splits:
            raise DataError(f"data set '{self.schema.name}' has no split '{split}', accepted: {', '.join(self.splits)}")
        return self.splits[split]

    def class_counts(self, split: str) -> dict[str, dict[str, int]]:
        """Per attribute the number of samples by class name, and last `unsure` where the schema or any split has it."""
        counts: dict[str, dict[str, int]] = {}
        for attribute in self.schema.attributes:
            columns = zip(*(shard.class_counts[attribute.name] for shard in self.shards(split)), strict=True)
            counts[attribute.name] = dict(zip(attribute.classes, map(sum, columns), strict=True))
            if attribute.unsure is not None or any(self._num_unsure(name, attribute.name) for name in self.splits):
                counts[attribute.name]["unsure"] = self._num_unsure(split, attribute.name)
        return counts

    def _num_unsure(self, split: str, attribute: str) -> int:
        return sum(shard.samples - sum(shard.class_counts[attribute]) for shard in self.shards(split))

    def save(self, directory: Path) -> None:
        """Write `manifest.json`, whole or not at all."""
        with replacing(directory / MANIFEST) as stream:
            stream.write(json.dumps(self.to_dict() | {"fingerprint": self.fingerprint}, indent=1).encode() + b"\n")

    def to_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "schema": self.schema.to_dict(),
            "image_size": list(self.image_size),
            "splits": {split: [asdict(shard) for shard in shards] for split, shards in self.splits.items()},
            "skipped": [asdict(skipped) for skipped in self.skipped],
        } | ({"persons": True} if self.persons else {})


def load_manifest(directory: Path) -> Manifest:
    """The manifest in `directory`; DataError where it is missing, damaged, edited or of another version."""
    path = directory / MANIFEST
    try:
        return decode_manifest(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no data set here; `privatenet shards build` makes one") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def decode_manifest(content: bytes, origin: Path | str) -> Manifest:
    """The manifest that is the content of the file or URL `origin`; DataError as in `load_manifest`."""
    try:
        plain = json.loads(content)
    except ValueError as error:
        raise DataError(f"{origin}: is not JSON: {error}") from error
    version = plain.get("version") if isinstance(plain, dict) else None
    if version != VERSION:
        raise DataError(f"{origin}: is of version {version}, accepted: {VERSION}; build the shards again")
    try:
        manifest = Manifest(
            version=version,
            schema=Schema.from_dict(plain["schema"]),
            image_size=_size(*plain["image_size"]),
            splits={split: tuple(_shard(shard) for shard in shards) for split, shards in plain["splits"].items()},
            skipped=tuple(Skipped(**skipped) for skipped in plain["skipped"]),
            persons=plain.get("persons", False),
        )
        whole = manifest.fingerprint == plain["fingerprint"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{origin}: is damaged ({error}); build the shards again") from error
    if not whole:
        raise DataError(f"{origin}: was changed after it was written; build the shards again")
    return manifest


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split, in the order of its shards.

    `labels` is int64 [N, A], a column per attribute in schema order; sample `i` is the `sizes[i]` bytes of JPEG or
    PNG at `offsets[i]` of the tar `paths[shard[i]]`. `persons` is int64 [N], the number of each sample's person (-1:
    unknown), or None where nobody in this split is known.
    """

    directory: Path
    name: str
    schema: Schema
    image_size: tuple[int, int]
    names: list[str]
    labels: npt.NDArray[np.int64]
    persons: npt.NDArray[np.int64] | None
    shard: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, sample: int) -> bytes:
        """The JPEG or PNG of one sample."""
        path = self.paths[int(self.shard[sample])]
        with path.open("rb") as stream:
            stream.seek(int(self.offsets[sample]))
            return stream.read(int(self.sizes[sample]))


def open_split(directory: Path, split: str) -> Split:
    """The samples of a split; DataError where a shard is missing, has another size or an index of another content."""
    manifest = load_manifest(directory)
    shards = manifest.shards(split)
    indices = [_open_index(directory, shard) for shard in shards]
    counts = [len(index.names) for index in indices]
    columns = {
        name: np.array([label for index in indices for label in index.labels[name]], dtype=np.int64)
        for name in label_names(manifest.schema, manifest.persons)
    }
    persons = columns.pop(PERSON, None)
    return Split(
        directory=directory,
        name=split,
        schema=manifest.schema,
        image_size=manifest.image_size,
        names=[name for index in indices for name in index.names],
        labels=np.stack(list(columns.values()), axis=1),
        persons=persons if persons is not None and (persons >= 0).any() else None,
        shard=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        offsets=np.array([offset for index in indices for offset in index.offsets], dtype=np.int64),
        sizes=np.array([size for index in indices for size in index.sizes], dtype=np.int64),
        paths=tuple(directory / shard.name for shard in shards),
    )


def label_names(schema: Schema, persons: bool) -> tuple[str, ...]:
    """What each sample has a number for: the attributes in schema order, and last its person where `persons`."""
    return (*schema.names, PERSON) if persons else schema.names


@dataclass(frozen=True)
class Index:
    """What is known of one shard: its samples, the tar's own size and sum, and who was left out of it."""

    names: list[str]
    offsets: list[int]
    sizes: list[int]
    labels: dict[str, list[int]]
    skipped: list[dict[str, str]]
    tar_bytes: int
    tar_sha256: str

    def encode(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, content: bytes, origin: Path) -> "Index":
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise DataError(f"{origin}: is damaged ({error}); build the shards again") from error


def index_name(shard_name: str) -> str:
    """The file name of a shard's index."""
    return shard_name.removesuffix(".tar") + ".json"


def _open_index(directory: Path, shard: Shard) -> Index:
    tar, path = directory / shard.name, directory / shard.index_name
    size = tar.stat().st_size if tar.is_file() else None
    if size != shard.bytes:
        state = "is missing" if size is None else f"has {size:,} bytes"
        raise DataError(f"{tar}: {state}, accepted: {shard.bytes:,} bytes; build the shards again")
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != shard.index_sha256:
        state = "is not the index that the manifest names" if content else "is missing"
        raise DataError(f"{path}: {state}; build the shards again")
    return Index.decode(content, path)


def _shard(plain: dict[str, Any]) -> Shard:
    shard = Shard(**plain)
    if not _SHARD.fullmatch(shard.name):
        raise ValueError(f"shard '{shard.name}', accepted: SPLIT-000000.tar")
    return Shard(**plain | {"class_counts": {name: tuple(counts) for name, counts in shard.class_counts.items()}})


def _size(height: int, width: int) -> tuple[int, int]:
    return height, width
