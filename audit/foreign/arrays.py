"""Features that were made elsewhere, with their labels, as arrays under names:

    train/layer3, test/layer3              features of each sample: vectors [N, C], tokens [N, T, C], maps [N, C, h, w]
    train/logits, test/logits              what the network answers, if that is attacked: [N, classes of the target]
    train/labels/gender, test/labels/...   each sample's class, [N]: numbers from 0, or text; below 0 or empty: unknown
    train/persons, test/persons            who is in each sample, [N], if that is known: numbers; below 0: unknown

A file .npz holds them, as numpy.savez writes it; nothing in it is unpickled.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from privatenet.audit.attack.features import LOGITS, SPLITS, Features, Index, Key, tap_file, write_index
from privatenet.audit.attack.samples import Labels
from privatenet.audit.errors import AuditError
from privatenet.audit.foreign.taps import check_form, check_name, in_form
from privatenet.data_shards.files import file_sha256, replacing, writing
from privatenet.data_shards.sources.schema import UNSURE, Attribute, Schema
from privatenet.distributed.ranks import ALONE, Ranks
from privatenet.models.channel import NO_CHANNEL

UNSTATED = "unstated"
"""What the target is called where nobody says what the network is for; its labels are unknown."""

LABELS, PERSONS = "labels/", "persons"
MOST_CLASSES = 1000

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class ArraySplit:
    """A split's labels, int64 [N, attributes], and who is in its samples, which are numbered."""

    name: str
    labels: Labels
    persons: Labels | None

    @cached_property
    def names(self) -> Sequence[str]:
        return [f"{self.name}/{row}" for row in range(len(self))]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ArrayFaces:
    """The labelled samples of arrays; `LabelledFaces` for attackers, which may learn from all of the training split."""

    schema: Schema
    fingerprint: str
    train: ArraySplit
    test: ArraySplit
    ranks: Ranks = ALONE
    features: Mapping[str, AnyArray] = field(default_factory=dict, repr=False)
    """By "split/tap"."""

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        return np.zeros(len(self.train), dtype=np.bool_)


def read_arrays(source: Path | Mapping[str, npt.ArrayLike], target: str, ranks: Ranks = ALONE) -> ArrayFaces:
    """The labelled samples of a file .npz, or of arrays by the same names; `target` is what the network is for, empty:
    nobody says. Raises `AuditError` for what cannot be used, by its name."""
    arrays = _load(source) if isinstance(source, Path) else {key: np.asarray(value) for key, value in source.items()}
    features = {key: _features(key, array) for key, array in arrays.items() if not _is_label(key)}
    samples = {split: {len(arrays[key]) for key in arrays if key.startswith(f"{split}/")} for split in SPLITS}
    for split, counts in samples.items():
        if len(counts) != 1:
            raise AuditError(f"arrays of {split}/ have {sorted(counts) or 'no'} samples; accepted: all as many")
    shapes = {
        split: {tap: list(a.shape[1:]) for key, a in features.items() if (tap := _tap(key, split))} for split in SPLITS
    }
    if shapes["train"] != shapes["test"] or not shapes["train"]:
        raise AuditError(f"taps of train/ are {shapes['train']}, of test/ {shapes['test']}; accepted: the same")
    schema, labels = _labels(arrays, target)
    classes = len(schema.attribute(schema.target).classes)
    if shapes["train"].get(LOGITS, [classes]) != [classes]:
        raise AuditError(
            f"logits have {shapes['train'][LOGITS][0]} columns, and the target {schema.target} has {classes} classes; "
            "call them by another name where they are of something else"
        )
    splits = {split: ArraySplit(split, labels[split], _persons(arrays, split)) for split in SPLITS}
    return ArrayFaces(schema, _digest(arrays, target), splits["train"], splits["test"], ranks, features)


def keep(faces: ArrayFaces, root: Path) -> Features:
    """Write the features below `root`, where attackers find them, memory-mapped."""
    key = Key(faces.fingerprint, faces.fingerprint, "fp32", 0)
    folder, sums = root / key.folder, {}
    shapes = {tap: array.shape[1:] for name, array in faces.features.items() if (tap := _tap(name, "train"))}
    if faces.ranks.first_here:
        for split in SPLITS:
            with writing(folder):
                (folder / split).mkdir(parents=True, exist_ok=True)
            for tap in shapes:
                path = tap_file(folder, split, tap)
                with replacing(path) as stream:
                    np.save(stream, faces.features[f"{split}/{tap}"].astype(np.float32), allow_pickle=False)
                sums[f"{split}/{tap}"] = file_sha256(path)
        write_index(folder, Index(key, sums))
    return Features(key, folder, shapes, NO_CHANNEL)


