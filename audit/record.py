"""Results as files: dataclasses to JSON and back, by pydantic."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from privatenet.audit.errors import AuditError
from privatenet.data_shards.files import replacing

Record = TypeVar("Record")


def write_record(kind: TypeAdapter[Record], record: Record, path: Path) -> None:
    """Write `path`, whole or not at all."""
    with replacing(path) as stream:
        stream.write(kind.dump_json(record, indent=1) + b"\n")


def read_record(kind: TypeAdapter[Record], path: Path, what: str) -> Record:
    """The inverse of `write_record`. Raises `AuditError` where the file is missing or is no `what`."""
    try:
        return kind.validate_json(path.read_bytes())
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise AuditError(f"{path}: is no {what} ({error.error_count()} values are wrong)") from error
