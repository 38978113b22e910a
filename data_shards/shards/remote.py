"""Shards that lie elsewhere: what a URL names, fetched once per machine into a folder that its processes share.

<cache>/<fingerprint>/train-000000.tar    every file whole or not there, its sum that of the manifest
<cache>/<fingerprint>/manifest.json       written last: where it is, all was fetched
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import file_sha256, make_once, replacing
from privatenet.data_shards.shards.manifest import MANIFEST, Manifest, decode_manifest
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
    url = Uri(shards)
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES or "::" in url:
        raise DataError(f"{url}: cannot be read from there, accepted: a folder, or a URL of {', '.join(SCHEMES)}")
    with _reaching(url):
        store, path = url_to_fs(url.full)
    root, origin = Uri(path), url / MANIFEST
    with _reaching(origin):
        content: bytes = store.cat_file((root / MANIFEST).full)
    manifest = decode_manifest(content, origin)
    folder = (Path(cache) if cache else _users_cache()) / manifest.fingerprint[:16]

    def fetch() -> None:
        _fetch_shards(store, root, url, manifest, folder)
        with replacing(folder / MANIFEST) as stream:
            stream.write(content)

    make_once(folder / MANIFEST, fetch)
    _check_whole(folder, manifest)
    return folder


def _fetch_shards(store: Any, root: Uri, url: Uri, manifest: Manifest, folder: Path) -> None:
    """Fetch every tar and index of the manifest that is not in `folder`."""

    def fetch(name: str, sha256: str) -> None:
        if (folder / name).exists():  # from a fetch that was interrupted
            return
        with replacing(folder / name) as stream, _reaching(url / name):
            store.get_file((root / name).full, stream.name)
            if file_sha256(Path(stream.name)) != sha256:
                raise DataError(f"{url / name}: is not the file that {MANIFEST} names; upload the shards again")

    shards = [shard for split in manifest.splits.values() for shard in split]
    names = [name for shard in shards for name in (shard.name, shard.index_name)]
    sums = [value for shard in shards for value in (shard.sha256, shard.index_sha256)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(fetch, names, sums))


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