def _load(path: Path) -> dict[str, AnyArray]:
    try:
        with path.open("rb") as stream:  # NumPy leaves open what it cannot read
            stored = np.load(stream, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise AuditError(f"features {path}: is one array; accepted: a file .npz of several, by name")
            return {name: stored[name] for name in stored.files}
    except AuditError:
        raise
    except Exception as error:  # NumPy's reader and the archive's raise what they like
        raise AuditError(f"features {path}: is no file .npz that can be read safely ({error})") from error


def _is_label(key: str) -> bool:
    _, _, rest = key.partition("/")
    return rest.startswith(LABELS) or rest == PERSONS


def _tap(key: str, split: str) -> str:
    """The tap of that split's features; empty for another's."""
    return key.removeprefix(f"{split}/") if key.startswith(f"{split}/") else ""


def _features(key: str, array: AnyArray) -> AnyArray:
    split, _, tap = key.partition("/")
    if split not in SPLITS or not tap:
        raise AuditError(f"array {key!r}: accepted are train/TAP, test/TAP, and train/labels/ATTRIBUTE, train/persons")
    check_name(tap)
    if array.dtype.kind not in "fiu" or not len(array):
        raise AuditError(f"array {key!r}: holds {len(array)} of {array.dtype}; accepted: numbers")
    array = in_form(array)
    check_form(tap, array.shape[1:])
    if not np.isfinite(array).all():
        raise AuditError(f"array {key!r}: holds what is no finite number")
    return array


def _labels(arrays: Mapping[str, AnyArray], target: str) -> tuple[Schema, dict[str, Labels]]:
    """What the labels mean, and by split int64 [N, attributes]."""
    names = list(dict.fromkeys(key.partition(f"/{LABELS}")[2] for key in arrays if f"/{LABELS}" in key))
    if not names or (target and target not in names):
        what = f"target {target!r}" if target else "labels"
        raise AuditError(
            f"{what}: there are labels of {', '.join(names) or 'nothing'}, as train/labels/gender would be"
        )
    columns = {name: [_column(arrays, f"{split}/{LABELS}{name}") for split in SPLITS] for name in names}
    attributes = []
    for name, texts in columns.items():
        attributes.append(Attribute(name, {text: text for text in _classes(np.concatenate(texts), name)}))
    encoded = {
        split: [_encode(columns[attribute.name][place], attribute) for attribute in attributes]
        for place, split in enumerate(SPLITS)
    }
    if not target:
        attributes.append(Attribute(UNSTATED, {"0": "0", "1": "1"}))
        for split, labels in encoded.items():
            encoded[split] = [*labels, np.full(len(labels[0]), UNSURE)]
    private = tuple(name for name in names if name != target)
    schema = Schema("features", target or UNSTATED, tuple(attributes), private)
    return schema, {split: np.stack(labels, axis=1).astype(np.int64) for split, labels in encoded.items()}


def _column(arrays: Mapping[str, AnyArray], key: str) -> AnyArray:
    """Labels as text [N]; empty where unknown."""
    if key not in arrays:
        raise AuditError(f"array {key!r} is missing: the labels of both splits are needed")
    array = arrays[key]
    if array.ndim != 1 or array.dtype.kind not in "iuUb":
        raise AuditError(f"array {key!r}: is {array.dtype} {list(array.shape)}; accepted: whole numbers or text, [N]")
    texts = array.astype(np.int64).astype(str) if array.dtype.kind in "iub" else array
    return np.where(np.char.startswith(texts, "-"), "", texts) if array.dtype.kind in "iub" else texts


def _classes(texts: AnyArray, name: str) -> list[str]:
    """In alphabetical order; of numbers, all from 0 to the largest."""
    classes = sorted(set(texts.tolist()) - {""})
    if classes and all(text.isdecimal() for text in classes):
        classes = [str(number) for number in range(min(MOST_CLASSES, max(map(int, classes))) + 1)]
    if len(classes) > MOST_CLASSES:
        raise AuditError(f"labels of {name}: more than {MOST_CLASSES} classes")
    return classes


def _encode(texts: AnyArray, attribute: Attribute) -> Labels:
    places = {"": UNSURE, **{name: place for place, name in enumerate(attribute.classes)}}
    return np.array([places[text] for text in texts], dtype=np.int64)


def _persons(arrays: Mapping[str, AnyArray], split: str) -> Labels | None:
    array = arrays.get(f"{split}/{PERSONS}")
    if array is None:
        return None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise AuditError(
            f"array '{split}/{PERSONS}': is {array.dtype} {list(array.shape)}; accepted: whole numbers, [N]"
        )
    return np.where(array < 0, UNSURE, array).astype(np.int64)


def _digest(arrays: Mapping[str, AnyArray], target: str) -> str:
    """SHA-256 of all that decides an audit of these arrays."""
    sums = hashlib.sha256(target.encode())
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        sums.update(f"{key} {array.dtype.str} {array.shape}".encode())
        sums.update(array.tobytes())
    return sums.hexdigest()
