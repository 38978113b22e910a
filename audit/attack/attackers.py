"""The attackers. A new one is a class with a name, the kinds of representation that it looks at, and a way to answer.

    @attacker
    class Nearest:
        name = "nearest"
        kinds = ("raw", "whitened")

        def attack(self, representation, context):
            ...  # for every seed, logits of the tuning and of the testing samples

What an attacker may select (regularisation, epochs), it selects on the tuning samples; it never gets the labels of
those that it is judged on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import nn

from privatenet.audit.attack.features import Array
from privatenet.audit.attack.measures import calibrate
from privatenet.audit.attack.samples import Labels, Representation
from privatenet.audit.attack.together import Member, Recipe, train_together
from privatenet.data_shards.reading.plan import Rows
from privatenet.models.adversary import ArmAdversary, upper_part
from privatenet.models.arm import ArmHead
from privatenet.models.network import Network


@dataclass(frozen=True)
class AttackContext:
    """What surrounds an attack: the labels of the fitting and of the tuning samples, the tap, seeds, and the device.

    `donor` is the network whose upper layers a fine-tuning attacker starts from: an image adversary's, if there is one.
    """

    labels: Labels
    tuning_labels: Labels
    num_classes: int
    tap: str
    donor: Network
    seeds: tuple[int, ...]
    device: torch.device


@dataclass(frozen=True)
class Answers:
    """Logits, float32 [S, N, K], for every seed, of the tuning and of the testing samples."""

    tuning: Array
    testing: Array


class Attacker(Protocol):
    """Predicts a private attribute from a representation of a tap."""

    name: str
    kinds: tuple[str, ...]

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        """Learn from `representation.fitting` and its labels, and answer for the others, once for every seed."""
        ...


ATTACKERS: dict[str, Attacker] = {}

VECTORS = ("raw", "whitened", "channels")


def attacker(cls: type[Any]) -> type[Any]:
    """Register a class of attackers under its name."""
    ATTACKERS[cls.name] = cls()
    return cls


@attacker
class Paper:
    """The paper's adversary: ARM and a linear layer on maps, a linear layer on vectors, on the tap's own numbers."""

    name = "paper"
    kinds = ("map", "vector")

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        def build() -> nn.Module:
            if len(representation.shape) == 1:
                return nn.Linear(representation.shape[0], context.num_classes)
            channels, height, width = representation.shape
            return ArmAdversary(ArmHead(channels, (height, width), context.num_classes, "ema"))

        return _batched(build, representation, context, epochs=20, grid=((1e-3, 1e-4), (1e-2, 1e-4)))


@attacker
class Logistic:
    """Multinomial logistic regression; its L2 penalty is selected by tuning. Nothing in it depends on seeds."""

    name = "logistic"
    kinds = VECTORS

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        runs = _logistic(representation, context, (1e-4, 1e-3, 1e-2, 1e-1))
        return runs[_best(runs, context)]


class _Perceptron:
    """A perceptron whose hidden layers have the widths `hidden`."""

    kinds = VECTORS
    hidden: tuple[int, ...]

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        def build() -> nn.Module:
            return _perceptron(representation.shape[0], self.hidden, context.num_classes)

        return _batched(build, representation, context, epochs=12, grid=((1e-3, 1.0), (3e-3, 1e-2)))


@attacker
class ShallowMlp(_Perceptron):
    """A perceptron of one hidden layer."""

    name = "mlp1"
    hidden = (256,)


@attacker
class DeepMlp(_Perceptron):
    """A perceptron of three hidden layers."""

    name = "mlp3"
    hidden = (256, 128, 64)


@attacker
class RbfSvm:
    """A support vector machine with an RBF kernel, from the median distance's width to narrow ones, which find what is
    of fine grain; width and C are selected by tuning, on some of the samples; no seeds."""

    name = "svm"
    kinds = VECTORS
    few, most = 2000, 6000
    grid = tuple(product((1.0, 1 / 4, 1 / 16), (1.0, 10.0, 100.0)))

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        order = np.random.default_rng(context.seeds[0]).permutation(len(context.labels))
        runs = _machines(representation, context, np.sort(order[: self.few]), self.grid)
        best = _best(runs, context)
        if len(order) <= self.few:
            return runs[best]
        return _machines(representation, context, np.sort(order[: self.most]), [self.grid[best]])[0]


@attacker
class KernelFeatures:
    """Logistic regression on features reduced by kernel PCA (Nystroem's approximation, of an RBF kernel; no seeds)."""

    name = "kernel"
    kinds = VECTORS
    components = 300

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        fitting = representation.fitting
        median, count = _median_distance(fitting, context), min(self.components, len(fitting))

        def fit(share: float) -> list[Answers]:
            nystroem = Nystroem(gamma=1 / (share * median), n_components=count, random_state=context.seeds[0]).fit(
                fitting
            )
            known, tuning, testing = (
                nystroem.transform(x) for x in (fitting, representation.tuning, representation.testing)
            )
            reduced = Representation(representation.kind, known, tuning, testing, representation.note)
            return _logistic(reduced, context, (0.1, 1.0, 10.0))

        runs = [run for share in (1.0, 1 / 4) for run in fit(share)]
        return runs[_best(runs, context)]


@attacker
class BoostedTrees:
    """Gradient-boosted trees by histograms, on the first components; some of the fitting samples end the boosting.

    Trees do not see a component's scale: raw and whitened are the same to them.
    """

    name = "trees"
    kinds = ("whitened", "channels")
    most = 64

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        arrays = representation.fitting, representation.tuning, representation.testing
        fitting, tuning, testing = (array[:, : self.most] for array in arrays)
        first = Representation(representation.kind, fitting, tuning, testing, representation.note)

        rare = np.unique(context.labels, return_counts=True)[1].min() < 10  # some may be missing from a tenth of them

        def fit(seed: int) -> Answers:
            model = HistGradientBoostingClassifier(
                max_iter=100, learning_rate=0.1, max_leaf_nodes=15, max_features=0.3, random_state=seed,
                early_stopping=not rare, n_iter_no_change=10,
            )  # fmt: skip
            model.fit(first.fitting, context.labels)
            return _answers(model, first, context, lambda x: np.log(model.predict_proba(x).clip(1e-12)))

        runs = [fit(seed) for seed in context.seeds]
        return Answers(np.concatenate([r.tuning for r in runs]), np.concatenate([r.testing for r in runs]))


@attacker
class KnownNoise:
    """The mixture of Gaussians around the fitting samples' centres: Bayes' rule for who knows the noise; no seeds.

    How much wider than the noise its Gaussians are is selected by tuning: centres are few, where faces are many.
    """

    name = "noise"
    kinds = ("centres",)

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        centres = representation.fitting
        distances = [_squared_distances(x, centres) for x in (representation.tuning, representation.testing)]

        def fit(width: float) -> Answers:
            exponents = [values / (-2 * (width * representation.sigma) ** 2) for values in distances]
            columns = [
                np.stack([_log_sum(values[:, context.labels == label]) for label in range(context.num_classes)], axis=1)
                for values in exponents
            ]
            return Answers(*(logits.astype(np.float32)[None] for logits in columns))

        runs = [fit(width) for width in (1.0, 1.25, 1.6, 2.0, 3.0)]
        return runs[_best(runs, context)]


@attacker
class ConvolutionalHead:
    """Two convolutions, the mean and the maximum over positions, a linear layer: a small network on the map."""

    name = "conv"
    kinds = ("map",)

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        def build() -> nn.Module:
            return _ConvolutionalHead(representation.shape[0], context.num_classes)

        return _batched(build, representation, context, epochs=8, grid=((3e-3, 1e-2),))


@attacker
class FineTuned:
    """The upper layers of a trained network, fine-tuned: those of the image adversary, or of the network itself.

    The image adversary has learnt the training split's labels, and would be selected for what it remembers of tuning
    samples from there. It is where this attacker starts from on fresh faces only; on training faces it is the network.
    """

    name = "finetuned"
    kinds = ("map",)

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        def build() -> nn.Module:
            return upper_part(context.donor, context.tap, context.num_classes)

        return _batched(build, representation, context, epochs=8, grid=((3e-3, 1e-2),))


class _ConvolutionalHead(nn.Module):
    def __init__(self, channels: int, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.shrink = nn.AdaptiveAvgPool2d(8)
        self.mix = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.look = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.linear = nn.Linear(2 * width, num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        small = self.shrink(features) if features.shape[-1] > 8 else features
        maps = self.look(self.mix(small))
        logits: torch.Tensor = self.linear(torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1))
        return logits


def _perceptron(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(0.2)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _batched(
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


def _answers(
    model: Any, representation: Representation, context: AttackContext, logits: Callable[[Array], Array]
) -> Answers:
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


def _best(runs: Sequence[Answers], context: AttackContext) -> int:
    """Which of the runs has the lowest cross-entropy on the tuning samples after calibration."""
    rows, labels = np.arange(len(context.tuning_labels)), context.tuning_labels

    def loss(run: Answers) -> float:
        logits = run.tuning[0].astype(np.float64)
        scale, bias = calibrate(logits, labels)
        return float(-log_softmax(scale * logits + bias, axis=1)[rows, labels].mean())

    return min(range(len(runs)), key=lambda place: loss(runs[place]))


def _logistic(representation: Representation, context: AttackContext, penalties: Sequence[float]) -> list[Answers]:
    """Logistic regressions with these C."""

    def fit(c: float) -> Answers:
        model = LogisticRegression(C=c, max_iter=300, tol=1e-3).fit(representation.fitting, context.labels)
        return _answers(model, representation, context, lambda x: _columns(model.decision_function(x)))

    return [fit(c) for c in penalties]


def _machines(
    representation: Representation, context: AttackContext, rows: Rows, grid: Sequence[tuple[float, float]]
) -> list[Answers]:
    """Support vector machines of these (share of the median distance, C), fitted on `rows` of the fitting samples."""
    fitting = representation.fitting[rows]
    # Kernels are computed here, by one matrix product, and not pair by pair inside the solver.
    distances = [_squared_distances(x, fitting) for x in (fitting, representation.tuning, representation.testing)]
    median = float(np.median(distances[0])) or 1.0
    runs = []
    for share, c in grid:
        own, *others = (np.exp(values / (-share * median)) for values in distances)
        model = SVC(C=c, kernel="precomputed", decision_function_shape="ovr", cache_size=500)
        model.fit(own, context.labels[rows])
        columns = [_columns(model.decision_function(kernel)) for kernel in others]
        runs.append(Answers(*(_all_classes(x, model.classes_, context.num_classes)[None] for x in columns)))
    return runs


def _median_distance(fitting: Array, context: AttackContext) -> float:
    """The median of the squared distances between some of the fitting samples."""
    some = fitting[np.random.default_rng(context.seeds[0]).permutation(len(fitting))[:1000]]
    return float(np.median(_squared_distances(some, some))) or 1.0


def _log_sum(exponents: Array) -> Array:
    """The logarithm of the sum of exp(exponents) over each row; of none, what no sample has."""
    if not exponents.shape[1]:
        return np.full(len(exponents), -1e4, dtype=np.float32)
    sums: Array = logsumexp(exponents, axis=1).clip(min=-1e4)
    return sums


def _squared_distances(left: Array, right: Array) -> Array:
    products = left @ right.T
    distances: Array = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * products
    return distances.clip(min=0)
