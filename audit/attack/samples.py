"""What attackers are given: their parts of the data, and the representations of a tap in which they see it.

Attackers learn from one half of the training split (*fitting*), tune and are chosen on the other (*tuning*), and are
judged once, on the test split, whose labels they are never handed. Where settings are still being chosen, they are
judged on the validation part of the training split instead, and both halves are of what the network learnt from.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from privatenet.audit.attack.features import Array, Features
from privatenet.audit.errors import AuditError
from privatenet.data_shards.reading.plan import Rows, validation_mask
from privatenet.data_shards.shards.manifest import Split
from privatenet.distributed.faces import Faces

SALT = "attackers/"
LEAST_FITTING = 20

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """Rows of the training split to fit and to tune on, and of `split` to be judged on."""

    fitting: Rows
    tuning: Rows
    testing: Rows
    split: str = "test"


@dataclass(frozen=True)
class Representation:
    """A way of looking at a tap: `kind` is map, vector, raw, whitened or channels, `note` says what was done to it."""

    kind: str
    fitting: Array
    tuning: Array
    testing: Array
    note: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture's features."""
        return self.fitting.shape[1:]

    def of(self, known: Parts, parts: Parts) -> "Representation":
        """Only the samples of `known`, a subset of the `parts` that this was made for."""
        return Representation(
            self.kind,
            self.fitting[np.searchsorted(parts.fitting, known.fitting)],
            self.tuning[np.searchsorted(parts.tuning, known.tuning)],
            self.testing[np.searchsorted(parts.testing, known.testing)],
            self.note,
        )


def split_parts(train: Split, test: Split) -> Parts:
    """Halve the training split by the hash of the samples' names, every class of the target alike."""
    tuning = validation_mask(train.names, _target(train), 0.5, SALT)
    return Parts(np.flatnonzero(~tuning), np.flatnonzero(tuning), np.arange(len(test)))


def validation_parts(train: Split, held_out: npt.NDArray[np.bool_]) -> Parts:
    """Halve what the network learnt from, to be judged on the rows that it did not: the test split stays unseen."""
    tuning = validation_mask(train.names, _target(train), 0.5, SALT)
    return Parts(
        np.flatnonzero(~tuning & ~held_out), np.flatnonzero(tuning & ~held_out), np.flatnonzero(held_out), "train"
    )


def judging_split(parts: Parts, faces: Faces) -> Split:
    """The split whose rows `parts.testing` are."""
    return {"train": faces.train, "test": faces.test}[parts.split]


def known_parts(parts: Parts, faces: Faces, attribute: str) -> tuple[Parts, Labels, Labels, Labels]:
    """The samples of `parts` whose `attribute` is known, and its labels in the three parts.

    Raises `AuditError` where there are too few to fit or to judge an attacker, or all are of one class.
    """
    column = faces.schema.names.index(attribute)
    learnt, judged = (split.labels[:, column] for split in (faces.train, judging_split(parts, faces)))
    known = Parts(
        parts.fitting[learnt[parts.fitting] >= 0],
        parts.tuning[learnt[parts.tuning] >= 0],
        parts.testing[judged[parts.testing] >= 0],
        parts.split,
    )
    labels = learnt[known.fitting], learnt[known.tuning], judged[known.testing]
    for name, values in zip(("fitting", "tuning", "testing"), labels, strict=True):
        if len(values) < LEAST_FITTING:
            raise AuditError(
                f"{attribute}: {len(values)} samples for {name} attackers, accepted: {LEAST_FITTING} or more; "
                f"the training split is halved between fitting and tuning, the {parts.split} split is for testing"
            )
        if len(np.unique(values)) < 2:
            name_of = faces.schema.attribute(attribute).classes[int(values[0])]
            raise AuditError(
                f"{attribute}: all {len(values)} samples for {name} are {name_of!r}: nothing to tell apart"
            )
    return known, *labels


def representations(features: Features, tap: str, parts: Parts, components: int, seed: int) -> Iterator[Representation]:
    """A tap as it is (map or vector), raw, whitened and, for maps, by its channels' means, whitened.

    *Raw* keeps the directions' relative variances, under one common factor; *whitened* scales every principal
    component to variance 1, so that what hides in directions of low variance is as loud as the rest. Taps of more than
    `components` numbers are reduced to that many principal components, by a randomised decomposition of the fitting
    samples (Halko, Martinsson and Tropp, 2011).
    """
    train, test = features.array("train", tap), features.array(parts.split, tap)
    raw = train[parts.fitting], train[parts.tuning], test[parts.testing]
    shape = features.shapes[tap]
    yield Representation(
        "map" if len(shape) == 3 else "vector", *raw, f"the {'x'.join(map(str, shape))} numbers as they are"
    )
    flat = tuple(part.reshape(len(part), -1) for part in raw)
    yield from _principal(("raw", "whitened"), flat, components, seed, "")
    if len(shape) == 3:
        means = tuple(part.mean(axis=(2, 3)) for part in raw)
        yield from _principal(("channels",), means, components, seed, f"the {shape[0]} channels' means, ")


def _target(split: Split) -> Labels:
    labels: Labels = split.labels[:, split.schema.names.index(split.schema.target)]
    return labels


def _principal(
    kinds: tuple[str, ...], arrays: tuple[Array, ...], components: int, seed: int, before: str
) -> Iterator[Representation]:
    fitting = arrays[0]
    numbers = fitting.shape[1]
    kept = min(components, numbers, max(2, len(fitting) // 2))
    pca = PCA(kept, svd_solver="randomized" if kept < numbers else "full", random_state=seed).fit(fitting)
    rotated = [pca.transform(array).astype(np.float32) for array in arrays]
    share = float(pca.explained_variance_ratio_.sum())
    note = before + (
        f"{kept} principal components of {numbers:,} numbers ({100 * share:.1f} % of the variance)"
        if kept < numbers
        else f"all {numbers} numbers"
    )
    deviations = rotated[0].std(axis=0)
    for kind in kinds:
        # A direction that never varies tells nothing; dividing by its rounding error would only make noise loud.
        common = np.sqrt(np.mean(deviations**2))
        alive = deviations > 1e-6 * deviations.max()
        scale = np.where(alive, deviations, np.inf) if kind != "raw" else np.full_like(deviations, common or 1.0)
        scaled = [array / scale for array in rotated]
        yield Representation(kind, scaled[0], scaled[1], scaled[2], note)
