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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PlainValidator, TypeAdapter, with_config

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import replacing
from privatenet.data_shards.records import CLOSED, Count, Sha256, decode
from privatenet.data_shards.sources.record import NAME_BYTES
from privatenet.data_shards.sources.schema import IDENTIFIER, PERSON, UNSURE, Schema

MANIFEST = "manifest.json"
VERSION: Final = 1

Side = Annotated[int, Field(ge=1, le=2**14)]
SampleName = Annotated[str, Field(min_length=1, max_length=NAME_BYTES)]
SplitName = Annotated[str, Field(pattern=rf"^{IDENTIFIER.pattern}$")]


@with_config(CLOSED)
@dataclass(frozen=True)
class Shard:
    """One tar: its file name, size and sums, and per attribute the samples of each class (unknown left out)."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+-\d{6,12}\.tar$")]
    samples: Count
    bytes: Count
    sha256: Sha256
    index_sha256: Sha256
    class_counts: dict[str, tuple[Count, ...]]

    @property
    def index_name(self) -> str:
        return index_name(self.name)


@with_config(CLOSED)
@dataclass(frozen=True)
class Skipped:
    """A sample that a build left out because its picture was corrupt."""

    name: str
    split: str
    reason: str


@with_config(CLOSED)
@dataclass(frozen=True)
class Manifest:
    """What a sharded data set holds.

    `image_size` is (height, width) in pixels, the same for every picture; `persons` says whether any picture's person
    is known.
    """

    version: Literal[1]
    schema: Annotated[Schema, PlainValidator(Schema.from_dict)]
    image_size: tuple[Side, Side]
    splits: Annotated[dict[SplitName, tuple[Shard, ...]], Field(min_length=1)]
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
            "splits": {split: [dict(vars(shard)) for shard in shards] for split, shards in self.splits.items()},
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
    written = decode(_WRITTEN, content, origin, "manifest of a data set", damaged)
    manifest = Manifest(**{field.name: getattr(written, field.name) for field in fields(Manifest)})
    if problem := _mismatch(manifest):
        raise damaged(f"{origin}: {problem}")
    if manifest.fingerprint != written.recorded:
        raise damaged(f"{origin}: was changed after it was written")
    return manifest


@with_config(CLOSED)
@dataclass(frozen=True, kw_only=True)
class _Written(Manifest):
    """A manifest as its file has it."""

    recorded: Annotated[str, Field(validation_alias="fingerprint")]


_WRITTEN = TypeAdapter(_Written)


def _mismatch(manifest: Manifest) -> str:
    """Which parts of a manifest, right by themselves, do not fit each other; empty where all do."""
    classes = {attribute.name: len(attribute.classes) for attribute in manifest.schema.attributes}
    names: set[str] = set()
    for split, shards in manifest.splits.items():
        for shard in shards:
            if shard.name in names or shard.name.rpartition("-")[0] != split:
                return f"{shard.name} of split {split} is there twice, or another split's"
            names.add(shard.name)
            if {name: len(counts) for name, counts in shard.class_counts.items()} != classes:
                return f"{shard.name}: class_counts are not of the schema's attributes and classes"
            if max(map(sum, shard.class_counts.values())) > shard.samples:
                return f"{shard.name}: has more labels than its {shard.samples} samples"
    return ""


def label_names(schema: Schema, persons: bool) -> tuple[str, ...]:
    """What each sample has a number for: the attributes in schema order, and last its person where `persons`."""
    return (*schema.names, PERSON) if persons else schema.names


@with_config(CLOSED)
@dataclass(frozen=True)
class Index:
    """What is known of one shard: its samples, the tar's own size and sum, and who was left out of it."""

    names: list[SampleName]
    offsets: list[Count]
    sizes: list[Count]
    labels: dict[str, list[int]]
    skipped: list[dict[str, str]]
    tar_bytes: Count
    tar_sha256: Sha256

    def encode(self) -> bytes:
        return json.dumps(vars(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, content: bytes, origin: Path) -> "Index":
        return decode(_INDEX, content, origin, "index of a shard", damaged)

    def describes(self, shard: Shard) -> bool:
        """Whether it was made for the bytes of this shard."""
        return (self.tar_bytes, self.tar_sha256) == (shard.bytes, shard.sha256)

    def mismatch(self, shard: Shard, manifest: Manifest) -> str:
        """What is here that does not fit `shard` of `manifest`; empty where all does."""
        columns: dict[str, Sequence[object]] = {
            "names": self.names, "offsets": self.offsets, "sizes": self.sizes, **self.labels
        }  # fmt: skip
        if set(self.labels) != set(label_names(manifest.schema, manifest.persons)):
            return f"has labels of {', '.join(self.labels)}, the schema has {', '.join(manifest.schema.names)}"
        if wrong := next((name for name, values in columns.items() if len(values) != shard.samples), None):
            return f"has {len(columns[wrong])} {wrong}, the manifest {shard.samples} samples"
        if any(offset + size > shard.bytes for offset, size in zip(self.offsets, self.sizes, strict=True)):
            return "names bytes behind the end of its tar"
        for name, labels in self.labels.items():
            most = 2**62 if name == PERSON else len(manifest.schema.attribute(name).classes)
            if labels and not UNSURE <= min(labels) <= max(labels) < most:
                return f"has a label of '{name}' that is no class"
        return ""


_INDEX = TypeAdapter(Index)


def index_name(shard_name: str) -> str:
    """The file name of a shard's index."""
    return shard_name.removesuffix(".tar") + ".json"


def damaged(message: str) -> DataError:
    """The error for a data set that is not as it was written."""
    return DataError(f"{message}; build the shards again")
