"""Is a sharded data set what its manifest says? By its sums before a run, and by everything that is in it."""

import hashlib
import json
import multiprocessing
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import file_sha256
from privatenet.data_shards.shards.manifest import Index, Manifest, Shard, label_names, load_manifest
from privatenet.data_shards.shards.picture import ENDINGS, PictureError, decode_stored
from privatenet.data_shards.shards.split import Split


def check_sums(split: Split, threads: int = 1) -> None:
    """Read every tar of the split once; DataError names the first whose bytes are not those of the manifest."""
    shards = load_manifest(split.directory).shards(split.name)
    with ThreadPoolExecutor(threads) as pool:
        for shard, path, sha256 in zip(shards, split.paths, pool.map(file_sha256, split.paths), strict=True):
            if sha256 != shard.sha256:
                raise DataError(
                    f"{path}: its bytes are not those that the manifest names; build the shards again, "
                    f"or remove {split.directory} where they were fetched from a URL"
                )


def verify(directory: Path, workers: int = 1) -> list[str]:
    """Everything that is wrong with the data set in `directory`, one sentence each; an empty list where nothing is.

    Sums, counts, labels and offsets are compared and every picture is decoded. DataError where there is no manifest.
    """
    manifest = load_manifest(directory)
    shards = [shard for split in manifest.splits.values() for shard in split]
    check = partial(_check_shard, directory, manifest)
    if workers == 1:
        problems = [problem for shard in shards for problem in check(shard)]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn) as pool:
            problems = [problem for of_shard in pool.map(check, shards) for problem in of_shard]
    known = {shard.name for shard in shards}
    strays = sorted(path.name for path in directory.glob("*.tar") if path.name not in known)
    return problems + [f"{name}: is not in the manifest" for name in strays]


def _check_shard(directory: Path, manifest: Manifest, shard: Shard) -> list[str]:
    try:
        return [f"{shard.name}: {problem}" for problem in _problems(directory, manifest, shard)]
    except (OSError, tarfile.TarError, ValueError) as error:
        return [f"{shard.name}: cannot be read to its end: {error}"]


def _problems(directory: Path, manifest: Manifest, shard: Shard) -> Iterator[str]:
    tar, index_path = directory / shard.name, directory / shard.index_name
    for path in (tar, index_path):
        if not path.is_file():
            yield f"{path.name} is missing"
            return
    content = index_path.read_bytes()
    if hashlib.sha256(content).hexdigest() != shard.index_sha256:
        yield f"{index_path.name} is not the index that the manifest names"
        return
    if file_sha256(tar) != shard.sha256:
        yield "its bytes are not those that the manifest names"
    index = Index.decode(content, index_path)
    if problem := index.mismatch(shard, manifest):
        yield f"{index_path.name} {problem}"
        return
    if not index.describes(shard):
        yield f"{index_path.name} is of another tar"
    samples = list(_read_samples(tar))
    if not len(samples) == len(index.names) == shard.samples:
        yield f"holds {len(samples)} samples, its index {len(index.names)} and the manifest {shard.samples}"
    if [name for name, _ in samples] != index.names:
        yield "the samples' names are not those of its index"
        return
    for attribute in manifest.schema.attributes:
        labels = index.labels[attribute.name]
        if tuple(labels.count(label) for label in range(len(attribute.classes))) != shard.class_counts[attribute.name]:
            yield f"the manifest counts other classes of '{attribute.name}' than the index"
    columns = label_names(manifest.schema, manifest.persons)
    with tar.open("rb") as stream:
        for row, (name, members) in enumerate(samples):
            stream.seek(index.offsets[row])
            at_offset = stream.read(index.sizes[row])
            labels_by_name = {label: index.labels[label][row] for label in columns}
            yield from _sample_problems(name, members, at_offset, labels_by_name, manifest.image_size)


def _read_samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield each sample's name and contents by ending: as WebDataset has it, neighbours whose names begin alike."""
    with tarfile.open(tar, "r:") as archive:
        for name, members in groupby(archive, key=lambda member: member.name.partition(".")[0]):
            contents: dict[str, bytes] = {}
            for member in members:
                ending, stream = member.name.partition(".")[2], archive.extractfile(member)
                if stream is None or ending in contents:
                    raise ValueError(f"'{member.name}' is there twice or is not a file")
                contents[ending] = stream.read()
            yield name, contents


def _sample_problems(
    name: str, members: dict[str, bytes], at_offset: bytes, labels: dict[str, int], image_size: tuple[int, int]
) -> Iterator[str]:
    ending = next((ending for ending in ENDINGS.values() if ending in members), None)
    if ending is None or set(members) != {ending, "json"}:
        yield f"sample '{name}' is not a {' or '.join(ENDINGS.values())} and a json"
        return
    if members[ending] != at_offset:
        yield f"sample '{name}' is not at the offset that the index names"
    if _labels(members["json"]) != labels:
        yield f"sample '{name}' has other labels than the index"
    try:
        picture = decode_stored(members[ending], f"sample '{name}'", image_size)
    except PictureError as error:
        yield str(error)
        return
    if ENDINGS.get(str(picture.format)) != ending:
        yield f"sample '{name}' is called {ending} and is a {picture.format}"


def _labels(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None
