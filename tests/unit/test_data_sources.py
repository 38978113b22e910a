"""RAF-DB's two releases, CSV tables, and the records that no source may bring along."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.sources.rafdb import RAFDB_SCHEMA, rafdb_source, read_labels
from privatenet.data_shards.sources.record import Record, check_records
from privatenet.data_shards.sources.schema import UNSURE
from privatenet.data_shards.sources.table import safe_name, table_source

# emotion, gender, age group and race, as RAF-DB writes them
FACES = {"train_00001": "5120", "train_00002": "4231", "train_00003": "1002", "test_0001": "7140"}
FOLDERS = ("EmoLabel", "GenderLabel", "AgeLabel", "RaceLabel")


@pytest.fixture
def rafdb(tmp_path: Path) -> Path:
    """RAF-DB with label lists, each list in an order of its own."""
    write_lists(tmp_path, FOLDERS)
    write_pictures(tmp_path)
    return tmp_path


def write_lists(root: Path, folders: tuple[str, ...]) -> None:
    for column, folder in enumerate(FOLDERS):
        if folder in folders:
            separator, ending = (" ", "\r\n") if folder == "EmoLabel" else ("\t", "\n")
            lines = [f"{name}.jpg{separator}{labels[column]}{ending}" for name, labels in FACES.items()]
            (root / folder).mkdir()
            (root / folder / "list_patition_label.txt").write_text("".join(lines[column:] + lines[:column]), newline="")


def write_annotations(root: Path) -> None:
    folder = root / "Annotation" / "manual"
    folder.mkdir(parents=True)
    for name, (_, gender, age, race) in FACES.items():
        landmarks = "".join(f"{10 * point}.5\t{11 * point}.25\n" for point in range(5))
        (folder / f"{name}_manu_attri.txt").write_text(f"{landmarks}{gender}\n{race}\n{age}\n")


def write_pictures(root: Path) -> None:
    (root / "Image" / "aligned").mkdir(parents=True)
    for name in FACES:
        (root / "Image" / "aligned" / f"{name}_aligned.jpg").write_bytes(name.encode())


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_rafdb_labels_are_joined_by_name_not_by_line(rafdb: Path) -> None:
    source = rafdb_source(rafdb)
    assert source.schema == RAFDB_SCHEMA
    assert {record.name: record.labels for record in source.records} == {
        "train_00001": (4, 1, 2, 0),
        "train_00002": (3, UNSURE, 3, 1),
        "train_00003": (0, 0, 0, 2),
        "test_0001": (6, 1, 4, 0),
    }
    assert [record.split for record in source.records] == ["train", "train", "train", "test"]
    assert [source.read(record) for record in source.records] == [name.encode() for name in FACES]


def test_rafdb_reads_the_same_from_both_releases(rafdb: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    released = tmp_path_factory.mktemp("released")
    write_lists(released, ("EmoLabel",))
    write_annotations(released)
    assert read_labels(released) == read_labels(rafdb)


def test_rafdb_without_race_labels_has_a_schema_without_race(tmp_path: Path) -> None:
    write_lists(tmp_path, ("EmoLabel", "GenderLabel", "AgeLabel"))
    schema, records = read_labels(tmp_path)
    assert schema.names == ("emotion", "gender", "age_group")
    assert schema.private == ("gender", "age_group")
    assert records[0].labels == (4, 1, 2)


def test_rafdb_persons_are_read_where_a_list_says_who_they_are(rafdb: Path) -> None:
    assert {record.person for record in read_labels(rafdb)[1]} == {None}
    (rafdb / "PersonLabel").mkdir()
    path = rafdb / "PersonLabel" / "list_patition_label.txt"
    path.write_text("".join(f"{name}.jpg\t{person}\n" for name, person in zip(FACES, "abab", strict=True)))
    assert [record.person for record in read_labels(rafdb)[1]] == ["a", "b", "a", "b"]
    edit(path, "train_00003.jpg\ta\n", "")
    with pytest.raises(DataError, match=r"PersonLabel.*no label for 'train_00003\.jpg'"):
        read_labels(rafdb)


def test_real_faces_are_of_as_many_people_as_published() -> None:
    root = os.environ.get("PRIVATENET_LFW_RAF")
    if root is None:
        pytest.skip("PRIVATENET_LFW_RAF does not name a folder of faces laid out as RAF-DB's")
    records = read_labels(Path(root))[1]
    train, test = ({record.person for record in records if record.split == split} for split in ("train", "test"))
    assert (len(train), len(test), len(train & test)) == (2508, 640, 0)


def test_rafdb_missing_pictures_are_found_before_anything_is_read(rafdb: Path) -> None:
    for name in ("train_00002", "test_0001"):
        (rafdb / "Image" / "aligned" / f"{name}_aligned.jpg").unlink()
    with pytest.raises(DataError, match=r"train_00002_aligned\.jpg: no such picture \(and 1 more\)"):
        rafdb_source(rafdb)


@pytest.mark.parametrize(
    ("folder", "old", "new", "message"),
    [
        ("EmoLabel", "train_00001.jpg 5", "train_00001.jpg 8", r"line 1: label '8' for 'emotion', accepted: 1 \(surpr"),
        ("EmoLabel", "train_00001.jpg 5", "train_00001.jpg 0", "label '0'"),
        ("GenderLabel", "train_00001.jpg\t1", "train_00001.jpg\t3", r"GenderLabel.*label '3'.*2 \(unsure\)"),
        ("AgeLabel", "train_00003.jpg\t0", "train_00001.jpg\t0", "AgeLabel.*'train_00001.jpg' is listed twice"),
        ("AgeLabel", "train_00003.jpg\t0\n", "", "AgeLabel.*no label for 'train_00003.jpg'"),
        ("EmoLabel", "train_00003.jpg 1\n", "", "EmoLabel.*no label for 'train_00003.jpg', which has a gender"),
        ("RaceLabel", "train_00003.jpg\t2", "train_00003.jpg", "RaceLabel.*accepted: .train_NAME.jpg LABEL"),
        ("RaceLabel", "train_00003.jpg", "val_00003.jpg", "RaceLabel.*accepted: .train_NAME.jpg LABEL"),
    ],
)
def test_rafdb_wrong_label_lists_are_refused(rafdb: Path, folder: str, old: str, new: str, message: str) -> None:
    edit(rafdb / folder / "list_patition_label.txt", old, new)
    with pytest.raises(DataError, match=message):
        read_labels(rafdb)


@pytest.mark.parametrize("folder", ["EmoLabel", "GenderLabel", "AgeLabel"])
def test_rafdb_without_a_needed_list_is_refused(rafdb: Path, folder: str) -> None:
    (rafdb / folder / "list_patition_label.txt").unlink()
    (rafdb / folder).rmdir()
    with pytest.raises(DataError, match=rf"{folder}.list_patition_label\.txt: cannot be read: No such file"):
        read_labels(rafdb)


def test_rafdb_with_emotions_alone_is_told_what_else_it_needs(tmp_path: Path) -> None:
    write_lists(tmp_path, ("EmoLabel",))
    with pytest.raises(DataError, match=r"GenderLabel.*or Annotation/manual"):
        read_labels(tmp_path)


def test_rafdb_wrong_annotations_are_refused(tmp_path: Path) -> None:
    write_lists(tmp_path, ("EmoLabel",))
    write_annotations(tmp_path)
    path = tmp_path / "Annotation" / "manual" / "train_00002_manu_attri.txt"
    edit(path, "40.5\t44.25\n2\n", "40.5\t44.25\n5\n")
    with pytest.raises(DataError, match=r"train_00002_manu_attri\.txt: label '5' for 'gender'"):
        read_labels(tmp_path)
    edit(path, "40.5\t44.25\n", "")
    with pytest.raises(DataError, match=r"train_00002_manu_attri\.txt: 2 lines after the first 5"):
        read_labels(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"train_00002_manu_attri\.txt: cannot be read"):
        read_labels(tmp_path)


@pytest.fixture
def real_labels() -> Path:
    root = os.environ.get("PRIVATENET_RAFDB_LABELS")
    if root is None:
        pytest.skip("PRIVATENET_RAFDB_LABELS does not name a folder with RAF-DB's label lists")
    return Path(root)


def test_rafdb_real_labels_have_the_published_counts(real_labels: Path) -> None:
    schema, records = read_labels(real_labels)
    assert schema == RAFDB_SCHEMA
    counts = {
        (split, attribute.name): [
            Counter(record.labels[column] for record in records if record.split == split)[label]
            for label in (*range(len(attribute.classes)), UNSURE)
        ]
        for split in ("train", "test")
        for column, attribute in enumerate(schema.attributes)
    }
    assert counts == {
        ("train", "emotion"): [1290, 281, 717, 4772, 1982, 705, 2524, 0],
        ("test", "emotion"): [329, 74, 160, 1185, 478, 162, 680, 0],
        ("train", "gender"): [4957, 6562, 752],
        ("test", "gender"): [1249, 1620, 199],
        ("train", "age_group"): [1283, 2171, 6531, 1920, 366, 0],
        ("test", "age_group"): [329, 486, 1662, 502, 89, 0],
        ("train", "race"): [9391, 968, 1912, 0],
        ("test", "race"): [2351, 234, 483, 0],
    }


def test_rafdb_leaving_out_unsure_genders_moves_no_emotion_to_another_picture(real_labels: Path) -> None:
    lines = (real_labels / "EmoLabel" / "list_patition_label.txt").read_text().split()
    pairs = zip(lines[::2], lines[1::2], strict=True)
    emotion_of = {name.removesuffix(".jpg"): int(label) - 1 for name, label in pairs}
    sure = [record for record in read_labels(real_labels)[1] if record.labels[1] != UNSURE]
    assert len(sure) == 15_339 - 951
    assert all(record.labels[0] == emotion_of[record.name] for record in sure)


SCHEMA = """
name: faces
target: mood
attributes:
  mood: {classes: {up: happy, down: sad}}
  gender: {classes: {0: male, 1: female}, unsure: 2}
