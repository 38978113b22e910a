"""What labels mean: encoding, the schema's own checks, and its YAML and JSON forms."""

import json
import os
from pathlib import Path

import pytest
import yaml

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.sources.rafdb import RAFDB_SCHEMA
from privatenet.data_shards.sources.schema import UNSURE, Attribute, Schema

EMOTION = Attribute("emotion", {"7": "neutral", "4": "happiness"})
GENDER = Attribute("gender", {"0": "male", "1": "female"}, unsure="2")

FACES_YAML = """
name: faces
target: emotion
attributes:
  emotion:
    classes: {4: happiness, 1: surprise}
  gender:
    classes: {0: male, 1: female}
    unsure: 2
  age_group:
    classes: {0: 0-3, 1: 4-19, 2: 70+}
  glasses:
    classes: [without, with]
"""


def test_labels_become_class_indices_in_the_order_written_not_sorted() -> None:
    assert [EMOTION.encode("7"), EMOTION.encode("4")] == [0, 1]
    assert EMOTION.classes == ("neutral", "happiness")


def test_unsure_is_not_a_class() -> None:
    assert GENDER.encode("2") == UNSURE
    assert GENDER.classes == ("male", "female")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: faces\ntarget: a\nname: b\n", "line 3: the key 'name' is there twice"),
        ("attributes: {a: {classes: [x, y], classes: [y, z]}}", "line 1: the key 'classes' is there twice"),
        ("a: " + "[" * 200 + "]" * 200, "nested too deeply"),
        ("a: " + "[" * 100_000, "nested too deeply"),
        ("a: &x [*x]\nb: 1", "not YAML|is no|no `|no mapping|accepted"),
        ("\n".join(["a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"] + [f"{n}: &{n} [{', '.join([f'*{m}'] * 10)}]" for m, n in
          zip("abcdef", "bcdefg", strict=True)]), "has more than 100,000 values"),
        ("name: [faces", "is not YAML: .*line 1"),
        ("name: \x00", "is not YAML"),
        ("", "a schema is None, accepted: a mapping"),
    ],
)  # fmt: skip
def test_a_yaml_file_says_something_twice_or_grows_without_end(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "faces.yaml").write_text(text)
    with pytest.raises(DataError, match=f"faces.yaml: .*({message})"):
        Schema.from_yaml(tmp_path / "faces.yaml")


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"name: \xff")
    for name, message in (("pipe", "no file"), ("nowhere", "No such file"), (".", "no file"), ("bytes", "not YAML")):
        with pytest.raises(DataError, match=message):
            Schema.from_yaml(tmp_path / name)


def test_real_values_become_classes_by_bins() -> None:
    plain = {"name": "faces", "target": "smile", "attributes": {
        "smile": {"classes": ["no", "yes"]},
        "age": {"bins": [13, 20, 40.5], "unsure": "-1"},
        "height": {"bins": [1.7], "classes": ["short", "tall"]},
    }}  # fmt: skip
    schema = Schema.from_dict(plain)
    age, height = schema.attribute("age"), schema.attribute("height")
    assert age.classes == ("below 13", "13 to 20", "20 to 40.5", "40.5 and above")
    assert [age.encode(label) for label in ("0", "12.9", "13", "40.4", "40.5", "116", "-1")] == [0, 0, 1, 2, 3, 3, -1]
    assert [height.encode(label) for label in ("1.69", "1.7")] == [0, 1]
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    for label in ("old", "nan", "inf", ""):
        with pytest.raises(DataError, match=f"label '{label}' for 'age', accepted: numbers"):
            age.encode(label)


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "a" * 101, "\u202edesrever"])
def test_a_class_has_a_name_that_a_terminal_acts_upon(name: str) -> None:
    with pytest.raises(DataError, match="accepted: at most 100 characters that can be printed"):
        Attribute("mood", {"0": "good", "1": name})
    with pytest.raises(DataError, match="accepted: at most 100 characters that can be printed"):
        Attribute("mood", {"0": "good", name: "bad"})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "has no `classes`"),
        ({"bins": []}, "has no `classes`"),
        ({"bins": 3}, "`bins` is 3, accepted: a list of numbers"),
        ({"bins": [3, "5"]}, "accepted: a list of numbers"),
        ({"bins": [5, 3]}, r"has the bins \[5, 3\], accepted: numbers that rise"),
        ({"bins": [3, float("nan")]}, "accepted: numbers that rise"),
        ({"bins": [3], "classes": ["a", "b", "c"]}, "has 3 classes and 1 bins, accepted: one class more"),
    ],
)
def test_bins_that_make_no_classes_are_refused(body: dict[str, object], message: str) -> None:
    plain = {"name": "faces", "target": "smile", "attributes": {"smile": {"classes": ["no", "yes"]}, "age": body}}
    with pytest.raises(DataError, match=message):
        Schema.from_dict(plain)


