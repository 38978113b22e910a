"""Files that are whole or not there: written under another name, flushed to the disk, then renamed."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from privatenet.data_shards.errors import DataError

TMP = ".tmp"
"""The ending of a file that is still being written."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk, a quota or a file system's limit says."""


def cannot_write(path: Path | str, error: OSError) -> str:
    """What `error` is to a person who wanted `path` written, and what to do."""
    advice = "make room on that disk" if error.errno in FULL else "name a folder that can be written to"
    return f"{path}: cannot be written ({error.strerror or error}); {advice}, and what is finished is kept"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block `path`, or what is below it, is written; DataError where the disk is full or does not let us."""
    try:
        yield
    except OSError as error:
        raise DataError(cannot_write(path, error)) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become `path` when the block ends; an exception leaves `path` as it was."""
    unfinished = path.with_name(path.name + TMP)
    with writing(path):
        try:
            with unfinished.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        flush_to_disk(path.parent)


def make_once(path: Path, make: Callable[[], None]) -> None:
    """Call `make`, which writes `path`, unless it is there: of several processes that want it, one; the others wait.

    DataError where it cannot be written.
    """
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                make()
    except OSError as error:
        raise DataError(f"{path}: cannot be made ({error}); give data.cache a folder with room to write in") from error


def allocate(path: Path) -> None:
    """Take the room of a sparse file on the disk, all that a memory map will write to: later a full disk would end the
    process by a signal, without a word. Where the system has no call for it, as macOS, nothing is taken."""
    with path.open("r+b") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


def cut_unfinished_line(path: Path) -> None:
    """Cut off a last line that a killed process left half written, before others are appended."""
    if path.is_file():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def read_whole(path: Path, largest: int, what: str, error: Callable[[str], Exception]) -> bytes:
    """The content of a regular file of at most `largest` bytes, which should be a `what`. Raises `error`."""
    try:
        if (size := path.stat().st_size) > largest or not path.is_file():
            raise error(f"{path}: is no {what}, but {f'{size:,} bytes' if path.is_file() else 'no file'}")
        return path.read_bytes()
    except OSError as cause:
        raise error(f"{path}: cannot be read: {cause.strerror}") from cause


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
