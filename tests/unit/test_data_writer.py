"""From a source to shards and back: bytes, resuming, corrupt pictures, and what the checks find."""

import base64
import io
import json
import struct
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import ExifTags, Image
from rich.console import Console
from support import encoded, huge_png

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import file_sha256, replacing
from privatenet.data_shards.shards.manifest import Manifest, load_manifest
from privatenet.data_shards.shards.picture import PictureError, to_stored
from privatenet.data_shards.shards.preview import class_table, contact_sheet, people_summary
from privatenet.data_shards.shards.split import open_split
from privatenet.data_shards.shards.verify import verify
from privatenet.data_shards.shards.writer import build, plan_shards
from privatenet.data_shards.sources.record import FolderSource, Record
from privatenet.data_shards.sources.schema import Attribute, Schema

SCHEMA = Schema(
    name="faces",
    target="mood",
    attributes=(
        Attribute("mood", {"u": "happy", "d": "sad", "n": "neutral"}),
        Attribute("gender", {"0": "male", "1": "female"}, unsure="2"),
    ),
    private=("gender",),
)
SIZE = (24, 20)


def picture(seed: int, size: tuple[int, int] = SIZE, mode: str = "RGB", kind: str = "JPEG", **options: object) -> bytes:
    """A picture of `size` (height, width) with something to see in it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    image = Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    image = image.quantize(64) if mode == "P" else image.convert(mode)
    image.save(stream, kind, **options)
    return stream.getvalue()


def make_source(root: Path, train: int = 20, test: int = 7) -> FolderSource:
    """Pictures under `root`, every fourth a PNG, listed in blocks of one class."""
    records = []
    for split, num in (("train", train), ("test", test)):
        for number in range(num):
            name = f"{split}_{number:03d}"
            (root / f"{name}.jpg").write_bytes(picture(len(records), kind="PNG" if number % 4 == 3 else "JPEG"))
            records.append(Record(name, split, (3 * number // num, number % 3 - 1), f"{name}.jpg"))
    return FolderSource(SCHEMA, tuple(records), root)


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    (tmp_path / "in").mkdir()
    return make_source(tmp_path / "in")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).astype(int)


def test_a_data_set_read_back_has_every_sample_with_its_own_picture_and_labels(
    source: FolderSource, tmp_path: Path
) -> None:
    manifest = build(source, tmp_path / "out", samples_per_shard=6)
    assert load_manifest(tmp_path / "out") == manifest
    assert manifest.image_size == SIZE
    assert [shard.name for shard in manifest.splits["train"]] == [f"train-{number:06d}.tar" for number in range(4)]
    for name in ("train", "test"):
        split = open_split(tmp_path / "out", name)
        records = {record.name: record for record in source.records if record.split == name}
        assert sorted(split.names) == sorted(records)
        for row, sample in enumerate(split.names):
            assert tuple(split.labels[row]) == records[sample].labels
            assert split.read(row) == source.read(records[sample])
        assert (split.labels.dtype, split.shard.dtype, split.offsets.dtype) == (np.int64, np.int32, np.int64)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves that to the interpreter
def test_webdataset_reads_the_shards_with_its_own_decoders(source: FolderSource, tmp_path: Path) -> None:
    build(source, tmp_path / "out", samples_per_shard=6)
    urls = sorted(str(path) for path in (tmp_path / "out").glob("train-*.tar"))
    reader = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")
    samples = list(reader.to_tuple("__key__", "jpg;png", "json"))
    labels = {name: (label["mood"], label["gender"]) for name, _, label in samples}
    assert labels == {record.name: record.labels for record in source.records if record.split == "train"}
    assert all(decoded.shape == (*SIZE, 3) and decoded.dtype == np.uint8 for _, decoded, _ in samples)


def test_class_counts_leave_unsure_out_of_the_classes(source: FolderSource, tmp_path: Path) -> None:
    manifest = build(source, tmp_path / "out", samples_per_shard=6)
    assert manifest.class_counts("train") == {
        "mood": {"happy": 7, "sad": 7, "neutral": 6},
        "gender": {"male": 7, "female": 6, "unsure": 7},
    }
    with pytest.raises(DataError, match="no split 'val', accepted: train, test"):
        manifest.class_counts("val")


def test_a_list_sorted_by_class_does_not_make_shards_of_one_class() -> None:
    records = [Record(f"s{number}", "train", (number // 300, 0), "") for number in range(900)]
    plan = plan_shards(records, 300)
    for shard in plan.values():
        moods = [record.labels[0] for record in shard]
        assert min(moods.count(mood) for mood in range(3)) > 60
    assert plan == plan_shards(records[::-1], 300)


def test_names_that_grow_a_tar_header_keep_their_offsets(source: FolderSource, tmp_path: Path) -> None:
    names = ("Zoë", "x" * 240, "two words", "1_0%2Ejpg%2Echip")
    records = tuple(replace(record, name=name) for record, name in zip(source.records, names, strict=False))
    build(replace(source, records=records), tmp_path / "out")
    split = open_split(tmp_path / "out", "train")
    pictures = {record.name: source.read(record) for record in records}
    assert {name: split.read(row) for row, name in enumerate(split.names)} == pictures
    assert verify(tmp_path / "out") == []


def with_persons(source: FolderSource) -> FolderSource:
    """Nine people called after trees in both splits, and nobody known in every fifth picture."""
    persons = [None if number % 5 == 0 else f"Oak_{number % 9}" for number in range(len(source.records))]
    records = (replace(record, person=person) for record, person in zip(source.records, persons, strict=True))
    return replace(source, records=tuple(records))


def test_pictures_of_one_person_have_one_number_in_all_splits_and_its_name_is_in_no_file(
    source: FolderSource, tmp_path: Path
) -> None:
    source = with_persons(source)
    manifest = build(source, tmp_path / "out", samples_per_shard=6)
    assert load_manifest(tmp_path / "out") == manifest
    splits = [open_split(tmp_path / "out", name) for name in ("train", "test")]
    numbers = {
        name: number
        for split in splits
        for name, number in zip(split.names, split.persons.tolist(), strict=True)  # type: ignore[union-attr]
    }
    number_of = {(record.person, numbers[record.name]) for record in source.records}
    assert sorted(number for _, number in number_of) == list(range(-1, 9))
    assert (None, -1) in number_of
    assert all(split.labels.shape == (len(split), 2) for split in splits)
    assert not any(b"Oak" in data for data in content(tmp_path / "out").values())
    assert people_summary(tmp_path / "out", manifest) == (
        "9 train, 5 test; in several splits: 5; pictures of unknown people: 6"
    )
    assert verify(tmp_path / "out") == []


def test_persons_change_no_label_and_no_order_and_make_another_data_set(source: FolderSource, tmp_path: Path) -> None:
    build(source, tmp_path / "plain", samples_per_shard=6)
    build(with_persons(source), tmp_path / "known", samples_per_shard=6)
    plain, known = (open_split(tmp_path / folder, "train") for folder in ("plain", "known"))
    assert plain.persons is None
    assert list(plain.names) == list(known.names)
    assert np.array_equal(plain.labels, known.labels)
    with pytest.raises(DataError, match="holds shards of other records"):
        build(with_persons(source), tmp_path / "plain", samples_per_shard=6)


def test_a_split_in_which_nobody_is_known_has_no_persons(source: FolderSource, tmp_path: Path) -> None:
    first, *others = source.records
    build(replace(source, records=(replace(first, person="Ann"), *others)), tmp_path / "out")
    assert sorted(set(open_split(tmp_path / "out", "train").persons)) == [-1, 0]  # type: ignore[arg-type]
    assert open_split(tmp_path / "out", "test").persons is None


def test_a_data_set_without_persons_keeps_the_fingerprint_that_it_had_before_there_were_any(tmp_path: Path) -> None:
    """A run finds its stages by the fingerprint, and a build its folder by the records' sum."""
    png = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGUlEQVR4nGM8EbWAgRTARJLqUQ2jGoaUBgCTHwHiw5EGWgAAAABJRU5E"
    (tmp_path / "a.png").write_bytes(base64.b64decode(png + "rkJggg=="))
    records = [
        Record(f"face{number}", "test" if number == 4 else "train", (number % 3, number % 3 - 1), "a.png")
        for number in range(5)
    ]
    manifest = build(FolderSource(SCHEMA, tuple(records), tmp_path), tmp_path / "out", samples_per_shard=3)
    assert manifest.fingerprint == "c5b60a66347507aafd99d0f22b93ffd26042606520c437e3b49678b823128148"
    note = json.loads((tmp_path / "out" / "build.json").read_bytes())
    assert note["records_sha256"] == "37a1f86177bc468446eefb7706b88a1b315eb131ee32f4b913a26d7a9b909ea8"