"""
ROWS = ["path,split,mood,gender,note", "in/ann.jpg,train,up,1,x", "in/bob.png,train,down,0,", '"in/c,d.jpg",test,up,2,']


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("ann.jpg", "bob.png", "c,d.jpg"):
        (tmp_path / "in" / name).write_bytes(name.encode())
    (tmp_path / "faces.yaml").write_text(SCHEMA)
    (tmp_path / "faces.csv").write_text("\n".join(ROWS) + "\n")
    return tmp_path / "faces.csv"


def test_table_rows_become_records(table: Path) -> None:
    source = table_source(table, table.with_suffix(".yaml"))
    assert source.records == (
        Record("ann", "train", (0, 1), "in/ann.jpg"),
        Record("bob", "train", (1, 0), "in/bob.png"),
        Record("c,d", "test", (0, UNSURE), "in/c,d.jpg"),
    )
    assert source.read(source.records[2]) == b"c,d.jpg"


def test_table_as_a_spreadsheet_saves_it_with_names_and_another_root(table: Path) -> None:
    rows = ["name,split,path,gender,mood", "first,train,ann.jpg,1,up", ",test,bob.png,0,down"]
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    source = table_source(table, table.with_suffix(".yaml"), root=table.parent / "in")
    assert [(record.name, record.labels) for record in source.records] == [("first", (0, 1)), ("bob", (1, 0))]
    assert source.read(source.records[0]) == b"ann.jpg"


def test_table_persons_are_optional_and_may_be_unknown(table: Path) -> None:
    rows = ["path,split,mood,gender,person", "in/ann.jpg,train,up,1, Ann A ", "in/bob.png,train,down,0,"]
    table.write_text("\n".join(rows))
    source = table_source(table, table.with_suffix(".yaml"))
    assert [record.person for record in source.records] == ["Ann A", None]


def test_table_labels_may_be_unknown_the_targets_too(table: Path) -> None:
    edit(table, "train,up,1", "train, ,1")
    edit(table, "train,down,0", "train,down,")
    source = table_source(table, table.with_suffix(".yaml"))
    assert [record.labels for record in source.records] == [(UNSURE, 1), (1, UNSURE), (0, UNSURE)]


def test_table_names_that_a_shard_cannot_hold_are_escaped_and_come_back(table: Path) -> None:
    """UTKFace calls its pictures 1_0_2_20170110.jpg.chip.jpg."""
    (table.parent / "in" / "ann.jpg").rename(table.parent / "in" / "1_0.jpg.chip.jpg")
    edit(table, "in/ann.jpg,train", "in/1_0.jpg.chip.jpg,train")
    source = table_source(table, table.with_suffix(".yaml"))
    assert source.records[0] == Record("1_0%2Ejpg%2Echip", "train", (0, 1), "in/1_0.jpg.chip.jpg")
    for name in ("1_0.jpg.chip", "a%2Eb", "100%", "a/b\\c\td\x7f", "Zoë, two"):
        check_records([replace(GOOD, name=safe_name(name))], RAFDB_SCHEMA)
        assert unquote(safe_name(name)) == name
    assert safe_name("Zoë, two") == "Zoë, two"


def test_table_names_that_clash_are_refused_with_both_lines(table: Path) -> None:
    edit(table, "in/bob.png", "in/ann.png")
    with pytest.raises(DataError, match=r"lines 2 and 3 are both called 'ann'; a column `name` can tell them apart"):
        table_source(table, table.with_suffix(".yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "mood,gender",
            "mood,sex",
            r"no column 'gender', needed: path, split, mood, gender; found: path",
        ),
        ("up,1", "left,1", r"line 2: label 'left' for 'mood', accepted: up \(happy\), down \(sad\)"),
        ("down,0", "down,7", "line 3: label '7' for 'gender'"),
        ("bob.png,train", "bob.png,", "line 3: column 'split' is empty"),
        ("down,0,", "down", "line 3: ends before the column 'gender'"),
        ("in/bob.png", "in/eve.png", r"in/eve\.png: no such picture$"),
        ('"in/c,d.jpg"', '"in/c,d.jpg"x', "is not CSV"),
    ],
)
def test_table_mistakes_are_refused_with_their_place(table: Path, old: str, new: str, message: str) -> None:
    edit(table, old, new)
    with pytest.raises(DataError, match=message):
        table_source(table, table.with_suffix(".yaml"))


def test_a_table_that_is_not_there_is_refused(table: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read"):
        table_source(table.with_name("none.csv"), table.with_suffix(".yaml"))


GOOD = Record("train_1", "train", (0, 0, 0, 0), "1.jpg")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no samples"),
        ([GOOD, Record("train_1", "train", (1, 0, 0, 0), "2.jpg")], r"two samples, 1\.jpg and 2\.jpg"),
        ([GOOD, Record("train_1", "test", (0, 0, 0, 0), "2.jpg")], "once over all splits"),
        ([Record("a.b", "train", (0, 0, 0, 0), "1.jpg")], r"name 'a\.b'.*without dots"),
        ([Record("a/b", "train", (0, 0, 0, 0), "1.jpg")], "name 'a/b'"),
        ([Record("a\nb", "train", (0, 0, 0, 0), "1.jpg")], "control characters"),
        ([Record("", "train", (0, 0, 0, 0), "1.jpg")], "name ''"),
        ([Record("é" * 126, "train", (0, 0, 0, 0), "1.jpg")], "250 bytes"),
        ([Record("a", "", (0, 0, 0, 0), "1.jpg")], "split ''"),
        ([Record("a", "../up", (0, 0, 0, 0), "1.jpg")], r"split '\.\./up'"),
        ([Record("a", "train", (0, 0, 0), "1.jpg")], "accepted: a class index or -1 for each of emotion, gender"),
        ([Record("a", "train", (7, 0, 0, 0), "1.jpg")], r"labels \(7, 0, 0, 0\)"),
        ([Record("a", "train", (0, -2, 0, 0), "1.jpg")], r"labels \(0, -2, 0, 0\)"),
        ([GOOD, Record("a", "test", (-1, 0, 0, 0), "2.jpg")], "no sample of split 'test' has a known 'emotion'"),
        ([replace(GOOD, labels=(-1, 0, 0, 0))], "no sample of split 'train' has a known 'emotion', the target"),
    ],
)
def test_records_that_cannot_become_shards_are_refused(records: list[Record], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_records(records, RAFDB_SCHEMA)
