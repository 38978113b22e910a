"""A CSV file and a schema as a source: for any labelled pictures, one row a picture.

    path,split,emotion,gender
    faces/ann.jpg,train,4,1
    faces/bob.png,test,7,0

`path` is relative to the CSV's folder or to a root given besides; `split` is any name, such as train or test; then one
column per attribute of the schema, its labels as the schema's `classes` write them, or empty where a label is unknown.
A column `name` may tell pictures apart whose files are called the same, a column `person` says who is in each (empty:
somebody unknown, in no other picture); other columns are ignored.

A sample is called as its file is, without the ending. What a shard's names cannot hold is written as in a URL, and `%`
itself too: `1_0.jpg.chip.jpg` becomes `1_0%2Ejpg%2Echip`, and `urllib.parse.unquote` gives back `1_0.jpg.chip`.
Of `person` shards keep a number; where the files are called after people, a column `name` keeps that out of them, too.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.sources.record import UNSAFE, FolderSource, Record, check_pictures
from privatenet.data_shards.sources.schema import PERSON, UNSURE, Schema


def table_source(table: Path, schema: Path, root: Path | None = None) -> FolderSource:
    """The pictures that `table` lists under `root` (the table's folder), labelled after the file `schema`.

    DataError names the line, column or picture that is missing or has a label that the schema does not know.
    """
    labels = Schema.from_yaml(schema)
    records = tuple(_read_records(table, labels))
    folder = table.parent if root is None else root
    check_pictures(folder, records)
    return FolderSource(labels, records, folder)


def safe_name(name: str) -> str:
    """The name as a shard can hold it, `%` and what is refused there as `%` and two hexadecimal digits."""
    return re.sub(f"%|{UNSAFE}", lambda match: f"%{ord(match[0]):02X}", name)


def _read_records(table: Path, schema: Schema) -> Iterator[Record]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream, strict=True)
            _check_columns(table, rows.fieldnames or (), schema)
            line_of: dict[str, int] = {}
            for row in rows:
                record = _record(row, schema, f"{table}, line {rows.line_num}")
                if record.name in line_of:
                    raise DataError(
                        f"{table}: lines {line_of[record.name]} and {rows.line_num} are both called '{record.name}'; "
                        "a column `name` can tell them apart"
                    )
                line_of[record.name] = rows.line_num
                yield record
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table}: is not CSV in UTF-8: {error}") from error


def _record(row: dict[str, str | None], schema: Schema, where: str) -> Record:
    path, split, *cells = (_cell(row, column, where) for column in ("path", "split", *schema.names))
    try:
        labels = tuple(
            attribute.encode(cell) if cell else UNSURE for attribute, cell in zip(schema.attributes, cells, strict=True)
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return Record(
        name=safe_name((row.get("name") or "").strip() or Path(path).stem),
        split=split,
        labels=labels,
        location=path,
        person=(row.get(PERSON) or "").strip() or None,
    )


def _cell(row: dict[str, str | None], column: str, where: str) -> str:
    """What stands in a column; DataError where the line ends before it, or `path` or `split` is empty."""
    cell = row[column]
    if cell is None:
        raise DataError(f"{where}: ends before the column '{column}'")
    if not cell.strip() and column in ("path", "split"):
        raise DataError(f"{where}: column '{column}' is empty")
    return cell.strip()


def _check_columns(table: Path, columns: Sequence[str], schema: Schema) -> None:
    needed = ("path", "split", *schema.names)
    for column in needed:
        if column not in columns:
            raise DataError(
                f"{table}: has no column '{column}', needed: {', '.join(needed)}; found: {', '.join(columns)}"
            )
