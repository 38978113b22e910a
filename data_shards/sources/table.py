"""A CSV file and a schema as a source: for any labelled pictures, one row a picture.

    path,split,emotion,gender
    faces/ann.jpg,train,4,1
    faces/bob.png,test,7,0

`path` is relative to the CSV's folder or to a root given besides; `split` is any name, such as train or test; then one
column per attribute of the schema, its labels as the schema's `classes` write them. A column `name` may tell pictures
apart whose files are called the same; other columns are ignored.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.sources.schema import Schema
from privatenet.data_shards.sources.source import FolderSource, Record, check_pictures


def table_source(table: Path, schema: Path, root: Path | None = None) -> FolderSource:
    """The pictures that `table` lists under `root` (the table's folder), labelled after the file `schema`.

    DataError names the line, column or picture that is missing or has a label that the schema does not know.
    """
    labels = Schema.from_yaml(schema)
    records = tuple(_read_records(table, labels))
    folder = table.parent if root is None else root
    check_pictures(folder, records)
    return FolderSource(labels, records, folder)


def _read_records(table: Path, schema: Schema) -> Iterator[Record]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream, strict=True)
            _check_columns(table, rows.fieldnames or (), schema)
            for row in rows:
                yield _record(row, schema, f"{table}, line {rows.line_num}")
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table}: is not CSV in UTF-8: {error}") from error


def _record(row: dict[str, str | None], schema: Schema, where: str) -> Record:
    values = {column: _value(row, column, where) for column in ("path", "split", *schema.names)}
    try:
        labels = tuple(attribute.encode(values[attribute.name]) for attribute in schema.attributes)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return Record(
        name=(row.get("name") or "").strip() or Path(values["path"]).stem,
        split=values["split"],
        labels=labels,
        location=values["path"],
    )


def _value(row: dict[str, str | None], column: str, where: str) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise DataError(f"{where}: column '{column}' is empty")
    return value


def _check_columns(table: Path, found: Sequence[str], schema: Schema) -> None:
    needed = ("path", "split", *schema.names)
    for column in needed:
        if column not in found:
            raise DataError(
                f"{table}: has no column '{column}', needed: {', '.join(needed)}; found: {', '.join(found)}"
            )
