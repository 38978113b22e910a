"""A folder that one process writes to at a time: `.lock` in it names the owner, the kernel says whether it lives."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from privatenet.data_shards.errors import DataError

LOCK = ".lock"
"""The file in a folder in use; it holds "host pid since", and its owner removes it at the end."""


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold `folder`, made where it is not there, for this process alone until the block ends.

    The kernel frees the lock of a process that died, so what it left on this host is taken over. DataError names the
    host and process that holds the folder, or the file to remove where the last owner was on another host: not every
    file system shares its locks between hosts, so that it may still be running.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = _open_locked(path)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to ({error.strerror}); name another folder") from error
    with stream:
        _check_last_owner(path, stream.read())
        stream.truncate(0)
        stream.write(f"{socket.gethostname()} {os.getpid()} {datetime.now().isoformat(timespec='seconds')}")
        stream.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _open_locked(path: Path) -> TextIO:
    """`path` open for reading from its start and for appending, locked; DataError where another process has it."""
    stream = path.open("a+", encoding="utf-8")
    try:
        stream.seek(0)
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        removed = os.fstat(stream.fileno()).st_nlink == 0  # by its owner, after we had opened it
    except BlockingIOError as error:
        message = (
            f"{path.parent}: is in use by {_describe(stream.read())}; wait until it is done, or name another folder"
        )
        stream.close()
        raise DataError(message) from error
    except BaseException:
        stream.close()
        raise
    if removed:
        stream.close()
        return _open_locked(path)
    return stream


def _check_last_owner(path: Path, owner: str) -> None:
    host = socket.gethostname()
    if owner and owner.split()[0] != host:
        raise DataError(
            f"{path.parent}: was in use by {_describe(owner)}, and {host} cannot tell whether it still runs; "
            f"if it does not, remove {path}"
        )


def _describe(owner: str) -> str:
    if not owner:
        return "a process that has just started"
    host, pid, since = owner.split()
    return f"process {pid} on {host} since {since}"
