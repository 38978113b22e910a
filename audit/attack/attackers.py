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

from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.kernel_approximation import Nystroem
from torch import nn

from privatenet.audit.attack.features import Array
from privatenet.audit.attack.fitting import (
    Answers,
    AttackContext,
    best_run,
    estimator_answers,
    logistic_runs,
    machine_runs,
    median_distance,
    squared_distances,
    train_grid,
)
from privatenet.audit.attack.representations import Representation
from privatenet.models.adversary import ArmAdversary, upper_part
from privatenet.models.arm import ArmHead


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

        return train_grid(build, representation, context, epochs=20, grid=((1e-3, 1e-4), (1e-2, 1e-4)))


@attacker
class Logistic:
    """Multinomial logistic regression; its L2 penalty is selected by tuning. Nothing in it depends on seeds."""

    name = "logistic"
    kinds = VECTORS

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        runs = logistic_runs(representation, context, (1e-4, 1e-3, 1e-2, 1e-1))
        return runs[best_run(runs, context)]


class _Perceptron:
    """A perceptron whose hidden layers have the widths `hidden`."""

    kinds = VECTORS
    hidden: tuple[int, ...]

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        def build() -> nn.Module:
            return _perceptron(representation.shape[0], self.hidden, context.num_classes)

        return train_grid(build, representation, context, epochs=12, grid=((1e-3, 1.0), (3e-3, 1e-2)))


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
        runs = machine_runs(representation, context, np.sort(order[: self.few]), self.grid)
        best = best_run(runs, context)
        if len(order) <= self.few:
            return runs[best]
        return machine_runs(representation, context, np.sort(order[: self.most]), [self.grid[best]])[0]


@attacker
class KernelFeatures:
    """Logistic regression on features reduced by kernel PCA (Nystroem's approximation, of an RBF kernel; no seeds)."""

    name = "kernel"
    kinds = VECTORS
    components = 300

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        fitting = representation.fitting
        median, count = median_distance(fitting, context), min(self.components, len(fitting))

        def fit(share: float) -> list[Answers]:
            nystroem = Nystroem(gamma=1 / (share * median), n_components=count, random_state=context.seeds[0]).fit(
                fitting
            )
            known, tuning, testing = (
                nystroem.transform(x) for x in (fitting, representation.tuning, representation.testing)
            )
            reduced = Representation(representation.kind, known, tuning, testing, representation.note)
            return logistic_runs(reduced, context, (0.1, 1.0, 10.0))

        runs = [run for share in (1.0, 1 / 4) for run in fit(share)]
        return runs[best_run(runs, context)]


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
            return estimator_answers(model, first, context, lambda x: np.log(model.predict_proba(x).clip(1e-12)))

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
        distances = [squared_distances(x, centres) for x in (representation.tuning, representation.testing)]

        def fit(width: float) -> Answers:
            exponents = [values / (-2 * (width * representation.sigma) ** 2) for values in distances]
            columns = [
                np.stack([_log_sum(values[:, context.labels == label]) for label in range(context.num_classes)], axis=1)
                for values in exponents
            ]
            return Answers(*(logits.astype(np.float32)[None] for logits in columns))

        runs = [fit(width) for width in (1.0, 1.25, 1.6, 2.0, 3.0)]
        return runs[best_run(runs, context)]


@attacker
class ConvolutionalHead:
    """Two convolutions, the mean and the maximum over positions, a linear layer: a small network on the map."""

    name = "conv"
    kinds = ("map",)

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        def build() -> nn.Module:
            return _ConvolutionalHead(representation.shape[0], context.num_classes)

        return train_grid(build, representation, context, epochs=8, grid=((3e-3, 1e-2),))


@attacker
class FineTuned:
    """The upper layers of a trained network, fine-tuned: those of the image adversary, or of the network itself.

    The image adversary has learnt the training split's labels, and would be selected for what it remembers of tuning
    samples from there. It is where this attacker starts from on fresh faces only; on training faces it is the network.
    """

    name = "finetuned"
    kinds = ("map",)

    def attack(self, representation: Representation, context: AttackContext) -> Answers:
        donor = context.donor
        assert donor is not None  # else the fleet has no such unit

        def build() -> nn.Module:
            return upper_part(donor, context.tap, context.num_classes)

        return train_grid(build, representation, context, epochs=8, grid=((3e-3, 1e-2),))


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


def _log_sum(exponents: Array) -> Array:
    """The logarithm of the sum of exp(exponents) over each row; of none, what no sample has."""
    if not exponents.shape[1]:
        return np.full(len(exponents), -1e4, dtype=np.float32)
    sums: Array = logsumexp(exponents, axis=1).clip(min=-1e4)
    return sums
