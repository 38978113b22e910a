"""JSON from outside, judged once, where it enters: a dataclass says what is accepted, and pydantic checks every value.

Written whole or not at all. Nothing is guessed: a number as text is no number, a key that is not known is refused
where the dataclass says so (`CLOSED`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from privatenet.data_shards.files import read_whole, replacing

CLOSED = ConfigDict(extra="forbid")
"""For `with_config`: a dataclass whose files have its keys and no others."""
LARGEST = 2**28
"""Bytes of a file that is read at most."""
SHOWN = 60
"""Characters of a wrong value that an error repeats."""

Count = Annotated[int, Field(ge=0, lt=2**53)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

Record = TypeVar("Record")


def write(kind: TypeAdapter[Record], record: Record, path: Path) -> None:
    """Write `path`, whole or not at all."""
    with replacing(path) as stream:
        stream.write(kind.dump_json(record, indent=1) + b"\n")


def read(kind: TypeAdapter[Record], path: Path, what: str, error: Callable[[str], Exception]) -> Record:
    """The inverse of `write`. Raises `error` where the file is missing, too large or no `what`."""
    return decode(kind, read_whole(path, LARGEST, what, error), path, what, error)


def decode(
    kind: TypeAdapter[Record], content: bytes, origin: object, what: str, error: Callable[[str], Exception]
) -> Record:
    """The record that is the content of `origin`. Raises `error` naming the first key and value that is wrong."""
    try:
        return kind.validate_json(content, strict=True)
    except ValidationError as cause:
        first = cause.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        value = "" if first["type"] in ("json_invalid", "value_error", "missing") else f", not {_short(first['input'])}"
        raise error(f"{origin}: is no {what}: {f'{key}: ' if key else ''}{message}{value}") from cause


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
