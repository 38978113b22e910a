"""Pictures that are files already become shards; beside bare reading and writing of the same bytes."""

import io
import json
import shutil
import tarfile
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from privatenet.data_shards.files import replacing
from privatenet.data_shards.shards.split import Split
from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.record import FolderSource, Record
from privatenet.distributed.ranks import ALONE
from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.timing import Case, measure, one_core


def sharding_figures(split: Split, rows: int, repeats: int) -> list[Figure]:
    """Of the first `rows` pictures of `split`, by one process on one core."""
    with TemporaryDirectory() as folder, one_core():
        source, bare = _files(split, rows, Path(folder) / "pictures"), "sharding, one core: bare reading and writing"
        cases = [
            Case("sharding, one core: build", partial(_build, source, Path(folder) / "shards"), rows, limit=bare),
            Case(bare, partial(_copy, source, Path(folder) / "bare.tar"), rows),
        ]
        return measure(cases, repeats, ALONE)


def _files(split: Split, rows: int, folder: Path) -> FolderSource:
    """The pictures as files in one folder, with their labels."""
    folder.mkdir()
    records = []
    for row in range(rows):
        (folder / f"{row}.jpg").write_bytes(split.read(row))
        records.append(Record(f"face{row}", "train", tuple(split.labels[row].tolist()), f"{row}.jpg"))
    return FolderSource(split.schema, tuple(records), folder)


def _build(source: FolderSource, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    build(source, out)


def _copy(source: FolderSource, path: Path) -> None:
    """Every file and its labels into one tar, unread, and onto the disk."""
    with replacing(path) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for record in source.records:
            labels = json.dumps(dict(zip(source.schema.names, record.labels, strict=True))).encode()
            for ending, data in {"jpg": source.read(record), "json": labels}.items():
                member = tarfile.TarInfo(f"{record.name}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
