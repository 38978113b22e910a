"""What attackers learn from and are judged on, and the representations of a tap that they look at.

On *training* faces attackers learn from one half of the training split (*fitting*), tune and are selected on the other
(*tuning*), and are judged on the test split (*testing*), whose labels they never get. A network may hide on the faces
that it was trained on and nowhere else, so there are *fresh* faces, too, that no stage learnt from: the test split is
cut into folds, and attackers answer for each that learnt and tuned on the other folds and on the validation rows; so
every test sample is judged once. Nobody whom the data set knows is in two of fitting, tuning and testing then.

Where settings are still being selected, the validation rows are judged in place of the test split, which has no part in
it. Rows are counted through all faces: first the training split, then the test split.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from privatenet.audit.attack.answers import Stored, library_versions, read, write
from privatenet.audit.attack.features import Array, Features
from privatenet.audit.errors import AuditError
from privatenet.audit.people import Indices, number_people, persons_or_unknown
from privatenet.audit.settings import FACES, TRAINING, AuditConfig
from privatenet.data_shards.files import make_once
from privatenet.data_shards.reading.plan import Rows, validation_mask
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.config import digest
from privatenet.distributed.ranks import Ranks
from privatenet.models.channel import CENTRE

SALT = "attackers/"
LEAST_SAMPLES = 20
PURPOSES = ("fitting", "tuning", "testing")
KINDS = {
    "vector": ("vector", "raw", "whitened", "centres"),
    "tokens": ("raw", "whitened", "channels"),
    "map": ("map", "raw", "whitened", "channels"),
}
"""The representations of a tap that is a vector [C], tokens [T, C] or a map [C, h, w]; `centres` are those of noisy
releases only."""

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


@dataclass(frozen=True)
class Representation:
    """A way of looking at a tap: `kind` is map, vector, raw, whitened, channels or centres; `note` says how.

    `sigma` is the standard deviation of the noise that tuning and testing samples have and fitting samples have not.
    """

    kind: str
    fitting: Array
    tuning: Array
    testing: Array
    note: str
    sigma: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture's features."""
        return self.fitting.shape[1:]

    def of(self, subset: AttackSplit, split: AttackSplit) -> "Representation":
        """Only the samples of `subset`, which are some of those of `split` that this representation holds."""
        return Representation(
            self.kind,
            self.fitting[np.searchsorted(split.fitting, subset.fitting)],
            self.tuning[np.searchsorted(split.tuning, subset.tuning)],
            self.testing[np.searchsorted(split.testing, subset.testing)],
            self.note,
            self.sigma,
        )


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


def features_of(features: Features, tap: str, rows: Rows) -> Array:
    """The features of `rows` of all faces, which are in order; of no split that has none of them is a file read."""
    train = features.array("train", tap)
    own, others = rows[rows < len(train)], rows[rows >= len(train)] - len(train)
    if not len(others):
        return train[own]
    return np.concatenate([train[own], features.array("test", tap)[others]])


def representations(
    features: Features, tap: str, split: AttackSplit, components: int, seed: int, kept: Path | None = None
) -> Iterator[Representation]:
    """A tap as it is (map or vector), raw, whitened and, of maps and tokens, by its channels' means, whitened.

    *Raw* keeps the directions' relative variances, under one common factor; *whitened* scales every principal
    component to variance 1, so that what hides in directions of low variance is as loud as the rest. Taps of more than
    `components` numbers are reduced to that many principal components, by a randomised decomposition of the fitting
    samples (Halko, Martinsson and Tropp, 2011). Of noisy releases there are the fitting samples' *centres*, too: who
    makes releases of own faces knows them without noise. Components are written to the folder `kept` and read from
    there.
    """
    fitting, tuning, testing = (features_of(features, tap, r) for r in (split.fitting, split.tuning, split.testing))
    arrays = fitting, tuning, testing
    shape = features.shapes[tap]
    form = form_of(shape)
    if form in KINDS[form]:
        yield Representation(form, *arrays, f"the {'x'.join(map(str, shape))} numbers as they are")
    flat = tuple(array.reshape(len(array), -1) for array in arrays)
    identity = [tap, split.sha256, components, seed, library_versions()]

    def principal(name: str, arrays: tuple[Array, ...]) -> _Principal:
        path = kept / f"{tap}-{name}-{digest(identity)[:12]}.npz" if kept else None
        return _principal(arrays, components, seed, path)

    yield from _scaled(("raw", "whitened"), principal("numbers", flat), "")
    if form == "vector" and (sigma := features.sigma(tap)):
        centres = features_of(features, CENTRE, split.fitting)
        note = f"fitting pictures before noise, others as sent; the noise is {sigma:.3g}"
        yield Representation("centres", centres, flat[1], flat[2], note, sigma)
    if form != "vector":
        means = tuple(array.mean(axis=(2, 3) if form == "map" else 1) for array in arrays)
        yield from _scaled(("channels",), principal("channels", means), f"the {means[0].shape[1]} channels' means, ")


def form_of(shape: Sequence[int]) -> str:
    """The form of a tap with features of this shape for one picture: one of `KINDS`."""
    return list(KINDS)[len(shape) - 1]


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


@dataclass(frozen=True)
class _Principal:
    """Fitting, tuning and testing samples in principal components [N, count] of the fitting samples' `numbers`, and the
    share of the variance that these hold."""

    arrays: tuple[Array, Array, Array]
    numbers: int
    share: float


def _principal(arrays: tuple[Array, ...], components: int, seed: int, path: Path | None) -> _Principal:
    """The principal components that `path` holds, or else computed and written there, by one of all that want them."""
    numbers = arrays[0].shape[1]

    def compute() -> Stored:
        count = min(components, numbers, max(2, len(arrays[0]) // 2))
        solver = "randomized" if count < numbers else "full"
        pca = PCA(count, svd_solver=solver, random_state=seed).fit(arrays[0])
        rotated = (pca.transform(array).astype(np.float32) for array in arrays)
        share = float(pca.explained_variance_ratio_.sum())
        return Stored(dict(zip(PURPOSES, rotated, strict=True)), {"share": share})

    if path:
        make_once(path, lambda: write(path, compute()))
    stored = read(path) if path else None
    if stored is None:
        stored = compute()
        if path:
            write(path, stored)
    fitting, tuning, testing = (stored.arrays[purpose] for purpose in PURPOSES)
    return _Principal((fitting, tuning, testing), numbers, stored.notes["share"])


def _scaled(kinds: tuple[str, ...], principal: _Principal, prefix: str) -> Iterator[Representation]:
    deviations = principal.arrays[0].std(axis=0)
    count, numbers = len(deviations), principal.numbers
    note = prefix + (
        f"{count} principal components of {numbers:,} numbers ({100 * principal.share:.1f} % of the variance)"
        if count < numbers
        else f"all {numbers} numbers"
    )
    for kind in kinds:
        # A direction that never varies tells nothing; dividing by its rounding error would only make noise loud.
        common = np.sqrt(np.mean(deviations**2))
        varying = deviations > 1e-6 * deviations.max()
        scale: Array = (
            np.where(varying, deviations, np.inf) if kind != "raw" else np.full_like(deviations, common or 1.0)
        )
        scaled = [array / scale for array in principal.arrays]
        yield Representation(kind, scaled[0], scaled[1], scaled[2], note)