class Unplugged(Exception):
    """The machine stops here."""


@dataclass(frozen=True)
class FailingSource:
    """A source whose disk goes away at one record."""

    whole: FolderSource
    fails_at: str

    @property
    def schema(self) -> Schema:
        return self.whole.schema

    @property
    def records(self) -> tuple[Record, ...]:
        return self.whole.records

    def read(self, record: Record) -> bytes:
        if record.name == self.fails_at:
            raise Unplugged
        return self.whole.read(record)


def test_a_stopped_build_goes_on_without_writing_finished_shards_again(source: FolderSource, tmp_path: Path) -> None:
    whole = build(source, tmp_path / "whole", samples_per_shard=6)
    stops_at = plan_shards(source.records, 6)["train-000002.tar"][3].name
    out = tmp_path / "out"
    with pytest.raises(Unplugged):
        build(FailingSource(source, stops_at), out, samples_per_shard=6)
    finished = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert sorted(finished) == [
        "build.json",
        *(f"train-00000{number}.{ending}" for number in (0, 1) for ending in ("json", "tar")),
    ]
    with pytest.raises(DataError, match="no data set here"):
        load_manifest(out)

    assert build(source, out, samples_per_shard=6) == whole
    assert content(out) == content(tmp_path / "whole")
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished


