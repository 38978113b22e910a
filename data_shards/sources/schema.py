"""What a data set's labels mean: its attributes, their classes, which one is the target and which are private."""

import math
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.yaml_files import read_yaml

UNSURE = -1
"""The class index of a sample whose label is unknown: its annotators could not tell, or were not asked."""

LONGEST = 100
"""Characters of a class's name, or of the label that stands for it."""

PERSON = "person"
"""What a sample's person stands under, beside its labels; so no attribute can be called that."""

IDENTIFIER = re.compile(r"[a-z0-9_]+")
"""What schemas, attributes and splits may be called."""


@dataclass(frozen=True)
class Attribute:
    """One label per sample.

    `values` maps a label as the source writes it to its class's name, in the order of the class indices; where the
    labels are the names, a source may also write the class index. `unsure` is the label that stands for "could not
    tell", if the source has one. With `bins` the source writes real values, such as an age: these are the ends between
    the classes in order, each a part of the class above it.
    """

    name: str
    values: dict[str, str]
    unsure: str | None = None
    bins: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_identifier("attribute", self.name)
        if self.name == PERSON:
            raise DataError(f"attribute '{PERSON}' is not a label, it says who is in a picture; accepted: another name")
        if len(self.values) < 2:
            raise DataError(f"attribute '{self.name}' has {len(self.values)} classes, accepted: 2 or more")
        for text in (*self.values, *self.classes, self.unsure or "unsure"):
            if not text.isprintable() or len(text) > LONGEST:
                raise DataError(
                    f"attribute '{self.name}' has a label or class {text[:LONGEST]!r}, "
                    f"accepted: at most {LONGEST} characters that can be printed"
                )
        repeated = _first_repeated(self.classes)
        if repeated is not None:
            raise DataError(f"attribute '{self.name}' has two labels for the class '{repeated}', accepted: one each")
        if "unsure" in self.classes:
            raise DataError(f"attribute '{self.name}' has a class 'unsure'; give its label as `unsure:` instead")
        if self.unsure in self.values:
            raise DataError(f"attribute '{self.name}': label '{self.unsure}' is both a class and the unsure label")
        if not all(low < high for low, high in pairwise((-math.inf, *self.bins, math.inf))):
            raise DataError(f"attribute '{self.name}' has the bins {list(self.bins)}, accepted: numbers that rise")
        if self.bins and len(self.classes) != len(self.bins) + 1:
            raise DataError(
                f"attribute '{self.name}' has {len(self.classes)} classes and {len(self.bins)} bins, "
                f"accepted: one class more than bins"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, by class index."""
        return tuple(self.values.values())

    def encode(self, label: str) -> int:
        """The class index of a label as the source writes it, `UNSURE` for the unsure label."""
        if label == self.unsure:
            return UNSURE
        if self.bins:
            return bisect_right(self.bins, self._number(label))
        labels = list(self.values)
        for accepted in (labels, self._indices):
            if label in accepted:
                return accepted.index(label)
        known = [f"{label} ({name})" if label != name else label for label, name in self.values.items()]
        known += [f"{index} ({name})" for index, name in zip(self._indices, self.classes, strict=False)]
        known += [] if self.unsure is None else [f"{self.unsure} (unsure)"]
        raise DataError(f"label '{label}' for '{self.name}', accepted: {', '.join(known)}")

    def _number(self, label: str) -> float:
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(
                f"label '{label}' for '{self.name}', accepted: numbers, of which classes are made by `bins`"
            )
        return value

    @property
    def _indices(self) -> list[str]:
        """The class indices as labels: where the names are labels too, and none of them nor `unsure` could be meant."""
        indices = [str(index) for index in range(len(self.values))]
        numbered = self.unsure in indices or any(label.isdecimal() for label in self.values)
        return [] if numbered or tuple(self.values) != self.classes else indices


@dataclass(frozen=True)
class Schema:
    """The attributes of a data set, the target among them, and the private ones (not the target).

    As YAML, and as `manifest.json` has it (`private` may be left out: then every attribute but the target is):

        name: faces
        target: emotion
        private: [gender]
        attributes:
          emotion:
            classes: {1: surprise, 2: fear, 3: neutral}     # label as written: class name, in the order wanted
          gender:
            classes: {0: male, 1: female}
            unsure: 2
          glasses:
            classes: [without, with]                        # where the labels are the names, or 0 and 1
          age:
            bins: [13, 20, 40]                              # of numbers: below 13, 13 to 20, 20 to 40, 40 and above
    """

    name: str
    target: str
    attributes: tuple[Attribute, ...]
    private: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_identifier("schema", self.name)
        repeated = _first_repeated(self.names)
        if repeated is not None:
            raise DataError(f"schema '{self.name}' has two attributes called '{repeated}'")
        if self.target not in self.names:
            raise DataError(f"target '{self.target}' is not an attribute, accepted: {', '.join(self.names)}")
        others = [name for name in self.names if name != self.target]
        for private in self.private:
            if private not in others:
                raise DataError(
                    f"private attribute '{private}' is not an attribute besides the target, "
                    f"accepted: {', '.join(others) or 'none, the target is the only attribute'}"
                )
        repeated = _first_repeated(self.private)
        if repeated is not None:
            raise DataError(f"private attribute '{repeated}' is given twice")

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes' names, in the order of a sample's labels."""
        return tuple(attribute.name for attribute in self.attributes)

    def attribute(self, name: str) -> Attribute:
        """The attribute of that name; DataError where there is none."""
        if name not in self.names:
            raise DataError(f"'{name}' is not an attribute of '{self.name}', accepted: {', '.join(self.names)}")
        return self.attributes[self.names.index(name)]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON or YAML; the order of attributes and classes carries meaning."""
        return {
            "name": self.name,
            "target": self.target,
            "private": list(self.private),
            "attributes": {
                attribute.name: {"classes": dict(attribute.values)}
                | ({} if attribute.unsure is None else {"unsure": attribute.unsure})
                | ({"bins": list(attribute.bins)} if attribute.bins else {})
                for attribute in self.attributes
            },
        }

    @classmethod
    def from_dict(cls, plain: object) -> "Schema":
        """The inverse of `to_dict`, also of a person's writing; DataError for anything else."""
        fields = _mapping(plain, "a schema", required={"name", "target", "attributes"}, optional={"private"})
        attributes = tuple(
            _attribute(name, body) for name, body in _mapping(fields["attributes"], "`attributes`").items()
        )
        target = _text(fields["target"], "`target`")
        others = [attribute.name for attribute in attributes if attribute.name != target]
        private = fields.get("private", others)
        if not isinstance(private, list):
            raise DataError(f"`private` is {private!r}, accepted: a list of attributes, such as [gender, age_group]")
        return cls(
            name=_text(fields["name"], "`name`"),
            target=target,
            attributes=attributes,
            private=tuple(_text(name, "`private`") for name in private),
        )

    @classmethod
    def from_yaml(cls, path: Path) -> "Schema":
        """Read a schema file; DataError names the file and what is wrong with it."""
        plain = read_yaml(path, DataError)
        try:
            return cls.from_dict(plain)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


def _attribute(name: str, plain: object) -> Attribute:
    where = f"attribute '{name}'"
    body = _mapping(plain, where, required=set(), optional={"classes", "unsure", "bins"})
    bins = _bins(body.get("bins", []), where)
    if "classes" not in body and not bins:
        raise DataError(f"{where} has no `classes`")
    classes = body.get("classes", _bin_names(bins))
    if isinstance(classes, list):
        names = [_text(value, f"{where}, a class") for value in classes]
        repeated = _first_repeated(names)
        if repeated is not None:
            raise DataError(f"{where} has two classes called '{repeated}'")
        classes = {value: value for value in names}
    values = {
        label: _text(value, f"{where}, a class") for label, value in _mapping(classes, f"{where}: classes").items()
    }
    unsure = body.get("unsure")
    return Attribute(name, values, None if unsure is None else _text(unsure, f"{where}, `unsure`"), bins)


def _bins(plain: object, where: str) -> tuple[float, ...]:
    if not isinstance(plain, list) or not all(type(end) in (int, float) for end in plain):
        raise DataError(f"{where}: `bins` is {plain!r}, accepted: a list of numbers that rise, such as [13, 20, 40]")
    return tuple(plain)


def _bin_names(bins: tuple[float, ...]) -> list[str]:
    between = [f"{low:g} to {high:g}" for low, high in pairwise(bins)]
    return [f"below {bins[0]:g}", *between, f"{bins[-1]:g} and above"] if bins else []


def _mapping(
    plain: object, where: str, required: set[str] | None = None, optional: set[str] | None = None
) -> dict[str, Any]:
    if not isinstance(plain, Mapping):
        raise DataError(f"{where} is {plain!r}, accepted: a mapping")
    fields = {_text(key, f"{where}, a key"): value for key, value in plain.items()}
    if required is not None:
        accepted = required | (optional or set())
        for key in required - fields.keys():
            raise DataError(f"{where} has no `{key}`")
        for key in fields.keys() - accepted:
            raise DataError(f"{where} has a key `{key}`, accepted: {', '.join(sorted(accepted))}")
    return fields


def _text(value: object, where: str) -> str:
    """A label or name as text: YAML reads 0 as a number, and `no` as false, which needs quotes."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{where} is {value!r}, accepted: text or a whole number; put it in quotes")
    return str(value)


def _check_identifier(kind: str, name: str) -> None:
    if not IDENTIFIER.fullmatch(name):
        raise DataError(f"{kind} '{name}' is not a name we can use, accepted: lower-case letters, digits and _")


def _first_repeated(names: tuple[str, ...] | list[str]) -> str | None:
    return next((name for position, name in enumerate(names) if name in names[:position]), None)
