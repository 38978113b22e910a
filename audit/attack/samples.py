"""The samples that attackers learn from and are judged on.

On *training* faces attackers learn from one half of the training split (*fitting*), tune and are selected on the other
(*tuning*), and are judged on the test split (*testing*), whose labels they never get. A network may hide on the faces
that it was trained on and nowhere else, so there are *fresh* faces, too, that no stage learnt from: the test split is
cut into folds, and attackers answer for each that learnt and tuned on the other folds and on the validation rows; so
every test sample is judged once. Nobody whom the data set knows is in two of fitting, tuning and testing then.

Where settings are still being selected, the validation rows are judged in place of the test split, which has no part in
it. Rows are counted through all faces: first the training split, then the test split.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from privatenet.audit.errors import AuditError
from privatenet.audit.people import Indices, number_people, persons_or_unknown
from privatenet.audit.settings import FACES, TRAINING, AuditConfig
from privatenet.data_shards.reading.plan import Rows, validation_mask
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.config import digest
from privatenet.distributed.ranks import Ranks

SALT = "attackers/"
LEAST_SAMPLES = 20
PURPOSES = ("fitting", "tuning", "testing")

Labels = npt.NDArray[np.int64]


class LabelledSplit(Protocol):
    """What is known of a split's samples: names, labels int64 [N, attributes] with -1 where unknown, and who is in
    them, int64 [N] with -1 where unknown, if that is known of any."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Labels: ...

    @property
    def persons(self) -> Labels | None: ...

    def __len__(self) -> int: ...


class LabelledFaces(Protocol):
    """What attackers are told of the faces whose features they look at: `Faces`, or what came with features that were
    made elsewhere. `held_out` says which of the training split no network has learnt from."""

    @property
    def schema(self) -> Schema: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def train(self) -> LabelledSplit: ...

    @property
    def test(self) -> LabelledSplit: ...

    @property
    def held_out(self) -> npt.NDArray[np.bool_]: ...

    @property
    def ranks(self) -> Ranks: ...


@dataclass(frozen=True)
class AttackSplit:
    """Rows of all faces, in order, to fit attackers on, to tune them on, and to judge them on."""

    fitting: Rows
    tuning: Rows
    testing: Rows

    @cached_property
    def sha256(self) -> str:
        """Of the rows, for the names of what was computed on them."""
        return digest([self.fitting.tolist(), self.tuning.tolist(), self.testing.tolist()])


Folds = Mapping[str, tuple[AttackSplit, ...]]
"""By kind of faces the splits that together judge every sample once."""


@dataclass(frozen=True)
class AttackLabels:
    """Labels, int64 [N], of the rows of an `AttackSplit`."""

    fitting: Labels
    tuning: Labels
    testing: Labels


def attack_folds(config: AuditConfig, faces: LabelledFaces, validation: bool = False) -> Folds:
    """For every kind of faces in `config` the splits that attackers learn from and are judged on: one, or one a fold.

    The test split is judged, or with `validation` the validation rows, without the test split. Raises `AuditError`
    where there are too few samples; fresh faces that were not asked for by name are left out then, and a line says so.
    """
    folds = {}
    for kind in config.faces or FACES:
        splits = training_split(faces, validation) if kind == TRAINING else _fresh_splits(faces, config, validation)
        try:
            for attribute in config.attributes:
                _check_samples(splits, kind, faces, attribute)
        except AuditError as error:
            if config.faces or kind == TRAINING:
                raise
            if faces.ranks.first and not validation:
                print(f"privatenet: attackers do without fresh faces: {error}", file=sys.stderr)
        else:
            folds[kind] = splits
    return folds


def training_split(faces: LabelledFaces, validation: bool = False) -> tuple[AttackSplit]:
    """Halves of the training split, every class of the target alike, whole people where they are known.

    Where the validation rows are judged, the halves are of what the network learnt from.
    """
    train = faces.train
    tuning = validation_mask(train.names, _target(faces)[: len(train)], 0.5, SALT, train.persons)
    learnt = ~faces.held_out if validation else np.ones(len(train), dtype=np.bool_)
    halves = np.flatnonzero(~tuning & learnt), np.flatnonzero(tuning & learnt)
    return (AttackSplit(*halves, judged_rows(faces, validation)),)


