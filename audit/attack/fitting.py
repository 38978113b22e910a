"""How attackers fit, select and answer: what several of them share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import nn

from privatenet.audit.attack.features import Array
from privatenet.audit.attack.measures import calibrate
from privatenet.audit.attack.representations import Representation
from privatenet.audit.attack.samples import Labels
from privatenet.audit.attack.together import Member, Recipe, train_together
from privatenet.data_shards.reading.plan import Rows
from privatenet.models.network import Network


@dataclass(frozen=True)
class AttackContext:
    """What surrounds an attack: the labels of the fitting and of the tuning samples, the tap, seeds, and the device.

    `donor` is the network whose upper layers a fine-tuning attacker starts from: an image adversary's, if there is one;
    None for features of networks that are not ours.
    """

    labels: Labels
    tuning_labels: Labels
    num_classes: int
    tap: str
    donor: Network | None
    seeds: tuple[int, ...]
    device: torch.device


@dataclass(frozen=True)
class Answers:
    """Logits, float32 [S, N, K], for every seed, of the tuning and of the testing samples."""

    tuning: Array
    testing: Array


def train_grid(
    build: Callable[[], nn.Module],
    representation: Representation,
    context: AttackContext,
    epochs: int,
    grid: Sequence[tuple[float, float]],
) -> Answers:
    """Every seed with every (learning rate, weight decay) of `grid`, all at once; for each seed the best one."""
    members = [Member(seed, lr, decay) for seed in context.seeds for lr, decay in grid]
    recipe = Recipe(epochs, context.device)
    trained = train_together(build, members, representation, context.labels, context.tuning_labels, recipe)
    losses = np.array(trained.losses).reshape(len(context.seeds), -1)
    best = losses.argmin(axis=1) + losses.shape[1] * np.arange(len(context.seeds))
    return Answers(trained.tuning[best], trained.testing[best])


def estimator_answers(
    model: Any, representation: Representation, context: AttackContext, logits: Callable[[Array], Array]
) -> Answers:
    """Those of a fitted scikit-learn model, whose `logits` of an array [n, D] are [n, classes that it has met]."""
    arrays = (representation.tuning, representation.testing)
    return Answers(*(_all_classes(logits(x), model.classes_, context.num_classes)[None] for x in arrays))


def _columns(margins: Array) -> Array:
    """Logits [N, K] of a decision function, which for two classes has one margin [N]."""
    return np.stack([-margins / 2, margins / 2], axis=1) if margins.ndim == 1 else margins


def _all_classes(logits: Array, classes: Labels, num_classes: int) -> Array:
    """Logits of the `classes` that there were to learn from, as logits of all; the others are out of reach."""
    full = np.full((len(logits), num_classes), logits.min() - 10, dtype=np.float32)
    full[:, classes] = logits
    return full


def best_run(runs: Sequence[Answers], context: AttackContext) -> int:
    """Which of the runs has the lowest cross-entropy on the tuning samples after calibration."""
    rows, labels = np.arange(len(context.tuning_labels)), context.tuning_labels

    def loss(run: Answers) -> float:
        logits = run.tuning[0].astype(np.float64)
        scale, bias = calibrate(logits, labels)
        return float(-log_softmax(scale * logits + bias, axis=1)[rows, labels].mean())

    return min(range(len(runs)), key=lambda place: loss(runs[place]))


def logistic_runs(representation: Representation, context: AttackContext, penalties: Sequence[float]) -> list[Answers]:
    """Logistic regressions with these C."""

    def fit(c: float) -> Answers:
        model = LogisticRegression(C=c, max_iter=300, tol=1e-3).fit(representation.fitting, context.labels)
        return estimator_answers(model, representation, context, lambda x: _columns(model.decision_function(x)))

    return [fit(c) for c in penalties]


def machine_runs(
    representation: Representation, context: AttackContext, rows: Rows, grid: Sequence[tuple[float, float]]
) -> list[Answers]:
    """Support vector machines of these (share of the median distance, C), fitted on `rows` of the fitting samples."""
    fitting = representation.fitting[rows]
    # Kernels are computed here, by one matrix product, and not pair by pair inside the solver.
    distances = [squared_distances(x, fitting) for x in (fitting, representation.tuning, representation.testing)]
    median = float(np.median(distances[0])) or 1.0
    runs = []
    for share, c in grid:
        own, *others = (np.exp(values / (-share * median)) for values in distances)
        model = SVC(C=c, kernel="precomputed", decision_function_shape="ovr", cache_size=500)
        model.fit(own, context.labels[rows])
        logits = [_columns(model.decision_function(kernel)) for kernel in others]
        runs.append(Answers(*(_all_classes(x, model.classes_, context.num_classes)[None] for x in logits)))
    return runs


def median_distance(fitting: Array, context: AttackContext) -> float:
    """The median of the squared distances between some of the fitting samples."""
    some = fitting[np.random.default_rng(context.seeds[0]).permutation(len(fitting))[:1000]]
    return float(np.median(squared_distances(some, some))) or 1.0


def squared_distances(left: Array, right: Array) -> Array:
    products = left @ right.T
    distances: Array = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * products
    return distances.clip(min=0)
