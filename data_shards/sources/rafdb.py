"""RAF-DB's `basic` folder as a source: its label lists in both releases, joined by name, and its aligned faces.

Li, Deng and Du, "Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in the
Wild", CVPR 2017. Under the root:

    EmoLabel/list_patition_label.txt              train_00001.jpg 5            (the data set's spelling)
    Image/aligned/train_00001_aligned.jpg         100x100 RGB
and the other attributes either as lists, the way the demographic labels travel on their own,
    GenderLabel/, AgeLabel/, RaceLabel/           the same file name; train_00001.jpg<TAB>1
or as the data set itself has them,
    Annotation/manual/train_00001_manu_attri.txt  five landmarks, then gender, race and age group, one a line
Race may be missing from the lists; the schema is then without it. RAF-DB does not say who is in a picture; data in its
layout may, and then of every picture:
    PersonLabel/                                  the same file name; train_00001.jpg<TAB>a name or number, no spaces
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.sources.record import FolderSource, Record, check_pictures
from privatenet.data_shards.sources.schema import PERSON, Attribute, Schema

Label = TypeVar("Label")

_EMOTIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
_AGE_GROUPS = ("0-3", "4-19", "20-39", "40-69", "70+")

RAFDB_SCHEMA = Schema(
    name="rafdb",
    target="emotion",
    attributes=(
        Attribute("emotion", {str(label): name for label, name in enumerate(_EMOTIONS, start=1)}),
        Attribute("gender", {"0": "male", "1": "female"}, unsure="2"),
        Attribute("age_group", {str(label): name for label, name in enumerate(_AGE_GROUPS)}),
        Attribute("race", {"0": "Caucasian", "1": "African-American", "2": "Asian"}),
    ),
    private=("gender", "age_group", "race"),
)

_LIST = "list_patition_label.txt"
_FOLDERS = {
    "emotion": "EmoLabel",
    "gender": "GenderLabel",
    "age_group": "AgeLabel",
    "race": "RaceLabel",
    PERSON: "PersonLabel",
}
_ANNOTATED = ("gender", "race", "age_group")
_NUM_LANDMARKS = 5
_PICTURE = re.compile(r"((train|test)_\w+)\.jpg")


def rafdb_source(root: Path) -> FolderSource:
    """The data set under `root`, pictures and labels; DataError names the first picture or label that is missing."""
    schema, records = read_labels(root)
    check_pictures(root, records)
    return FolderSource(schema, records, root)


def read_labels(root: Path) -> tuple[Schema, tuple[Record, ...]]:
    """The labels under `root`, in the order of the emotion list; no picture is looked for."""
    emotions = _read_list(root, "emotion", RAFDB_SCHEMA.attribute("emotion").encode)
    labels = {"emotion": emotions} | (_read_lists(root) or _read_annotations(root, list(emotions)))
    for attribute, by_name in labels.items():
        _check_same_names(root, attribute, by_name, emotions)
    persons = _read_persons(root)
    if persons:
        _check_same_names(root, PERSON, persons, emotions)
    schema = _schema_of(labels)
    records = tuple(
        Record(
            name=name,
            split=name.partition("_")[0],
            labels=tuple(labels[attribute][name] for attribute in schema.names),
            location=f"Image/aligned/{name}_aligned.jpg",
            person=persons.get(name),
        )
        for name in emotions
    )
    return schema, records


def _schema_of(labels: dict[str, dict[str, int]]) -> Schema:
    return dataclasses.replace(
        RAFDB_SCHEMA,
        attributes=tuple(attribute for attribute in RAFDB_SCHEMA.attributes if attribute.name in labels),
        private=tuple(name for name in RAFDB_SCHEMA.private if name in labels),
    )


def _read_lists(root: Path) -> dict[str, dict[str, int]]:
    """The private attributes that come as lists: none of them, or all but perhaps race."""
    present = [name for name in RAFDB_SCHEMA.private if (root / _FOLDERS[name]).is_dir()]
    needed = [name for name in RAFDB_SCHEMA.private if name in present or name != "race"] if present else []
    return {name: _read_list(root, name, RAFDB_SCHEMA.attribute(name).encode) for name in needed}


def _read_persons(root: Path) -> dict[str, str]:
    """Who is in each picture, by sample name; empty where the data set does not say."""
    return _read_list(root, PERSON, str) if (root / _FOLDERS[PERSON]).is_dir() else {}


def _read_list(root: Path, attribute: str, encode: Callable[[str], Label]) -> dict[str, Label]:
    """The encoded label by sample name from `name.jpg<space or tab>label` lines."""
    path = root / _FOLDERS[attribute] / _LIST
    labels: dict[str, Label] = {}
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        picture = _PICTURE.fullmatch(fields[0]) if len(fields) == 2 else None
        if picture is None:
            raise DataError(
                f"{path}, line {number}: '{line}', accepted: 'train_NAME.jpg LABEL' or 'test_NAME.jpg LABEL'"
            )
        name = picture[1]
        if name in labels:
            raise DataError(f"{path}, line {number}: '{fields[0]}' is listed twice")
        try:
            labels[name] = encode(fields[1])
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    if not labels:
        raise DataError(f"{path}: lists no pictures")
    return labels


def _read_annotations(root: Path, names: list[str]) -> dict[str, dict[str, int]]:
    """Class index by attribute and sample name from one file per sample."""
    folder = root / "Annotation" / "manual"
    if not folder.is_dir():
        raise DataError(
            f"{root}: has no gender, age and race labels, accepted: the folders GenderLabel, AgeLabel (and RaceLabel), "
            "or Annotation/manual"
        )
    labels: dict[str, dict[str, int]] = {attribute: {} for attribute in _ANNOTATED}
    for name in names:
        path = folder / f"{name}_manu_attri.txt"
        lines = [line for line in _lines(path) if line.strip()][_NUM_LANDMARKS:]
        if len(lines) != len(_ANNOTATED):
            raise DataError(
                f"{path}: {len(lines)} lines after the first {_NUM_LANDMARKS}, "
                f"accepted: {len(_ANNOTATED)}, the {', '.join(_ANNOTATED)}"
            )
        for attribute, value in zip(_ANNOTATED, lines, strict=True):
            try:
                labels[attribute][name] = RAFDB_SCHEMA.attribute(attribute).encode(value.strip())
            except DataError as error:
                raise DataError(f"{path}: {error}") from error
    return labels


def _check_same_names(root: Path, attribute: str, by_name: Mapping[str, object], emotions: dict[str, int]) -> None:
    for name in emotions.keys() - by_name.keys():
        raise DataError(f"{root / _FOLDERS[attribute] / _LIST}: has no label for '{name}.jpg', which has an emotion")
    for name in by_name.keys() - emotions.keys():
        raise DataError(f"{root / _FOLDERS['emotion'] / _LIST}: has no label for '{name}.jpg', which has a {attribute}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text: {error}") from error