def test_whatever_a_kill_leaves_behind_is_not_taken_for_a_whole_shard(source: FolderSource, tmp_path: Path) -> None:
    build(source, tmp_path / "out", samples_per_shard=6)
    whole = content(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "train-000001.json").unlink()  # renamed, its index not yet written
    (tmp_path / "out" / "train-000001.tar").write_bytes(b"older")
    tar = tmp_path / "out" / "train-000002.tar"
    tar.write_bytes(tar.read_bytes()[:-512])  # lost by the file system
    (tmp_path / "out" / "train-000003.json").write_bytes(b"{")
    (tmp_path / "out" / "test-000000.tar.tmp").write_bytes(b"half")
    (tmp_path / "out" / "test-000000.tar").unlink()
    build(source, tmp_path / "out", samples_per_shard=6)
    assert content(tmp_path / "out") == whole


def test_a_kill_before_the_first_byte_leaves_a_folder_that_can_be_used(source: FolderSource, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "build.json.tmp").write_bytes(b"{")
    build(source, tmp_path / "out")
    assert verify(tmp_path / "out") == []


def test_building_again_writes_no_shard_anew(source: FolderSource, tmp_path: Path) -> None:
    first = build(source, tmp_path / "out", samples_per_shard=6)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("t*")}
    assert build(source, tmp_path / "out", samples_per_shard=6) == first
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize(
    ("change", "options"),
    [({"records": 26}, {}), ({}, {"samples_per_shard": 7}), ({}, {"image_size": 32}), ({"schema": "people"}, {})],
)
def test_another_data_set_is_never_written_over(
    source: FolderSource, tmp_path: Path, change: dict[str, object], options: dict[str, int]
) -> None:
    build(source, tmp_path / "out", samples_per_shard=6)
    before = content(tmp_path / "out")
    other = source
    if "records" in change:
        other = replace(source, records=source.records[:26])
    if "schema" in change:
        other = replace(source, schema=replace(SCHEMA, name="people"))
    with pytest.raises(DataError, match=r"holds shards of other records or options, accepted:.*another folder"):
        build(other, tmp_path / "out", **({"samples_per_shard": 6} | options))  # type: ignore[arg-type]
    assert content(tmp_path / "out") == before


