"""From a source to a folder of shards: in parallel, resumable, and the same bytes whatever the number of workers.

A shard is written under another name, flushed, renamed, and only then gets its index; the manifest comes last. So
whatever has its place is whole, and a build that was stopped goes on with the shards that are not.
"""

import hashlib
import json
import multiprocessing
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Literal

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import TMP, file_sha256, replacing
from privatenet.data_shards.lock import LOCK, owned
from privatenet.data_shards.shards.manifest import VERSION, Index, Manifest, Shard, Skipped, index_name, label_names
from privatenet.data_shards.shards.picture import MAX_SIDE, MIN_SIDE, PictureError, picture_size, to_stored
from privatenet.data_shards.sources.record import Record, Source, check_records
from privatenet.data_shards.sources.schema import UNSURE, Schema

BUILD = "build.json"

_TAR = {"user": "privatenet", "group": "privatenet", "mode": 0o444, "mtime": 0, "encoder": False}


def build(
    source: Source,
    out: Path,
    *,
    samples_per_shard: int = 1024,
    workers: int = 1,
    image_size: int | None = None,
    on_corrupt: Literal["error", "skip"] = "error",
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Shard `source` into the folder `out` and return its manifest; what `out` already has of it is kept.

    `image_size` makes every picture square with that side, otherwise all must have one size already. Corrupt pictures
    stop the build, or with `on_corrupt="skip"` are left out and listed in the manifest. `progress` is called with
    (samples done, samples in all) after each shard. Raises DataError before anything is written where the records or
    options are wrong, `out` holds something else, or another process builds there.
    """
    _check_options(samples_per_shard, workers, image_size, on_corrupt)
    check_records(source.records, source.schema)
    plan = plan_shards(source.records, samples_per_shard)
    skip_corrupt = on_corrupt == "skip"
    size = _first_size(source, plan, skip_corrupt) if image_size is None else (image_size, image_size)
    people = number_people(plan)
    job = _Job(source, out, plan, size, fit=image_size is not None, skip_corrupt=skip_corrupt, people=people)
    with owned(out):
        _claim(out, source, samples_per_shard, image_size)
        manifest = _make_shards(job, workers, progress)
        manifest.save(out)
    return manifest


def plan_shards(records: Sequence[Record], samples_per_shard: int) -> dict[str, list[Record]]:
    """Which records go into which shard: by split, shuffled by the hash of the name, cut into equal runs.

    Lists are often sorted by class; hashing spreads the classes over the shards, the same way each time.
    """
    by_split: dict[str, list[Record]] = {}
    for record in records:
        by_split.setdefault(record.split, []).append(record)
    plan = {}
    for split, members in by_split.items():
        members.sort(key=lambda record: hashlib.sha256(record.name.encode()).digest())
        for number, start in enumerate(range(0, len(members), samples_per_shard)):
            plan[f"{split}-{number:06d}.tar"] = members[start : start + samples_per_shard]
    return plan


def number_people(plan: dict[str, list[Record]]) -> dict[str | None, int]:
    """A number for each person, by first appearance in the plan, and -1 for None; empty where nobody is known."""
    people = dict.fromkeys(record.person for records in plan.values() for record in records)
    people.pop(None, None)
    return {person: number for number, person in enumerate(people)} | {None: UNSURE} if people else {}


@dataclass(frozen=True)
class _Job:
    """All that a worker needs in order to make any shard."""

    source: Source
    out: Path
    plan: dict[str, list[Record]]
    size: tuple[int, int]
    fit: bool
    skip_corrupt: bool
    people: dict[str | None, int]


def _make_shards(job: _Job, workers: int, progress: Callable[[int, int], None] | None) -> Manifest:
    """Make every shard of the plan; DataError where a split is left without a picture."""
    splits: dict[str, list[Shard]] = {}
    skipped: list[Skipped] = []
    done = 0
    with _shard_maker(job, workers) as results:
        for shard, left_out in results:
            splits.setdefault(_split_of(shard.name), []).append(shard)
            skipped += left_out
            done += shard.samples + len(left_out)
            if progress is not None:
                progress(done, len(job.source.records))
    manifest = Manifest(
        version=VERSION,
        schema=job.source.schema,
        image_size=job.size,
        splits={split: tuple(shards) for split, shards in splits.items()},
        skipped=tuple(skipped),
        persons=bool(job.people),
    )
    for split in manifest.splits:
        if manifest.num_samples(split) == 0:
            first = next(sample.reason for sample in skipped if sample.split == split)
            raise DataError(f"split '{split}' has no picture that decodes; the first: {first}")
    return manifest


_Result = tuple[Shard, list[Skipped]]

_worker_job: _Job | None = None  # set once in each process of the pool, instead of travelling with every shard


@contextmanager
def _shard_maker(job: _Job, workers: int) -> Iterator[Iterator[_Result]]:
    """The plan's shards, made in this process or in a pool, in the order of the plan."""
    if workers == 1:
        yield (_make_shard(job, name) for name in job.plan)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of whatever is loaded here
    with ProcessPoolExecutor(min(workers, len(job.plan)), spawn, initializer=_take_job, initargs=(job,)) as pool:
        try:
            yield pool.map(_make_shard_of_worker_job, job.plan)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _take_job(job: _Job) -> None:
    global _worker_job
    _worker_job = job
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's process outlives a parent that was killed, and would write into a folder that is another build's now."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_shard_of_worker_job(name: str) -> _Result:
    assert _worker_job is not None
    return _make_shard(_worker_job, name)


def _make_shard(job: _Job, name: str) -> _Result:
    index = _finished(job, name)
    if index is None:
        index = _write_tar(job, name)
        with replacing(job.out / index_name(name)) as stream:
            stream.write(index.encode())
    skipped = [Skipped(split=_split_of(name), **entry) for entry in index.skipped]
    return _describe(name, index, job.source.schema), skipped


def _finished(job: _Job, name: str) -> Index | None:
    """The index of a shard that an earlier build finished, None where it has to be made."""
    path, tar = job.out / index_name(name), job.out / name
    if not (path.is_file() and tar.is_file()):
        return None
    try:
        index = Index.decode(path.read_bytes(), path)
    except DataError:  # damaged since: to be made again
        return None
    whole = tar.stat().st_size == index.tar_bytes and file_sha256(tar) == index.tar_sha256
    return index if whole and (job.skip_corrupt or not index.skipped) else None


def _write_tar(job: _Job, name: str) -> Index:
    # Imported here, as it brings torch: seconds that a look at finished shards need not wait for.
    from webdataset.writer import TarWriter

    names, offsets, sizes, labels, skipped = [], [], [], [], []
    with replacing(job.out / name) as stream, TarWriter(stream, **_TAR) as tar:
        for record in job.plan[name]:
            try:
                ending, picture = to_stored(job.source.read(record), record.location, job.size, job.fit)
            except PictureError as error:
                if not job.skip_corrupt:
                    raise PictureError(f"{error}; `--on-corrupt skip` leaves such pictures out") from error
                skipped.append({"name": record.name, "reason": str(error)})
                continue
            labels.append(_labels(job, record))
            members = {ending: picture, "json": json.dumps(labels[-1]).encode()}
            for member in sorted(members):  # one by one, to know where the picture's bytes begin
                tar.write({"__key__": record.name, member: members[member]})
                if member == ending:
                    offsets.append(tar.tarstream.offset - _padded(len(picture)))
            names.append(record.name)
            sizes.append(len(picture))
    path = job.out / name
    return Index(
        names=names,
        offsets=offsets,
        sizes=sizes,
        labels={label: [row[label] for row in labels] for label in _label_names(job)},
        skipped=skipped,
        tar_bytes=path.stat().st_size,
        tar_sha256=file_sha256(path),
    )


def _padded(size: int) -> int:
    """What a member of this size takes in a tar, without its header."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _labels(job: _Job, record: Record) -> dict[str, int]:
    person = (job.people[record.person],) if job.people else ()
    return dict(zip(_label_names(job), (*record.labels, *person), strict=True))


def _label_names(job: _Job) -> tuple[str, ...]:
    return label_names(job.source.schema, bool(job.people))


def _describe(name: str, index: Index, schema: Schema) -> Shard:
    counts = {
        attribute.name: tuple(index.labels[attribute.name].count(label) for label in range(len(attribute.classes)))
        for attribute in schema.attributes
    }
    index_sha256 = hashlib.sha256(index.encode()).hexdigest()
    return Shard(name, len(index.names), index.tar_bytes, index.tar_sha256, index_sha256, counts)


def _first_size(source: Source, plan: dict[str, list[Record]], skip_corrupt: bool) -> tuple[int, int]:
    """The size that all pictures must have: that of the first one that is not corrupt."""
    for record in (record for records in plan.values() for record in records):
        try:
            return picture_size(source.read(record), record.location)
        except PictureError:
            if not skip_corrupt:
                raise
    raise DataError("no picture decodes, accepted: at least one in each split")


def _claim(out: Path, source: Source, samples_per_shard: int, image_size: int | None) -> None:
    """Make `out` the place of this data set, or see that it is already; DataError where it is anything else's."""
    note = out / BUILD
    content = _build_note(source, samples_per_shard, image_size)
    if note.is_file():
        if note.read_bytes() != content:
            raise DataError(
                f"{out}: holds shards of other records or options, accepted: the same ones again, or another folder; "
                "delete it if it is no longer needed"
            )
        return
    if any(path.suffix != TMP and path.name != LOCK for path in out.iterdir()):
        raise DataError(f"{out}: is not empty and not a data set of ours, accepted: a new or empty folder")
    with replacing(note) as stream:
        stream.write(content)


def _build_note(source: Source, samples_per_shard: int, image_size: int | None) -> bytes:
    """What decides which bytes go into which shard, short of the pictures themselves."""
    digest = hashlib.sha256(json.dumps(source.schema.to_dict()).encode())
    for record in source.records:
        person = [] if record.person is None else [record.person]
        digest.update(json.dumps([record.name, record.split, record.labels, record.location, *person]).encode())
    note = {
        "version": VERSION,
        "samples_per_shard": samples_per_shard,
        "image_size": image_size,
        "records": len(source.records),
        "records_sha256": digest.hexdigest(),
    }
    return json.dumps(note, indent=1).encode() + b"\n"


def _check_options(samples_per_shard: int, workers: int, image_size: int | None, on_corrupt: str) -> None:
    for name, value in (("samples per shard", samples_per_shard), ("workers", workers)):
        if value < 1:
            raise DataError(f"{name} is {value}, accepted: 1 or more")
    if image_size is not None and not MIN_SIDE <= image_size <= MAX_SIDE:
        raise DataError(f"image size is {image_size}, accepted: {MIN_SIDE} to {MAX_SIDE} pixels a side")
    if on_corrupt not in ("error", "skip"):
        raise DataError(f"on_corrupt is '{on_corrupt}', accepted: error, skip")


def _split_of(shard_name: str) -> str:
    return shard_name.rpartition("-")[0]