@pytest.mark.parametrize("label", ["9", "", "male", "-1", "1.0", " 1"])
def test_an_unknown_label_is_refused_with_what_is_accepted(label: str) -> None:
    with pytest.raises(DataError, match=r"accepted: 0 \(male\), 1 \(female\), 2 \(unsure\)") as caught:
        GENDER.encode(label)
    assert f"label '{label}'" in str(caught.value)


GLASSES = Attribute("glasses", {"without": "without", "with": "with"}, unsure="2")


def test_where_the_labels_are_the_names_class_indices_are_labels_too() -> None:
    assert [GLASSES.encode(label) for label in ("without", "with", "0", "1", "2")] == [0, 1, 0, 1, UNSURE]
    with pytest.raises(DataError, match=r"accepted: without, with, 0 \(without\), 1 \(with\), 2 \(unsure\)"):
        GLASSES.encode("3")


@pytest.mark.parametrize(
    ("classes", "unsure", "named"),
    [(("1", "2"), None, "1"), (("12", "over 12"), None, "12"), (("without", "with"), "1", "without")],
)
def test_class_indices_that_could_mean_something_else_are_refused(
    classes: tuple[str, ...], unsure: str | None, named: str
) -> None:
    attribute = Attribute("glasses", {name: name for name in classes}, unsure)
    assert attribute.encode(named) == 0
    with pytest.raises(DataError, match=f"label '0' for 'glasses', accepted: {', '.join(classes)}"):
        attribute.encode("0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Gender", {"0": "male", "1": "female"}), "lower-case"),
        (("", {"0": "male", "1": "female"}), "lower-case"),
        (("gender", {"0": "male"}), "2 or more"),
        (("gender", {"0": "male", "1": "male"}), "two labels for the class 'male'"),
        (("gender", {"0": "male", "1": "female"}, "1"), "both a class and the unsure label"),
        (("gender", {"0": "male", "1": "female", "2": "unsure"}), "class 'unsure'"),
    ],
)
def test_an_impossible_attribute_is_refused(arguments: tuple[str, dict[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Attribute(*arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "mood"}, "target 'mood'.*accepted: emotion, gender"),
        ({"private": ("race",)}, "private attribute 'race'.*accepted: gender"),
        ({"private": ("emotion",)}, "private attribute 'emotion'"),
        ({"private": ("gender", "gender")}, "twice"),
        ({"attributes": (EMOTION, GENDER, GENDER)}, "two attributes called 'gender'"),
        ({"name": "my faces"}, "lower-case"),
    ],
)
def test_an_impossible_schema_is_refused(change: dict[str, object], message: str) -> None:
    fields = {"name": "faces", "target": "emotion", "attributes": (EMOTION, GENDER), "private": ("gender",)}
    with pytest.raises(DataError, match=message):
        Schema(**(fields | change))  # type: ignore[arg-type]


def test_yaml_keeps_class_order_and_makes_every_other_attribute_private(tmp_path: Path) -> None:
    path = tmp_path / "faces.yaml"
    path.write_text(FACES_YAML)
    schema = Schema.from_yaml(path)
    assert schema.names == ("emotion", "gender", "age_group", "glasses")
    assert schema.private == ("gender", "age_group", "glasses")
    assert schema.attribute("emotion").classes == ("happiness", "surprise")
    assert schema.attribute("gender").unsure == "2"
    assert schema.attribute("age_group").classes == ("0-3", "4-19", "70+")
    assert schema.attribute("glasses").encode("with") == 1


def test_a_schema_survives_json_and_yaml() -> None:
    assert Schema.from_dict(json.loads(json.dumps(RAFDB_SCHEMA.to_dict()))) == RAFDB_SCHEMA
    assert Schema.from_dict(yaml.safe_load(yaml.safe_dump(RAFDB_SCHEMA.to_dict(), sort_keys=False))) == RAFDB_SCHEMA


def test_no_private_attribute_is_a_choice_one_can_make() -> None:
    assert Schema.from_dict(RAFDB_SCHEMA.to_dict() | {"private": []}).private == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not YAML"),
        ("- a", "accepted: a mapping"),
        ("name: faces\ntarget: emotion", "no `attributes`"),
        (FACES_YAML + "privat: [gender]", "key `privat`.*accepted: attributes, name, private, target"),
        (FACES_YAML + "private: gender", "`private` is 'gender', accepted: a list"),
        (FACES_YAML.replace("without, with", "no, yes"), "False.*put it in quotes"),
        (FACES_YAML.replace("0: 0-3", "0: 2001-04-19"), "datetime.*put it in quotes"),
        (FACES_YAML.replace("{0: male, 1: female}", "5"), "attribute 'gender': classes is 5"),
        (FACES_YAML.replace("without, with", "with, with"), "two classes called 'with'"),
        (
            FACES_YAML.replace("glasses", "person"),
            "attribute 'person'.*says who is in a picture; accepted: another name",
        ),
    ],
)
def test_a_wrong_schema_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "faces.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        Schema.from_yaml(path)
    assert str(path) in str(caught.value)


def test_a_missing_schema_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"faces\.yaml: cannot be read"):
        Schema.from_yaml(tmp_path / "faces.yaml")