def test_a_folder_with_other_things_in_it_is_left_alone(source: FolderSource, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not empty and not a data set of ours"):
        build(source, tmp_path / "in")
    with pytest.raises(DataError, match=r"train_000\.jpg: cannot be written to"):
        build(source, tmp_path / "in" / "train_000.jpg")
    assert len(list((tmp_path / "in").iterdir())) == len(source.records)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_per_shard": 0}, "samples per shard is 0, accepted: 1 or more"),
        ({"workers": 0}, "workers is 0"),
        ({"image_size": 8}, "image size is 8, accepted: 16 to 8192"),
        ({"on_corrupt": "ignore"}, "accepted: error, skip"),
    ],
)
def test_impossible_options_leave_no_folder_behind(
    source: FolderSource, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        build(source, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def truncated() -> bytes:
    return picture(0)[:-60]


def huge_jpeg(side: int) -> bytes:
    data = picture(0)
    frame = data.index(b"\xff\xc0") + 5
    return data[:frame] + struct.pack(">HH", side, side) + data[frame + 4 :]


CORRUPT = {
    "truncated": (truncated(), "does not decode: .*truncated"),
    "empty": (b"", "is not a picture, accepted: JPEG, PNG"),
    "text": (b"<html>404</html>", "is not a picture"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 24\n", "is not a picture"),
    "bitmap": (encoded("BMP", 24), "is not a picture, accepted: JPEG, PNG, WEBP"),
    "wide png": (huge_png(8193), "absurd dimensions, 8193x8193 pixels, accepted: 16 to 8192"),
    "large png": (huge_png(8192), "absurd dimensions, 8192x8192 pixels, accepted: .* and 33,554,432 in all"),
    "warned png": (huge_png(10_000), "absurd dimensions"),
    "bomb png": (huge_png(60_000), "absurd dimensions"),
    "bomb jpeg": (huge_jpeg(65_000), "absurd dimensions"),
    "tiny": (picture(0, (15, 20)), "absurd dimensions, 20x15"),
    "sixteen bits": (picture(0, mode="I;16", kind="PNG"), "mode 'I;16', accepted: .*RGB"),
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_corrupt_picture_stops_the_build_by_name_or_is_left_out_and_listed(
    source: FolderSource, tmp_path: Path, kind: str
) -> None:
    data, message = CORRUPT[kind]
    (source.root / "train_004.jpg").write_bytes(data)
    with pytest.raises(DataError, match=rf"train_004\.jpg: .*{message}.*--on-corrupt skip"):
        build(source, tmp_path / "out", samples_per_shard=6)

    manifest = build(source, tmp_path / "out", samples_per_shard=6, on_corrupt="skip")
    assert [(skipped.name, skipped.split) for skipped in manifest.skipped] == [("train_004", "train")]
    assert manifest.num_samples("train") == 19
    assert manifest.num_samples("test") == 7
    assert verify(tmp_path / "out") == []
    with pytest.raises(DataError, match="train_004"):  # what was left out is not forgotten
        build(source, tmp_path / "out", samples_per_shard=6)


def test_leaving_a_picture_out_changes_its_shard_alone_and_the_same_way_each_time(
    source: FolderSource, tmp_path: Path
) -> None:
    whole = build(source, tmp_path / "whole", samples_per_shard=6)
    (source.root / "train_004.jpg").write_bytes(b"")
    holed, again = (build(source, tmp_path / out, samples_per_shard=6, on_corrupt="skip") for out in ("a", "b"))
    changed = [a.name for a, b in zip(whole.splits["train"], holed.splits["train"], strict=True) if a != b]
    assert len(changed) == 1
    assert whole.fingerprint != holed.fingerprint == again.fingerprint


def test_a_split_without_a_picture_that_decodes_is_refused(source: FolderSource, tmp_path: Path) -> None:
    for record in source.records:
        if record.split == "test":
            (source.root / record.location).write_bytes(b"")
    with pytest.raises(DataError, match="split 'test' has no picture that decodes; the first: test_"):
        build(source, tmp_path / "out", on_corrupt="skip")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_pictures_of_several_sizes_need_a_size(source: FolderSource, tmp_path: Path) -> None:
    (source.root / "test_003.jpg").write_bytes(picture(1, (40, 60)))
    with pytest.raises(DataError, match=r"60x40 pixels and others are 20x24, .*--size N") as caught:
        build(source, tmp_path / "out", on_corrupt="skip")
    assert not isinstance(caught.value, PictureError)
    assert build(source, tmp_path / "sized", image_size=32).image_size == (32, 32)
    assert {pixels(open_split(tmp_path / "sized", "test").read(row)).shape for row in range(7)} == {(32, 32, 3)}


def test_a_picture_of_another_size_is_refused_before_its_pixels_are_decoded() -> None:
    with pytest.raises(DataError, match="4096x4096 pixels and others are 20x24"):  # else: does not decode
        to_stored(huge_png(4096), "a", SIZE, fit=False)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("fit", [True, False])
def test_jpeg_and_png_of_the_right_size_are_stored_byte_for_byte(kind: str, fit: bool) -> None:
    data = picture(3, (32, 32), kind=kind)
    assert to_stored(data, "a", (32, 32), fit) == ({"JPEG": "jpg", "PNG": "png"}[kind], data)


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("L", "JPEG"), ("P", "PNG"), ("RGBA", "WEBP"), ("RGB", "WEBP")]
)
def test_other_formats_and_modes_become_rgb_jpeg_with_the_same_pixels(mode: str, kind: str) -> None:
    data = picture(3, mode=mode, kind=kind)
    ending, stored = to_stored(data, "a", SIZE, fit=False)
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(stored)) as after:
        assert (ending, after.format, after.mode, after.size) == ("jpg", "JPEG", "RGB", before.size)
        assert np.abs(np.asarray(before.convert("RGB")).astype(int) - np.asarray(after).astype(int)).mean() < 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_held_sideways_is_turned_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned 90 degrees clockwise
    data = picture(5, (20, 24), kind=kind, exif=exif)
    ending, stored = to_stored(data, "a", (24, 20), fit=False)
    assert ending == "jpg"
    assert np.abs(pixels(stored) - np.rot90(pixels(data), -1)).mean() < 4
    with Image.open(io.BytesIO(stored)) as image:
        assert ExifTags.Base.Orientation not in image.getexif()


def test_progress_counts_left_out_pictures_too(source: FolderSource, tmp_path: Path) -> None:
    (source.root / "train_004.jpg").write_bytes(b"")
    calls: list[tuple[int, int]] = []
    build(source, tmp_path / "out", samples_per_shard=6, on_corrupt="skip", progress=lambda *done: calls.append(done))
    assert calls == [(6, 27), (12, 27), (18, 27), (20, 27), (26, 27), (27, 27)]


@pytest.fixture
def shards(source: FolderSource, tmp_path: Path) -> Path:
    build(source, tmp_path / "out", samples_per_shard=6)
    return tmp_path / "out"


def test_one_changed_byte_of_a_picture_is_found(shards: Path) -> None:
    split = open_split(shards, "train")
    tar = split.paths[0]
    data = bytearray(tar.read_bytes())
    data[split.offsets[0] + split.sizes[0] // 2] ^= 1
    tar.write_bytes(data)
    assert "train-000000.tar: its bytes are not those that the manifest names" in verify(shards)


def test_a_shortened_or_missing_shard_is_refused_on_opening_and_found(shards: Path) -> None:
    tar = shards / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"train-000001\.tar: has 5,000 bytes, accepted: [\d,]+ bytes"):
        open_split(shards, "train")
    assert any(problem.startswith("train-000001.tar: ") for problem in verify(shards))
    tar.unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar: is missing"):
        open_split(shards, "train")
    assert verify(shards) == ["train-000001.tar: train-000001.tar is missing"]
    assert len(open_split(shards, "test")) == 7


def test_an_edited_index_is_refused_on_opening_and_found(shards: Path) -> None:
    path = shards / "test-000000.json"
    index = json.loads(path.read_bytes())
    index["labels"]["mood"][0] = 1 - index["labels"]["mood"][0]
    path.write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"test-000000\.json: is not the index that the manifest names"):
        open_split(shards, "test")
    assert verify(shards) == ["test-000000.tar: test-000000.json is not the index that the manifest names"]
    path.unlink()
    with pytest.raises(DataError, match=r"test-000000\.json: is missing"):
        open_split(shards, "test")


