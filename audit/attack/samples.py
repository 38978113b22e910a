"""What attackers learn from and are judged on, and the representations of a tap that they look at.

Attackers learn from one half of the training split (*fitting*), tune and are selected on the other (*tuning*), and are
judged once, on the test split, whose labels they never get. Where settings are still being selected, they are judged on
the validation rows of the training split instead, and both halves are of what the network learnt from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from privatenet.audit.attack.features import Array, Features
from privatenet.audit.errors import AuditError
from privatenet.data_shards.reading.plan import Rows, validation_mask
from privatenet.data_shards.shards.manifest import Split
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.config import digest
from privatenet.distributed.faces import Faces
from privatenet.models.channel import CENTRE

SALT = "attackers/"
LEAST_SAMPLES = 20
KINDS = {"map": ("map", "raw", "whitened", "channels"), "vector": ("vector", "raw", "whitened", "centres")}
"""The representations of a tap that is a map [C, h, w] or a vector [C]; `centres` are those of noisy releases only."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AttackSplit:
    """Rows of the training split to fit and to tune on, and rows of the split `testing_split` to be judged on."""

    fitting: Rows
    tuning: Rows
    testing: Rows
    testing_split: str = "test"

    @cached_property
    def sha256(self) -> str:
        """Of the rows, for the names of what was computed on them."""
        return digest([self.fitting.tolist(), self.tuning.tolist(), self.testing.tolist(), self.testing_split])


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


def attack_split(train: Split, test: Split) -> AttackSplit:
    """Halve the training split by the hash of the samples' names, every class of the target alike."""
    tuning = validation_mask(train.names, _target(train), 0.5, SALT)
    return AttackSplit(np.flatnonzero(~tuning), np.flatnonzero(tuning), np.arange(len(test)))


def validation_attack_split(train: Split, held_out: npt.NDArray[np.bool_]) -> AttackSplit:
    """Halve what the network learnt from, to be judged on the rows that it did not: the test split stays unseen."""
    tuning = validation_mask(train.names, _target(train), 0.5, SALT)
    return AttackSplit(
        np.flatnonzero(~tuning & ~held_out), np.flatnonzero(tuning & ~held_out), np.flatnonzero(held_out), "train"
    )


def testing_data(split: AttackSplit, faces: Faces) -> Split:
    """The data whose rows `split.testing` are."""
    return {"train": faces.train, "test": faces.test}[split.testing_split]


def labelled_split(split: AttackSplit, faces: Faces, attribute: str) -> tuple[AttackSplit, AttackLabels]:
    """The rows of `split` whose `attribute` is known, and their labels.

    Raises `AuditError` where there are too few to fit or to judge an attacker, or all are of one class.
    """
    column = faces.schema.names.index(attribute)
    train, testing = (data.labels[:, column] for data in (faces.train, testing_data(split, faces)))
    subset = AttackSplit(
        split.fitting[train[split.fitting] >= 0],
        split.tuning[train[split.tuning] >= 0],
        split.testing[testing[split.testing] >= 0],
        split.testing_split,
    )
    labels = AttackLabels(train[subset.fitting], train[subset.tuning], testing[subset.testing])
    for purpose in ("fitting", "tuning", "testing"):
        _check_labels(getattr(labels, purpose), purpose, faces.schema, attribute, split.testing_split)
    return subset, labels


def _check_labels(labels: Labels, purpose: str, schema: Schema, attribute: str, testing_split: str) -> None:
    if len(labels) < LEAST_SAMPLES:
        raise AuditError(
            f"{attribute}: {len(labels)} samples for {purpose} attackers, accepted: {LEAST_SAMPLES} or more; "
            f"the training split is halved between fitting and tuning, the {testing_split} split is for testing"
        )
    if len(np.unique(labels)) < 2:
        name = schema.attribute(attribute).classes[int(labels[0])]
        raise AuditError(f"{attribute}: all {len(labels)} samples for {purpose} are {name!r}: nothing to tell apart")


def representations(
    features: Features, tap: str, split: AttackSplit, components: int, seed: int
) -> Iterator[Representation]:
    """A tap as it is (map or vector), raw, whitened and, for maps, by its channels' means, whitened.

    *Raw* keeps the directions' relative variances, under one common factor; *whitened* scales every principal
    component to variance 1, so that what hides in directions of low variance is as loud as the rest. Taps of more than
    `components` numbers are reduced to that many principal components, by a randomised decomposition of the fitting
    samples (Halko, Martinsson and Tropp, 2011). Of noisy releases there are the fitting samples' *centres*, too: who
    makes releases of own faces knows them without noise.
    """
    train, test = features.array("train", tap), features.array(split.testing_split, tap)
    arrays = train[split.fitting], train[split.tuning], test[split.testing]
    shape = features.shapes[tap]
    kind = "map" if len(shape) == 3 else "vector"
    yield Representation(kind, *arrays, f"the {'x'.join(map(str, shape))} numbers as they are")
    flat = tuple(array.reshape(len(array), -1) for array in arrays)
    yield from _principal(("raw", "whitened"), flat, components, seed, "")
    if kind == "vector" and (sigma := features.sigma(tap)):
        centres = np.asarray(features.array("train", CENTRE)[split.fitting])
        note = f"fitting pictures before noise, others as sent; the noise is {sigma:.3g}"
        yield Representation("centres", centres, flat[1], flat[2], note, sigma)
    if kind == "map":
        means = tuple(array.mean(axis=(2, 3)) for array in arrays)
        yield from _principal(("channels",), means, components, seed, f"the {shape[0]} channels' means, ")


def _target(split: Split) -> Labels:
    labels: Labels = split.labels[:, split.schema.names.index(split.schema.target)]
    return labels


def _principal(
    kinds: tuple[str, ...], arrays: tuple[Array, ...], components: int, seed: int, prefix: str
) -> Iterator[Representation]:
    fitting = arrays[0]
    numbers = fitting.shape[1]
    count = min(components, numbers, max(2, len(fitting) // 2))
    pca = PCA(count, svd_solver="randomized" if count < numbers else "full", random_state=seed).fit(fitting)
    rotated = [pca.transform(array).astype(np.float32) for array in arrays]
    share = float(pca.explained_variance_ratio_.sum())
    note = prefix + (
        f"{count} principal components of {numbers:,} numbers ({100 * share:.1f} % of the variance)"
        if count < numbers
        else f"all {numbers} numbers"
    )
    deviations = rotated[0].std(axis=0)
    for kind in kinds:
        # A direction that never varies tells nothing; dividing by its rounding error would only make noise loud.
        common = np.sqrt(np.mean(deviations**2))
        varying = deviations > 1e-6 * deviations.max()
        scale = np.where(varying, deviations, np.inf) if kind != "raw" else np.full_like(deviations, common or 1.0)
        scaled = [array / scale for array in rotated]
        yield Representation(kind, scaled[0], scaled[1], scaled[2], note)
