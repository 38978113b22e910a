"""The table of contents in memory: of a million samples, too."""

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import encoded

from privatenet.data_shards.reading.plan import validation_mask
from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.data_shards.shards.split import Names, Split, open_split
from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.record import FolderSource, Record
from privatenet.data_shards.sources.schema import Attribute, Schema

SAMPLES = 2000


def test_names_are_other_strings_than_were_given() -> None:
    strings = ["a", "gesicht_ä", "", "女_1", "z" * 250]
    names = Names(strings)
    names.extend(["last"])
    strings.append("last")
    assert list(names) == strings
    assert len(names) == 6
    assert (names[-1], names[1:5:2], names[np.int64(3)]) == ("last", [strings[1], strings[3]], strings[3])
    with pytest.raises(IndexError):
        names[6]
    assert list(Names()) == []


def test_a_large_data_set_takes_memory_for_every_sample(tmp_path: Path) -> None:
    """The same shard many times over: a sample more costs its numbers and its name, and little more meanwhile."""
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG", 24))
    schema = Schema("faces", "mood", (Attribute("mood", {"0": "good", "1": "bad"}),), ())
    records = tuple(Record(f"face_{number:06d}", "train", (number % 2,), "a.jpg") for number in range(SAMPLES))
    build(FolderSource(schema, records, tmp_path), tmp_path / "one", samples_per_shard=SAMPLES)
    (split, kept, peak), (larger, kept_larger, peak_larger) = (
        opened(many(tmp_path / "one", tmp_path / str(copies), copies)) for copies in (5, 25)
    )
    samples = 20 * SAMPLES
    assert len(larger) - len(split) == samples
    assert (kept_larger - kept) / samples < 60  # bytes
    assert (peak_larger - peak) / samples < 90
    last = len(larger) - 1
    assert (larger.names[last], larger.read(last)) == (split.names[-1], split.read(len(split) - 1))
    assert (larger.labels[last] == split.labels[-1]).all()


def many(folder: Path, out: Path, copies: int) -> Path:
    """A data set whose training split is the one shard of `folder`, `copies` times."""
    manifest = load_manifest(folder)
    (shard,) = manifest.splits["train"]
    copied = [replace(shard, name=f"train-{number:06d}.tar") for number in range(copies)]
    out.mkdir()
    for each in copied:
        os.link(folder / shard.name, out / each.name)
        os.link(folder / shard.index_name, out / each.index_name)
    replace(manifest, splits={"train": tuple(copied)}).save(out)
    return out


def opened(folder: Path) -> tuple[Split, int, int]:
    """Its training split, and how many bytes that took in the end and meanwhile, with the choice of validation."""
    tracemalloc.start()
    try:
        split = open_split(folder, "train")
        validation_mask(split.names, split.labels[:, 0], 0.01)
        return split, *tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
