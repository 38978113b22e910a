"""A stage's folder kept elsewhere too, at a path or a URL: for machines that are taken away with their disks.

<mirror>/<stage>/identity.json, config.yaml, metrics.jsonl, ...    as they are here
<mirror>/<stage>/checkpoints/step-00000120/                        those that are kept here; state.json is copied last
<mirror>/<stage>/final/                                            once the stage is done

Only the first rank copies.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fsspec.core import url_to_fs

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import replacing, writing
from privatenet.data_shards.shards.remote import SCHEMES
from privatenet.data_shards.uri import Uri
from privatenet.distributed.checkpoint import STATE, Checkpoint, Store, load, load_training
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.provenance import differences
from privatenet.distributed.tracking.outbox import OUTBOX, SENT, is_server, read_sent

IDENTITY, LEFT_OUT = "identity.json", "left-out.jsonl"
RECORDS = (IDENTITY, "config.yaml", "metrics.jsonl", SENT, OUTBOX, LEFT_OUT)
WAITS_S = (1.0, 4.0, 16.0)
"""Before a service is asked again that did not answer."""

T = TypeVar("T")


def check_mirror(mirror: Uri) -> None:
    """Raise `ConfigError` for a URL that nothing can be written to."""
    scheme, separator, _ = mirror.partition("://")
    schemes = [name for name in SCHEMES if not name.startswith("http")]
    if separator and (scheme not in schemes or "::" in mirror):
        raise ConfigError(f"mirror is {mirror}: accepted are a folder, or a URL of {', '.join(schemes)}")


class Mirror:
    """The copy of the stage's `folder` below `url`. What cannot be reached raises `DataError`, after some tries."""

    def __init__(self, url: Uri, folder: Path) -> None:
        self.url, self.folder = url / folder.name, folder

    def pull(self, identity: dict[str, Any]) -> None:
        """Fetch what is further there than here: the result, or the newest checkpoint.

        Raises `ConfigError` where another run is kept there.
        """
        if (self.folder / "final" / STATE).is_file() or not self._exists(IDENTITY):
            return
        self._check(identity)
        here, there = Store(self.folder / "checkpoints").folders(), self._whole_checkpoints()
        if self._exists(f"final/{STATE}"):
            name, open_checkpoint = "final", load
        elif there and (not here or there[-1] > here[-1].name):
            name, open_checkpoint = f"checkpoints/{there[-1]}", load_training
        else:
            return
        self._fetch_stage(name, open_checkpoint)

    def pull_result(self) -> None:
        """Fetch the finished stage, where it is there and not here: another stage stands on it."""
        if not (self.folder / "final").exists() and self._exists(f"final/{STATE}"):
            self._fetch_stage("final", load)

    def keep(self, checkpoints: Sequence[Path]) -> None:
        """Copy what is new of `checkpoints`, then remove all others; a line, and no more, where that does not work."""
        try:
            there = self._whole_checkpoints()
            for path in checkpoints:
                if path.name not in there:
                    self.push(path)
            kept = [path.name for path in checkpoints]
            for name in self._steps():
                if name not in kept and name < max(kept):  # a later one would be another machine's
                    self._remove(f"checkpoints/{name}")
        except DataError as error:
            print(f"privatenet: {error}; training goes on, and the next checkpoint is copied", file=sys.stderr)

    def finish(self, identity: dict[str, Any]) -> None:
        """Copy the result, where it is not there, and remove the checkpoints; a line, and no more, where that does not
        work. Raises `ConfigError` where another run is kept there."""
        try:
            if self._exists(IDENTITY):
                self._check(identity)
            if not self._exists(f"final/{STATE}"):
                self.push(self.folder / "final")
            if self._steps():
                self._remove("checkpoints")
        except DataError as error:
            print(f"privatenet: {error}; the result is not copied: the same command tries again", file=sys.stderr)

    def push(self, checkpoint: Path) -> None:
        """Copy a checkpoint, and the records as they are now."""
        whole = sorted(checkpoint.iterdir(), key=lambda path: path.name == STATE)
        for path in (*(self.folder / name for name in RECORDS), *whole):
            if path.is_file() and not (path.name == SENT and self._tracked_here()):
                self._put(path)

    def _tracked_here(self) -> bool:
        """Whether the run is in a store that another machine does not have: it sends all again, to its own."""
        sent = read_sent(self.folder)
        return sent is None or not is_server(sent.uri)

    def _check(self, identity: dict[str, Any]) -> None:
        content = self._try(lambda: self._files.cat_file(self._path(IDENTITY)))
        try:
            before = dict(json.loads(content))
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.url / IDENTITY}: is no identity of a run: {error}") from error
        if changed := differences(before, identity):
            raise ConfigError(f"{self.url} holds another run ({changed}): choose another --mirror, or remove that one")

    @cached_property
    def _files(self) -> Any:
        return url_to_fs(self.url.full)[0]

    def _path(self, name: str) -> str:
        path: str = self._files._strip_protocol((self.url / name).full)
        return path

    def _steps(self) -> list[str]:
        def ask() -> list[str]:
            folder = self._path("checkpoints")
            return self._files.ls(folder, detail=False) if self._files.exists(folder) else []

        return sorted(Path(path).name for path in self._try(ask))

    def _whole_checkpoints(self) -> list[str]:
        return [name for name in self._steps() if self._exists(f"checkpoints/{name}/{STATE}")]

    def _exists(self, name: str) -> bool:
        def ask() -> bool:
            self._files.invalidate_cache()  # what other machines have done since
            return bool(self._files.exists(self._path(name)))

        return self._try(ask)

    def _put(self, path: Path) -> None:
        def put() -> None:
            name = self._path(str(path.relative_to(self.folder)))
            self._files.makedirs(self._files._parent(name), exist_ok=True)
            self._files.put_file(str(path), name)

        self._try(put)

    def _remove(self, name: str) -> None:
        self._try(lambda: self._files.rm(self._path(name), recursive=True))

    def _fetch(self, name: str, path: Path) -> None:
        with replacing(path) as stream:
            self._try(lambda: self._files.get_file(self._path(name), stream.name))

    def _fetch_stage(self, name: str, open_checkpoint: Callable[[Path], Checkpoint]) -> None:
        """The stage's records, and its checkpoint `name`."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for record in RECORDS:
            if self._exists(record):
                self._fetch(record, self.folder / record)
        folder = self.folder / name
        work = folder.with_name(folder.name + ".tmp")
        work.mkdir(parents=True, exist_ok=True)
        self._fetch(f"{name}/{STATE}", work / STATE)
        for file in open_checkpoint(work).state["files"]:
            self._fetch(f"{name}/{file}", work / file)
        work.rename(folder)

    def _try(self, work: Callable[[], T]) -> T:
        for wait in (*WAITS_S, None):
            try:
                return work()
            except Exception as error:  # every service's client raises what it likes
                if wait is None or isinstance(error, ImportError):
                    lines = self.url.scrub(str(error)).splitlines() or [type(error).__name__]
                    message = f"{self.url}: cannot be used as a mirror ({lines[0]})"
                    break
                time.sleep(wait)
        raise DataError(f"{message}; check the address, the network, your rights, and what opens it")
