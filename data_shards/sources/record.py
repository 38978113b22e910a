"""Where labelled pictures come from: records, the protocol that every source keeps, and what all of them check."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.sources.schema import IDENTIFIER, UNSURE, Schema

NAME_BYTES = 250
"""The longest name that is still a file's name when a tar is unpacked, with its `.json`."""

UNSAFE = r"[./\\\x00-\x1f\x7f]"
"""What a sample's name cannot hold: a dot ends it, a slash is a folder, and the rest confuses people."""


@dataclass(frozen=True)
class Record:
    """One picture before it is read: its name, its split, its class indices in schema order, where its bytes are.

    `person` is who is in it, as the source writes it; None where that is unknown. Shards keep a number instead.
    """

    name: str
    split: str
    labels: tuple[int, ...]
    location: str
    person: str | None = None


class Source(Protocol):
    """Anything that can list its records and read a picture's bytes; it must survive pickling."""

    @property
    def schema(self) -> Schema: ...

    @property
    def records(self) -> Sequence[Record]: ...

    def read(self, record: Record) -> bytes:
        """The picture's file as it is; DataError where it cannot be read."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """Pictures as files: a record's location is its path from `root`."""

    schema: Schema
    records: tuple[Record, ...]
    root: Path

    def read(self, record: Record) -> bytes:
        path = self.root / record.location
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: picture '{record.name}' cannot be read: {error.strerror}") from error


def check_records(records: Sequence[Record], schema: Schema) -> None:
    """Refuse records that cannot become shards, before anything is written."""
    if not records:
        raise DataError(f"data set '{schema.name}' has no samples, accepted: at least one")
    num_classes = [len(attribute.classes) for attribute in schema.attributes]
    location_of: dict[str, str] = {}
    for record in records:
        if not record.name or re.search(UNSAFE, record.name) or len(record.name.encode()) > NAME_BYTES:
            raise DataError(
                f"{record.location}: name '{record.name}' cannot be used in a shard, accepted: 1 to {NAME_BYTES} bytes "
                "without dots, slashes or control characters"
            )
        if record.name in location_of:
            raise DataError(
                f"name '{record.name}' is that of two samples, {location_of[record.name]} and {record.location}, "
                "accepted: a name once over all splits"
            )
        location_of[record.name] = record.location
        if not IDENTIFIER.fullmatch(record.split):
            raise DataError(
                f"sample '{record.name}' is in split '{record.split}', accepted: lower-case letters, digits and _, "
                "such as train or test"
            )
        in_range = [UNSURE <= label < num for label, num in zip(record.labels, num_classes, strict=False)]
        if len(record.labels) != len(num_classes) or not all(in_range):
            raise DataError(
                f"sample '{record.name}' has labels {record.labels}, accepted: a class index or {UNSURE} for each of "
                f"{', '.join(schema.names)}"
            )
    column = schema.names.index(schema.target)
    for split in ("train", "test"):
        targets = {record.labels[column] for record in records if record.split == split}
        if targets == {UNSURE}:
            raise DataError(
                f"data set '{schema.name}': no sample of split '{split}' has a known '{schema.target}', the target, "
                "accepted: at least one, or another attribute as the target"
            )


def check_pictures(root: Path, records: Iterable[Record]) -> None:
    """Refuse records whose file is not there: one listing per folder, however many pictures it holds."""
    listings: dict[Path, set[str]] = {}
    missing = []
    for record in records:
        path = root / record.location
        if path.parent not in listings:
            listings[path.parent] = {entry.name for entry in path.parent.iterdir()} if path.parent.is_dir() else set()
        if path.name not in listings[path.parent]:
            missing.append(path)
    if missing:
        others = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}: no such picture{others}")
