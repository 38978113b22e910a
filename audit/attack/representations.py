"""The representations of a tap that attackers look at.

    map, vector   the tap's own numbers
    raw           principal components; directions keep their relative variances, under one common factor
    whitened      principal components, each scaled to variance 1: what hides in directions of low variance is as loud
                  as the rest
    channels      of maps and tokens, the channels' means, whitened
    centres       of noisy releases, the fitting samples before noise: who makes releases of own faces knows them

Taps of more than `components` numbers are reduced to that many principal components of the fitting samples, by a
randomised decomposition (Halko, Martinsson and Tropp, 2011).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from privatenet.audit.attack.answers import Stored, library_versions, read, write
from privatenet.audit.attack.features import Array, Features, decoded
from privatenet.audit.attack.samples import PURPOSES, AttackSplit
from privatenet.data_shards.files import make_once
from privatenet.data_shards.reading.plan import Rows
from privatenet.distributed.config import digest
from privatenet.models.channel import CENTRE

KINDS = {
    "vector": ("vector", "raw", "whitened", "centres"),
    "tokens": ("raw", "whitened", "channels"),
    "map": ("map", "raw", "whitened", "channels"),
}
"""The representations of a tap that is a vector [C], tokens [T, C] or a map [C, h, w]; `centres` are those of noisy
releases only."""
SEED = 0
"""Of the randomised decomposition."""
REDUCED = ("raw", "whitened", "channels")
"""Those in principal components."""


Triple = tuple[Array, Array, Array]
"""Of fitting, tuning and testing samples."""


@dataclass(frozen=True)
class Representation:
    """A way of looking at a tap, of the `kind` that the module names; `note` says how.

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
        if all(len(getattr(subset, purpose)) == len(getattr(split, purpose)) for purpose in PURPOSES):
            return self  # all of them, which may take gigabytes
        return Representation(
            self.kind,
            self.fitting[np.searchsorted(split.fitting, subset.fitting)],
            self.tuning[np.searchsorted(split.tuning, subset.tuning)],
            self.testing[np.searchsorted(split.testing, subset.testing)],
            self.note,
            self.sigma,
        )


def represent(
    features: Features,
    tap: str,
    split: AttackSplit,
    kind: str,
    components: int,
    kept: Path | None = None,
) -> Representation:
    """The representation of that kind, which `KINDS` has for the form of the tap.

    Principal components are written to the folder `kept` and read from there.
    """
    shape = features.shapes[tap]
    form = form_of(shape)

    def numbers() -> Triple:
        fitting, tuning, testing = (features_of(features, tap, getattr(split, purpose)) for purpose in PURPOSES)
        return fitting, tuning, testing

    if kind == form:
        return Representation(form, *numbers(), f"the {'x'.join(map(str, shape))} numbers as they are")
    if kind == "centres":
        centres, (_, tuning, testing) = features_of(features, CENTRE, split.fitting), numbers()
        sigma = features.sigma(tap)
        note = f"fitting pictures before noise, others as sent; the noise is {sigma:.3g}"
        return Representation(kind, centres, tuning, testing, note, sigma)

    def vectors() -> Triple:
        arrays = numbers()
        if kind == "channels":
            fitting, tuning, testing = (array.mean(axis=(2, 3) if form == "map" else 1) for array in arrays)
        else:
            fitting, tuning, testing = (array.reshape(len(array), -1) for array in arrays)
        return fitting, tuning, testing

    name = "channels" if kind == "channels" else "numbers"
    identity = [tap, split.sha256, components, SEED, library_versions()]
    path = kept / f"{tap}-{name}-{digest(identity)[:12]}.npz" if kept else None
    principal = _principal(vectors, components, path)
    if kind != "channels":
        return _scaled(kind, principal, math.prod(shape), "")
    channels = shape[0] if form == "map" else shape[1]
    return _scaled(kind, principal, channels, f"the {channels} channels' means, ")


def features_of(features: Features, tap: str, rows: Rows) -> Array:
    """The features of `rows` of all faces, which are in order; of no split that has none of them is a file read."""
    train = features.stored("train", tap)
    own, others = rows[rows < len(train)], rows[rows >= len(train)] - len(train)
    if not len(others):
        return decoded(train[own])
    test = features.stored("test", tap)[others]  # maybe in another number format: computed on another device
    return np.concatenate([decoded(train[own]), decoded(test)])


def form_of(shape: Sequence[int]) -> str:
    """The form of a tap with features of this shape for one picture: one of `KINDS`."""
    return list(KINDS)[len(shape) - 1]


@dataclass(frozen=True)
class _Principal:
    """Samples [N, count] in principal components of the fitting samples' numbers, and the share of the variance that
    these hold."""

    arrays: Triple
    share: float


def _principal(vectors: Callable[[], Triple], components: int, path: Path | None) -> _Principal:
    """The principal components that `path` holds, or else those of `vectors`, which are written there by one of all
    that want them."""

    def compute() -> Stored:
        arrays = vectors()
        numbers = arrays[0].shape[1]
        count = min(components, numbers, max(2, len(arrays[0]) // 2))
        solver = "randomized" if count < numbers else "full"
        pca = PCA(count, svd_solver=solver, random_state=SEED).fit(arrays[0])
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
    return _Principal((fitting, tuning, testing), stored.notes["share"])


def _scaled(kind: str, principal: _Principal, numbers: int, prefix: str) -> Representation:
    deviations = principal.arrays[0].std(axis=0)
    count = len(deviations)
    note = prefix + (
        f"{count} principal components of {numbers:,} numbers ({100 * principal.share:.1f} % of the variance)"
        if count < numbers
        else f"all {numbers} numbers"
    )
    # A direction that never varies tells nothing; dividing by its rounding error would only make noise loud.
    common = np.sqrt(np.mean(deviations**2))
    varying = deviations > 1e-6 * deviations.max()
    scale: Array = np.where(varying, deviations, np.inf) if kind != "raw" else np.full_like(deviations, common or 1.0)
    fitting, tuning, testing = (array / scale for array in principal.arrays)
    return Representation(kind, fitting, tuning, testing, note)