def test_a_shard_that_the_manifest_does_not_know_is_found(shards: Path) -> None:
    (shards / "train-000009.tar").write_bytes(b"")
    assert verify(shards) == ["train-000009.tar: is not in the manifest"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b'"mood": 1', b'"mood": 2', "has other labels than the index"),
        (b'"person": -1', b'"person": 0', "has other labels than the index"),
        (b"\xff\xd9", b"\xff\0", "does not decode"),
    ],
)
def test_shards_written_by_another_hand_are_found_though_their_sums_agree(
    source: FolderSource, tmp_path: Path, old: bytes, new: bytes, problem: str
) -> None:
    """A tar and a manifest that agree with each other, but whose samples do not agree with the index."""
    shards = tmp_path / "out"
    build(with_persons(source), shards, samples_per_shard=6)
    tar = shards / "test-000000.tar"
    with tarfile.open(tar) as before:
        members = [(member, before.extractfile(member).read()) for member in before]  # type: ignore[union-attr]
    with replacing(tar) as stream, tarfile.open(fileobj=stream, mode="w") as after:
        for member, body in members:
            forged_body = body.replace(old, new)
            member.size = len(forged_body)
            after.addfile(member, io.BytesIO(forged_body))
    manifest = load_manifest(shards)
    first, *others = manifest.splits["test"]
    forged = replace(first, bytes=tar.stat().st_size, sha256=file_sha256(tar))
    replace(manifest, splits=manifest.splits | {"test": (forged, *others)}).save(shards)
    problems = verify(shards)
    assert len(problems) > 1
    assert all(problem in found or found.endswith("is of another tar") for found in problems)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a"]}, "has 1 names, the manifest 6 samples"),
        ({"names": ["a", "b", "c", "d", "e", ""]}, r"names\.5: String should have at least 1 character, not ''"),
        ({"offsets": [0] * 5 + [-512]}, r"offsets\.5: .*greater than or equal to 0, not -512"),
        ({"sizes": [10**12] * 6}, "names bytes behind the end of its tar"),
        ({"sizes": [1.5] * 6}, r"sizes\.0: Input should be a valid integer"),
        ({"labels": {"mood": [0] * 6}}, "has labels of mood, the schema has mood, gender"),
        ({"labels": {"mood": [0] * 6, "gender": [0] * 5 + [7]}}, "has a label of 'gender' that is no class"),
        ({"labels": {"mood": [-2] * 6, "gender": [0] * 6}}, "has a label of 'mood' that is no class"),
        ({"tar_bytes": 1}, "is of another tar"),
        ({"more": 1}, "more: Unexpected keyword argument"),
    ],
)
def test_an_index_that_its_manifest_names_is_believed_whatever_it_says(
    shards: Path, change: dict[str, object], message: str
) -> None:
    path = shards / "train-000000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    manifest = load_manifest(shards)
    named = replace(manifest.splits["train"][0], index_sha256=file_sha256(path))
    replace(manifest, splits={**manifest.splits, "train": (named, *manifest.splits["train"][1:])}).save(shards)
    with pytest.raises(DataError, match=f"train-000000.json: .*{message}.*; build the shards again"):
        open_split(shards, "train")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 1', '"version": 2', "version: Input should be 1, not 2; build"),
        ('"version": 1', '"version": ', "is no manifest of a data set: Invalid JSON"),
        ('"samples": 6', '"samples": 7', "was changed after it was written"),
        ('"samples": 6', '"sample": 6', r"splits\.train\.0\.samples: "),
        ('"samples": 6', '"samples": -6', r"splits\.train\.0\.samples: .* greater than or equal to 0, not -6"),
        ('"samples": 6', '"samples": "6"', r"splits\.train\.0\.samples: Input should be a valid integer, not '6'"),
        ('"samples": 6', '"samples": 1', "train-000000.tar: has more labels than its 1 samples"),
        ('"train-000000.tar"', '"../train-000000.tar"', r"splits\.train\.0\.name: .*, not '\.\./train"),
        ('"train-000000.tar"', '"test-000000.tar"', "test-000000.tar of split train is there twice, or another split"),
        ('"fingerprint"', '"finger"', "fingerprint: "),
        ('"target": "mood"', '"target": "race"', "schema: target 'race' is not an attribute.*; build"),
        ('"version": 1', '"version": 1, "author": "me"', "author: Unexpected keyword argument"),
        ('"version": 1', '"version": ' + "[" * 100_000, "Invalid JSON: recursion limit"),
    ],
)
def test_a_manifest_that_was_meddled_with_is_refused(shards: Path, old: str, new: str, message: str) -> None:
    path = shards / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        load_manifest(shards)


