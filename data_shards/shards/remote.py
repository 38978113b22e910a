"""Shards that lie elsewhere: what a URL names, fetched once per machine into a folder that its processes share.

<cache>/<fingerprint>/train-000000.tar    every file whole or not there, its sum that of the manifest
<cache>/<fingerprint>/manifest.json       written last: where it is, all was fetched
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import file_sha256, make_once, replacing
from privatenet.data_shards.shards.manifest import MANIFEST, Manifest, Shard, decode_manifest, load_manifest
from privatenet.data_shards.shards.passing import PassingTars
from privatenet.data_shards.uri import Uri

SCHEMES = ("abfs", "az", "file", "gcs", "gs", "hdfs", "http", "https", "s3", "s3a")

_AT_ONCE = 8
"""Files that are fetched at the same time."""


def local_copy(shards: str, cache: str = "") -> Path:
    """The folder of the shards on this machine: `shards` itself, or what it names by URL, fetched where it is not yet.

    Fetched into `cache`, or into the user's own cache folder where that is empty. The URL's manifest is read each time.
    DataError where the URL is of another scheme, cannot be reached, or names files of another content.
    """
    if "://" not in shards:
        return Path(shards)
    remote = _Remote.at(shards)
    folder = remote.folder(cache)

    def fetch() -> None:
        every = remote.shards
        remote.fetch(folder, [*((s.name, s.sha256) for s in every), *((s.index_name, s.index_sha256) for s in every)])
        remote.write_manifest(folder)

    make_once(folder / MANIFEST, fetch)
    _check_whole(folder, remote.manifest)
    return folder


def passing_copy(shards: str, cache: str, room: int) -> tuple[Path, PassingTars]:
    """A folder beside that of `local_copy` with manifest and indices of the URL `shards`, and its tars, which come as
    they are asked for; at most `room` bytes of them stay. DataError as `local_copy`."""
    remote = _Remote.at(shards)
    folder = remote.folder(cache).with_name(remote.folder(cache).name + "-passing")

    def fetch() -> None:
        remote.fetch(folder, [(shard.index_name, shard.index_sha256) for shard in remote.shards])
        remote.write_manifest(folder)

    make_once(folder / MANIFEST, fetch)
    by_name = {shard.name: shard for shard in remote.shards}
    return folder, PassingTars(folder, by_name, room, lambda shard: remote.fetch_file(folder, shard.name, shard.sha256))


def read_manifest(shards: str) -> Manifest:
    """The manifest of the data set in a folder or at a URL; nothing else is fetched. DataError as `local_copy`."""
    return _Remote.at(shards).manifest if "://" in shards else load_manifest(Path(shards))


@dataclass(frozen=True)
class _Remote:
    """A data set at a URL: its files, `root` in `store`, and its manifest, also as it is written there (`content`)."""

    store: Any
    root: Uri
    url: Uri
    manifest: Manifest
    content: bytes

    @classmethod
    def at(cls, shards: str) -> "_Remote":
        url = Uri(shards)
        scheme = url.partition("://")[0]
        if scheme not in SCHEMES or "::" in url:
            raise DataError(f"{url}: cannot be read from there, accepted: a folder, or a URL of {', '.join(SCHEMES)}")
        with _reaching(url):
            store, path = url_to_fs(url.full)
        root, origin = Uri(path), url / MANIFEST
        with _reaching(origin):
            content: bytes = store.cat_file((root / MANIFEST).full)
        return cls(store, root, url, decode_manifest(content, origin), content)

    @property
    def shards(self) -> list[Shard]:
        return [shard for split in self.manifest.splits.values() for shard in split]

    def folder(self, cache: str) -> Path:
        return (Path(cache) if cache else _users_cache()) / self.manifest.fingerprint[:16]

    def write_manifest(self, folder: Path) -> None:
        with replacing(folder / MANIFEST) as stream:
            stream.write(self.content)

    def fetch(self, folder: Path, files: Sequence[tuple[str, str]]) -> None:
        """Fetch files, by name and sum, that are not in `folder`."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda file: self.fetch_file(folder, *file), files))

    def fetch_file(self, folder: Path, name: str, sha256: str) -> None:
        if (folder / name).exists():  # from a fetch that was interrupted
            return
        with replacing(folder / name) as stream, _reaching(self.url / name):
            self.store.get_file((self.root / name).full, stream.name)
            if file_sha256(Path(stream.name)) != sha256:
                raise DataError(f"{self.url / name}: is not the file that {MANIFEST} names; upload the shards again")


def _check_whole(folder: Path, manifest: Manifest) -> None:
    for shard in (shard for split in manifest.splits.values() for shard in split):
        tar, index = folder / shard.name, folder / shard.index_name
        if not tar.is_file() or tar.stat().st_size != shard.bytes or not index.is_file():
            raise DataError(f"{tar}: is not what was fetched any more; remove {folder}, it will be fetched again")


@contextmanager
def _reaching(url: Uri) -> Iterator[None]:
    """Say in one line why `url` cannot be fetched, without its credentials."""
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"{url}: needs a package that is not installed here: {error}") from error
    except Exception as error:  # every service's client raises what it likes
        lines = ["no such file"] if isinstance(error, FileNotFoundError) else url.scrub(str(error)).splitlines()
        why = lines[0] if lines else type(error).__name__
        raise DataError(
            f"{url}: cannot be fetched ({why}); check the address, its name and password (no file keeps these: "
            "give them again with --data.shards, or --shards), the network, your rights and the room in data.cache"
        ) from None  # a client's own error may repeat them


def _users_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "privatenet"
