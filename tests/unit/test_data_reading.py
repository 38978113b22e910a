"""Batches: the same pictures either way, no damaged ones, and bounded memory where they are streamed."""

import dataclasses
import io
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import encoded, huge_png

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.reading.batches import evaluation_batches, training_batches
from privatenet.data_shards.reading.cache import CachedPictures, StreamedPictures, open_pictures
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.decode import decode
from privatenet.data_shards.reading.plan import DataState, TrainingPlan
from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.data_shards.shards.picture import decode_stored
from privatenet.data_shards.shards.split import Split, open_split
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks

CPU = torch.device("cpu")


def test_cached_and_streamed_batches_are_the_same_in_the_same_order(shards: Path) -> None:
    split = open_split(shards, "train")
    plan = TrainingPlan(np.arange(len(split)), split.shard, 16)
    batches = []
    for mode, workers in (("cached", 1), ("streaming", 1), ("streaming", 4)):
        config = DataConfig(str(shards), mode=mode, workers=workers)  # type: ignore[arg-type]
        pictures = open_pictures(split, np.arange(len(split)), CPU, config)
        batches.append(list(itertools.islice(training_batches(split, pictures, plan, DataState(), config), 12)))
    for cached, *streamed in zip(*batches, strict=True):
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


def test_shared_pictures_are_those_that_are_decoded_and_batches_are_the_same(shards: Path, tmp_path: Path) -> None:
    split = open_split(shards, "train")
    rows = np.arange(len(split))
    plan = TrainingPlan(rows, split.shard, 16)
    batches = []
    for config in (DataConfig(), DataConfig(cache=str(tmp_path)), DataConfig(cache=str(tmp_path), workers=3)):
        pictures = open_pictures(split, rows, CPU, config)
        assert torch.equal(pictures.fetch(rows), decode(split, rows))
        batches.append(list(itertools.islice(training_batches(split, pictures, plan, DataState(), config), 12)))
    for private, *shared in zip(*batches, strict=True):
        for batch, after in shared:
            assert after == private[1]
            assert torch.equal(batch.images, private[0].images)
            assert batch.images.stride() == private[0].images.stride()
    (file,) = tmp_path.glob("*/pictures-train.npy")
    assert file.parent.name == load_manifest(shards).fingerprint[:16]
    assert np.array_equal(np.load(file), decode(split, rows).permute(0, 2, 3, 1))


def test_shared_pictures_are_decoded_once(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_split(shards, "test")
    rows, config = np.arange(len(split)), DataConfig(cache=str(tmp_path))
    first = open_pictures(split, rows, CPU, config)
    monkeypatch.setattr("privatenet.data_shards.reading.decode.decode", None)
    again = open_pictures(split, rows[3:9], CPU, config)
    assert torch.equal(again.fetch(rows[5:7]), first.fetch(rows[5:7]))


def test_what_a_process_does_to_shared_pictures_stays_its_own(shards: Path, tmp_path: Path) -> None:
    split = open_split(shards, "test")
    rows, config = np.arange(len(split)), DataConfig(cache=str(tmp_path))
    one, other = (open_pictures(split, rows, CPU, config) for _ in range(2))
    assert isinstance(one, CachedPictures)
    one.pixels.zero_()
    assert torch.equal(other.fetch(rows), decode(split, rows))


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "of another size"])
def test_a_damaged_file_of_shared_pictures_is_refused(shards: Path, tmp_path: Path, damage: str) -> None:
    split = open_split(shards, "test")
    rows, config = np.arange(len(split)), DataConfig(cache=str(tmp_path))
    open_pictures(split, rows, CPU, config)
    (file,) = tmp_path.glob("*/pictures-test.npy")
    content = file.read_bytes()
    if damage == "of another size":
        np.save(file, np.zeros((len(split), 8, 8, 3), dtype=np.uint8))
    else:
        file.write_bytes({"cut": content[:-1], "longer": content + b"x", "empty": b""}[damage])
    with pytest.raises(DataError, match=f"{file}: is damaged, .*remove it"):
        open_pictures(split, rows, CPU, config)
    file.unlink()
    open_pictures(split, rows, CPU, config)
    assert file.read_bytes() == content


def test_pictures_of_a_damaged_shard_are_not_shared(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "in")
    split = open_split(tmp_path / "in", "test")
    with split.paths[0].open("r+b") as stream:
        stream.seek(int(split.offsets[0] + split.sizes[0]) - 40)  # still a picture, of a slightly other look
        stream.write(b"x")
    with pytest.raises(DataError, match=f"{split.paths[0]}: its bytes are not those that the manifest names"):
        open_pictures(split, np.arange(len(split)), CPU, DataConfig(cache=str(tmp_path / "cache")))
    assert not list((tmp_path / "cache").glob("*/pictures*.npy"))


