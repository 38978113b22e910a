"""Where a sweep's trials are stored, and whether the sweep may begin or go on there.

<ray.storage>/<name of the output folder>/sweep.yaml                  the settings of the sweep
<ray.storage>/<name of the output folder>/mlflow.yaml                 its run in MLflow
<ray.storage>/<name of the output folder>/{shared,trials,audits}/     what Tune keeps of its phases

Without `ray.storage` the folder is `ray` in the output folder.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
import yaml

from privatenet.data_shards.yaml_files import decode_yaml
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.provenance import differences
from privatenet.tune.settings import SweepConfig

SETTINGS = "sweep.yaml"

Identity = Mapping[str, Any]
"""The settings that decide a sweep's results, as nested plain values."""


@dataclass(frozen=True)
class Storage:
    """The folder `path` of one sweep's trials in `filesystem`. `name` is how messages call it: without the URL."""

    filesystem: fsspec.AbstractFileSystem
    path: str
    name: str
    arrow: pyarrow.fs.FileSystem | None
    """The file system in the form that Tune takes; None for a local folder."""

    @property
    def identity(self) -> Identity | None:
        """The settings of the sweep whose trials are here: None where nothing is, empty where they are missing."""
        empty = not self.filesystem.exists(self.path) or not self.filesystem.ls(self.path)
        return None if empty else self.read(SETTINGS)

    def read(self, name: str) -> dict[str, Any]:
        """The values in file `name`; none where it is missing. Raises `ConfigError` where it holds no values."""
        path = f"{self.path}/{name}"
        if not self.filesystem.isfile(path):
            return {}
        return _mapping(self.filesystem.cat_file(path), f"{self.name}/{name}")

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        self.filesystem.makedirs(self.path, exist_ok=True)
        self.filesystem.pipe_file(f"{self.path}/{name}", _encode(values))


class UrlFileSystem(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]
    """The file system of a URL, for Tune, and the `path` in it.

    Opened anew where it is unpickled: Ray pickles it into the storage itself, and what fsspec's client took from the
    environment, a password say, must not get there.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        filesystem, self.path = fsspec.core.url_to_fs(url)
        super().__init__(filesystem)

    def __reduce__(self) -> tuple[type["UrlFileSystem"], tuple[str]]:
        return UrlFileSystem, (self.url,)


def storage_of(sweep: SweepConfig) -> Storage:
    """The storage of a sweep. Raises `ConfigError` where `ray.storage` is a URL that nothing here can read."""
    output, root = Path(sweep.config.output).resolve(), sweep.ray.storage
    if root.has_credentials:
        raise ConfigError(
            f"ray.storage: {root}: Ray would write its name, password or token down: give them in the environment of "
            "every machine, as its client takes them (AWS_ACCESS_KEY_ID, FSSPEC_<SCHEME>_PASSWORD, ...)"
        )
    if "://" not in root:
        path = str(Path(root).resolve() / output.name if root else output / "ray")
        return Storage(fsspec.filesystem("file"), path, path, None)
    try:
        handler = UrlFileSystem(str(root))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"ray.storage: {error}") from error
    path, name = f"{handler.path.rstrip('/')}/{output.name}", f"the folder {output.name!r} in ray.storage"
    return Storage(handler.fs, path, name, pyarrow.fs.PyFileSystem(handler))


def begin(sweep: SweepConfig, resume: bool) -> Storage:
    """Write a new sweep's settings to its output and storage, or check those of the one that is resumed.

    Raises `ConfigError` as `check_begun` does.
    """
    storage = storage_of(sweep)
    path = Path(sweep.config.output) / SETTINGS
    in_output = _mapping(path.read_bytes(), str(path)) if path.is_file() else None
    in_storage = storage.identity
    check_begun(sweep.identity, resume, {str(path.parent): in_output, storage.name: in_storage})
    if resume and storage.arrow is None:
        check_own(Path(storage.path))
    if in_storage is None:
        storage.write(SETTINGS, sweep.identity)
    if in_output is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encode(sweep.identity))
    return storage


def check_own(folder: Path) -> None:
    """Raise `ConfigError` where somebody else has written below `folder`, or may: Ray unpickles what is there, and so
    runs it."""
    for path in (folder, *sorted(folder.rglob("*"))):
        about = path.lstat()
        if about.st_uid != os.getuid() or (about.st_mode & stat.S_IWOTH and not stat.S_ISLNK(about.st_mode)):
            raise ConfigError(
                f"--resume: {path}: is another user's, or may be written to by all, and Ray would run what is in it; "
                "resume from a storage of your own"
            )


def check_begun(identity: Identity, resume: bool, places: Mapping[str, Identity | None]) -> None:
    """Raise `ConfigError` where a sweep of these settings may not begin or, with `resume`, go on.

    `places` names the output folder and then the storage, each with the settings that were found there, or None. A
    sweep begins only where neither holds one. It goes on where the storage holds its trials, and no other sweep is in
    the output folder, which may be lost.
    """
    output, storage = places
    begun = {place: settings for place, settings in places.items() if settings is not None}
    if not resume:
        for place in begun:
            raise ConfigError(f"{place} holds a sweep: --resume goes on with it, or choose another --output")
    elif not begun:
        raise ConfigError(f"--resume: {output} holds no sweep; leave --resume out to begin one there")
    elif storage not in begun:
        raise ConfigError(f"--resume: {storage} holds no trials of the sweep in {output}: give its ray.storage")
    for place, settings in begun.items():
        if changed := differences(settings, identity):
            raise ConfigError(f"--resume: {place} holds another sweep ({changed}): choose another --output")


def _mapping(content: bytes, origin: str) -> dict[str, Any]:
    values = decode_yaml(content, origin, ConfigError)
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: holds no settings of a sweep")
    return values


def _encode(values: Mapping[str, Any]) -> bytes:
    return yaml.safe_dump(dict(values), sort_keys=False).encode()
