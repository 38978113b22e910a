"""Tars of a data set that is larger than what this machine keeps: fetched as their samples are due, then let go."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import TMP
from privatenet.data_shards.shards.manifest import Shard

_AT_ONCE = 4
"""Tars that are fetched ahead at the same time."""


class PassingTars:
    """The tars in `folder`, which processes share; `fetch` brings one there, whole or not at all.

    No more than `room` bytes of them are there or on their way: what was opened longest ago makes way. One that is open
    can be read to its end all the same. `shards` are those of the manifest, by name.
    """

    def __init__(self, folder: Path, shards: Mapping[str, Shard], room: int, fetch: Callable[[Shard], None]) -> None:
        self.folder, self.shards, self.room, self.fetch = folder, shards, room, fetch
        self.pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="shards")
        self.due: set[str] = set()
        for unfinished in folder.glob(f"*.tar{TMP}"):  # of processes that were killed
            with suppress(Timeout), FileLock(f"{unfinished.with_suffix('')}.lock", timeout=0):
                unfinished.unlink(missing_ok=True)

    def check(self, window: int) -> None:
        """Raises `DataError` where there is no room for two windows of shards, the one that is read and the next."""
        largest = max((shard.bytes for shard in self.shards.values()), default=0)
        needed = min(2 * window, len(self.shards)) * largest
        if self.room < needed:
            raise DataError(
                f"data.disk_gib {self.room / 2**30:g} is too small for two windows of {window} shards: accepted are 0 "
                f"(keep all), {math.ceil(needed / 2**30 * 100) / 100} and more, or a smaller data.window"
            )

    def open(self, name: str) -> int:
        """A file descriptor of the tar, which is fetched where it is not here."""
        path = self.folder / name
        while True:
            with suppress(FileNotFoundError):  # another process may just have removed it
                descriptor = os.open(path, os.O_RDONLY)
                os.utime(descriptor)
                return descriptor
            self._bring(name)

    def ask(self, names: Iterable[str]) -> None:
        """Fetch tars that are soon due, while others are read."""
        for name in set(names) - self.due:
            if not (self.folder / name).exists():
                self.due.add(name)
                self.pool.submit(self._bring_ahead, name)

    def _bring_ahead(self, name: str) -> None:
        """What goes wrong here goes wrong again, and is told, when the tar is opened."""
        try:
            self._bring(name)
        finally:
            self.due.discard(name)

    def _bring(self, name: str) -> None:
        path = self.folder / name
        if path.exists():
            return
        with FileLock(f"{path}.lock"):
            if not path.exists():
                self._make_room(name)
                self.fetch(self.shards[name])

    def _make_room(self, name: str) -> None:
        """Remove tars until `name` has room, and take that by the name under which it will be fetched."""
        with FileLock(self.folder / "room.lock"):
            (self.folder / (name + TMP)).touch()
            coming = sum(self.shards[path.stem].bytes for path in self.folder.glob(f"*.tar{TMP}"))
            opened = sorted((_opened(path), path) for path in self.folder.glob("*.tar"))
            total = coming + sum(self.shards[path.name].bytes for _, path in opened)
            for _, path in opened:
                if total <= self.room:
                    return
                path.unlink(missing_ok=True)
                total -= self.shards[path.name].bytes


def _opened(path: Path) -> int:
    """When a tar was opened last; 0 where another process has just removed it."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