def judged_rows(faces: LabelledFaces, validation: bool = False) -> Rows:
    """The rows of the test split, or the validation rows."""
    first = len(faces.train)
    return np.flatnonzero(faces.held_out) if validation else np.arange(first, first + len(faces.test))


def labels_of(faces: LabelledFaces, attribute: str) -> Labels:
    """The labels of all faces, int64 [N]; -1: unknown."""
    column = faces.schema.names.index(attribute)
    return np.concatenate([faces.train.labels[:, column], faces.test.labels[:, column]])


def persons_of(faces: LabelledFaces) -> Indices:
    """Who is in each of all faces, int64 [N]; -1: unknown."""
    return np.concatenate([persons_or_unknown(split.persons, len(split.labels)) for split in (faces.train, faces.test)])


def people_in(faces: LabelledFaces, rows: Rows) -> Indices:
    """Who is in each of `rows` of all faces, int64 [N], numbered from 0; an unknown person is one of their own."""
    return number_people(persons_of(faces)[rows])


def labelled_split(split: AttackSplit, faces: LabelledFaces, attribute: str) -> tuple[AttackSplit, AttackLabels]:
    """The rows of `split` whose `attribute` is known, and their labels."""
    labels = labels_of(faces, attribute)
    rows = {purpose: rows[labels[rows] >= 0] for purpose, rows in vars(split).items() if purpose in PURPOSES}
    return AttackSplit(**rows), AttackLabels(**{purpose: labels[chosen] for purpose, chosen in rows.items()})


def _fresh_splits(faces: LabelledFaces, config: AuditConfig, validation: bool) -> tuple[AttackSplit, ...]:
    """The judged rows cut into folds; to learn from for each, three quarters of the others, one quarter to tune on."""
    names, target = [*faces.train.names, *faces.test.names], _target(faces)
    persons = persons_of(faces)
    keys = np.where(persons >= 0, persons, -1 - np.arange(len(persons)))

    def choose(rows: Rows, fraction: float, salt: str) -> npt.NDArray[np.bool_]:
        return validation_mask([names[row] for row in rows], target[rows], fraction, SALT + salt, persons[rows])

    rest = judged_rows(faces, validation)
    fresh = np.union1d(np.flatnonzero(faces.held_out), rest)
    splits = []
    for fold in range(config.folds):
        last = fold == config.folds - 1
        chosen = np.ones(len(rest), dtype=np.bool_) if last else choose(rest, 1 / (config.folds - fold), "folds/")
        testing, rest = rest[chosen], rest[~chosen]
        others = fresh[~np.isin(keys[fresh], keys[testing])]
        tuning = choose(others, 0.25, f"{fold}/")
        splits.append(AttackSplit(others[~tuning], others[tuning], testing))
    return tuple(splits)


def _target(faces: LabelledFaces) -> Labels:
    return labels_of(faces, faces.schema.target)


def _check_samples(splits: Sequence[AttackSplit], kind: str, faces: LabelledFaces, attribute: str) -> None:
    """Raise `AuditError` where there are too few to fit or to judge an attacker, or all are of one class."""
    labels = [labelled_split(split, faces, attribute)[1] for split in splits]
    classes = faces.schema.attribute(attribute).classes
    for purpose in PURPOSES:
        groups = [getattr(one, purpose) for one in labels]
        for group in [np.concatenate(groups)] if purpose == "testing" else groups:
            what = f"for {purpose} attackers on {kind} faces"
            if len(group) < LEAST_SAMPLES:
                raise AuditError(f"{attribute}: {len(group)} samples {what}, accepted: {LEAST_SAMPLES} or more")
            if len(np.unique(group)) < 2:
                only = classes[int(group[0])]
                raise AuditError(f"{attribute}: all {len(group)} samples {what} are {only!r}: nothing to tell apart")
    if not all(len(one.testing) for one in labels):
        raise AuditError(f"{attribute}: too few people or samples for {len(splits)} folds of {kind} faces")