def test_the_fingerprint_tells_data_sets_apart_by_one_pixel(source: FolderSource, tmp_path: Path) -> None:
    first = build(source, tmp_path / "first")
    (source.root / "train_004.jpg").write_bytes(picture(999))
    assert build(source, tmp_path / "second").fingerprint != first.fingerprint


def test_the_manifest_does_not_grow_with_the_samples_of_a_shard(tmp_path: Path) -> None:
    sizes = []
    for num in (4, 60):
        folder = tmp_path / f"in{num}"
        folder.mkdir()
        build(make_source(folder, train=num), tmp_path / f"out{num}")
        sizes.append((tmp_path / f"out{num}" / "manifest.json").stat().st_size)
    assert sizes[1] - sizes[0] < 20


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path) as stream:
            stream.write(b"ne")
            raise Unplugged

    with pytest.raises(Unplugged):
        write_half()
    assert content(tmp_path) == {"a.json": b"old"}


def test_the_sheet_shows_other_faces_for_another_seed_and_the_same_for_the_same(shards: Path, tmp_path: Path) -> None:
    for name, seed in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        contact_sheet(shards, "train", tmp_path / name, rows=1, seed=seed)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    with pytest.raises(DataError, match="no such folder for the sheet"):
        contact_sheet(shards, "train", tmp_path / "none" / "a.png")
    with pytest.raises(DataError, match="rows of faces is 0"):
        contact_sheet(shards, "train", tmp_path / "a.png", rows=0)


def test_the_table_has_a_line_for_every_class_and_for_unsure(shards: Path) -> None:
    manifest: Manifest = load_manifest(shards)
    assert class_table(manifest).row_count == 3 + 3 + 1
    mood, *others = manifest.schema.attributes
    marked = replace(mood, values={label: f"[/red]{name}" for label, name in mood.values.items()})
    table = class_table(replace(manifest, schema=replace(manifest.schema, attributes=(marked, *others))))
    with (console := Console(width=80)).capture() as capture:
        console.print(table)
    assert all(f"[/red]{name}" in capture.get() for name in mood.classes)