def test_a_run_trains_on_no_tar_with_a_flipped_bit(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "in")
    ranks = Ranks(0, 1, 0, 1, CPU)
    for tar in sorted((tmp_path / "in").glob("*.tar")):
        content = tar.read_bytes()
        data = bytearray(content)
        data[np.random.default_rng(len(content)).integers(len(content))] ^= 1
        tar.write_bytes(data)
        for config in (DataConfig(str(tmp_path / "in")), DataConfig(str(tmp_path / "in"), mode="streaming")):
            faces = Faces(config, ranks)
            with pytest.raises(DataError, match=f"{tar}: its bytes are not .* build the shards again, or remove"):
                faces.testing() if tar.name.startswith("test") else faces.training(["gender"])
        tar.write_bytes(content)
    faces = Faces(DataConfig(str(tmp_path / "in")), ranks)
    assert len(faces.everything("train").rows) + len(faces.everything("test").rows) == 120


def replaced(split: Split, row: int, picture: bytes, folder: Path) -> Split:
    """The split with other bytes in the place of one picture."""
    content = bytearray(split.paths[0].read_bytes())
    start, size = int(split.offsets[row]), int(split.sizes[row])
    content[start : start + size] = picture.ljust(size, b"\0")
    tar = folder / "train-000000.tar"
    tar.write_bytes(content)
    return dataclasses.replace(split, paths=(tar, *split.paths[1:]))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (bytes(200), "is not a picture, accepted: JPEG, PNG"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n",
            "is not a picture, accepted: JPEG, PNG",
        ),
        (encoded("BMP", 8), "is not a picture, accepted: JPEG, PNG"),
        (huge_png(8192), "is 8192x8192 RGB, accepted: 100x100 RGB"),  # not decoded, or it would be said to be cut off
        (huge_png(60_000), "absurd dimensions"),
        (encoded("PNG", 100, "LA"), "is 100x100 LA, accepted"),
        (huge_png(100), "does not decode"),
    ],
    ids=["noise", "postscript", "bmp", "huge", "bomb", "transparent", "cut off"],
)
def test_a_picture_that_cannot_be_used_is_named(shards: Path, tmp_path: Path, picture: bytes, message: str) -> None:
    split = replaced(open_split(shards, "train"), 3, picture, tmp_path)
    with pytest.raises(DataError, match=f"{split.paths[0]}: picture '{split.names[3]}'.*{message}.*shards verify"):
        decode(split, [3])


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("PNG", "L"), ("JPEG", "CMYK")])
def test_pictures_that_others_stored_in_other_colours_are_read_as_they_are_verified(
    kind: str, mode: str, shards: Path, tmp_path: Path
) -> None:
    split, picture = open_split(shards, "train"), encoded(kind, 100, mode)
    (pixels,) = decode(replaced(split, 3, picture, tmp_path), [3])
    expected = np.asarray(decode_stored(picture, "", (100, 100)), dtype=np.int64)
    assert np.abs(pixels.permute(1, 2, 0).numpy() - expected).max() <= (1 if mode == "CMYK" else 0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_streaming_takes_no_more_memory_for_more_pictures(shards: Path) -> None:
    program = """
import itertools, re, sys, numpy as np, torch
from pathlib import Path
from privatenet.data_shards.reading.batches import training_batches
from privatenet.data_shards.reading.cache import open_pictures
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.plan import DataState, TrainingPlan
from privatenet.data_shards.shards.split import open_split
split = open_split(Path(sys.argv[1]), "train")
plan = TrainingPlan(np.tile(np.arange(80), 40), np.tile(split.shard, 40), 64)  # as if there were forty times as many
peak = lambda: int(re.search("VmHWM:.*?([0-9]+) kB", Path("/proc/self/status").read_text())[1]) / 1024
for mode, steps in (("streaming", 10), ("streaming", 60), ("cached", 1)):
    config = DataConfig(mode=mode)
    pictures = open_pictures(split, plan.rows, torch.device("cpu"), config)
    for _ in itertools.islice(training_batches(split, pictures, plan, DataState(), config), steps):
        pass
    print(peak())
"""
    command = [sys.executable, "-c", program, str(shards)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    few, many, cached = map(float, printed.split())
    assert many - few < 20
    assert cached > many + 60  # that the measure sees 3,200 decoded pictures of 30 KB
