"""Is a sharded data set what its manifest says, and can webdataset's own reader read it?"""

import hashlib
import io
import json
import multiprocessing
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from privatenet.data_shards.files import file_sha256
from privatenet.data_shards.shards.manifest import Index, Manifest, Shard, load_manifest


def verify(directory: Path, workers: int = 1) -> list[str]:
    """Everything that is wrong with the data set in `directory`, one sentence each; an empty list where nothing is.

    Sums, counts, labels and offsets are compared and every picture is decoded. DataError where there is no manifest.
    """
    manifest = load_manifest(directory)
    shards = [shard for split in manifest.splits.values() for shard in split]
    check = partial(_check_shard, directory, manifest)
    if workers == 1:
        found = [problem for shard in shards for problem in check(shard)]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn) as pool:
            found = [problem for problems in pool.map(check, shards) for problem in problems]
    known = {shard.name for shard in shards}
    strays = sorted(path.name for path in directory.glob("*.tar") if path.name not in known)
    return found + [f"{name}: is not in the manifest" for name in strays]


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
    samples = list(_read_as_others_do(tar))
    if not len(samples) == len(index.names) == shard.samples:
        yield f"holds {len(samples)} samples, its index {len(index.names)} and the manifest {shard.samples}"
    if [sample["__key__"] for sample in samples] != index.names:
        yield "the samples' names are not those of its index"
        return
    for attribute in manifest.schema.attributes:
        labels = index.labels[attribute.name]
        if tuple(labels.count(label) for label in range(len(attribute.classes))) != shard.class_counts[attribute.name]:
            yield f"the manifest counts other classes of '{attribute.name}' than the index"
    with tar.open("rb") as stream:
        for row, sample in enumerate(samples):
            stream.seek(index.offsets[row])
            at_offset = stream.read(index.sizes[row])
            expected = {name: index.labels[name][row] for name in manifest.schema.names}
            yield from _sample_problems(sample, at_offset, expected, manifest.image_size)


def _read_as_others_do(tar: Path) -> Iterator[dict[str, Any]]:
    # Imported here, as it brings torch: seconds that a look at the manifest need not wait for.
    from webdataset.tariterators import group_by_keys, tar_file_expander

    # Given a stream and not a name, it runs no `pipe:` commands; nor would it ever close what it opens.
    with tar.open("rb") as stream:
        yield from group_by_keys(tar_file_expander([{"url": tar.name, "stream": stream}]))


def _sample_problems(
    sample: dict[str, Any], at_offset: bytes, labels: dict[str, int], image_size: tuple[int, int]
) -> Iterator[str]:
    name = sample["__key__"]
    if set(sample) - {"__key__", "__url__"} != {"jpg", "json"}:
        yield f"sample '{name}' is not a jpg and a json"
        return
    if sample["jpg"] != at_offset:
        yield f"sample '{name}' is not at the offset that the index names"
    if _labels(sample["json"]) != labels:
        yield f"sample '{name}' has other labels than the index"
    try:
        with Image.open(io.BytesIO(sample["jpg"]), formats=("JPEG",)) as picture:
            picture.load()
            found = (picture.height, picture.width, picture.mode)
    except Exception as error:  # Pillow raises whatever a format's parser ran into
        yield f"sample '{name}' does not decode: {error}"
        return
    if found != (*image_size, "RGB"):
        yield f"sample '{name}' is {found[1]}x{found[0]} {found[2]}, not {image_size[1]}x{image_size[0]} RGB"


def _labels(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None
