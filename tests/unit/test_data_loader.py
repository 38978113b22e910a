"""Batches: the same pictures either way, and bounded memory where they are streamed."""

import io
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.loader import (
    CachedPictures,
    DataConfig,
    StreamedPictures,
    decode,
    evaluation_batches,
    open_pictures,
    training_batches,
)
from privatenet.data_shards.manifest import open_split
from privatenet.data_shards.plan import DataState, TrainingPlan

CPU = torch.device("cpu")


def test_cached_and_streamed_batches_are_the_same_in_the_same_order(shards: Path) -> None:
    split = open_split(shards, "train")
    plan = TrainingPlan(np.arange(len(split)), split.shard, 16)
    seen = []
    for mode, workers in (("cached", 1), ("streaming", 1), ("streaming", 4)):
        config = DataConfig(str(shards), mode=mode, workers=workers)  # type: ignore[arg-type]
        pictures = open_pictures(split, np.arange(len(split)), CPU, config)
        seen.append(list(itertools.islice(training_batches(split, pictures, plan, DataState(), config), 12)))
    for cached, *streamed in zip(*seen, strict=True):
        for other in streamed:
            assert other[1] == cached[1]
            assert torch.equal(other[0].images, cached[0].images)
            assert torch.equal(other[0].positions, cached[0].positions)
            assert all(torch.equal(other[0].labels[name], labels) for name, labels in cached[0].labels.items())


def test_a_batch_holds_the_pictures_and_labels_of_its_rows(shards: Path) -> None:
    split = open_split(shards, "test")
    rows = np.array([7, 2, 11])
    batch = next(iter(evaluation_batches(split, StreamedPictures(split, CPU), rows, 8)))
    for place, row in enumerate(rows):
        picture = Image.open(io.BytesIO(split.read(int(row)))).convert("RGB")
        assert torch.equal(batch.images[place].permute(1, 2, 0), torch.from_numpy(np.array(picture)))
    assert batch.labels["gender"].tolist() == split.labels[rows, split.schema.names.index("gender")].tolist()


def test_auto_caches_what_fits_and_streams_what_does_not(shards: Path) -> None:
    split = open_split(shards, "train")
    rows = np.arange(len(split))
    assert isinstance(open_pictures(split, rows, CPU, DataConfig(cache_gib=1.0)), CachedPictures)
    assert isinstance(open_pictures(split, rows, CPU, DataConfig(cache_gib=1e-4)), StreamedPictures)


def test_a_picture_that_cannot_be_decoded_is_named(shards: Path, tmp_path: Path) -> None:
    split = open_split(shards, "train")
    damaged = tmp_path / "train-000000.tar"
    content = bytearray(split.paths[0].read_bytes())
    content[int(split.offsets[3]) : int(split.offsets[3]) + 200] = bytes(200)
    damaged.write_bytes(content)
    object.__setattr__(split, "paths", (damaged, *split.paths[1:]))
    with pytest.raises(DataError, match=f"{split.names[3]!r} cannot be decoded"):
        decode(split, [3])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_streaming_takes_no_more_memory_for_more_pictures(shards: Path) -> None:
    program = """
import itertools, re, sys, numpy as np, torch
from pathlib import Path
from privatenet.data_shards.loader import DataConfig, open_pictures, training_batches
from privatenet.data_shards.manifest import open_split
from privatenet.data_shards.plan import DataState, TrainingPlan
split = open_split(Path(sys.argv[1]), "train")
config = DataConfig(mode=sys.argv[2])
rows = np.arange(len(split))
peak = lambda: int(re.search("VmHWM:.*?([0-9]+) kB", Path("/proc/self/status").read_text())[1]) / 1024
plan = TrainingPlan(np.tile(rows, 40), np.tile(split.shard, 40), 64)  # as if there were forty times as many
pictures = open_pictures(split, plan.rows, torch.device("cpu"), config)
batches = training_batches(split, pictures, plan, DataState(), config)
for steps in (20, 380):
    for _ in itertools.islice(batches, steps):
        pass
    print(peak())
"""
    peak = {}
    for mode in ("streaming", "cached"):
        command = [sys.executable, "-c", program, str(shards), mode]
        early, late = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        assert late - early < 20
        peak[mode] = late
    assert peak["cached"] > peak["streaming"] + 60  # that the measure sees 3,200 decoded pictures of 30 KB
