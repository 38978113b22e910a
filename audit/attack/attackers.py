"""The attackers. A new one is a class with a name, the representations that it looks at, and a way to answer.

    @attacker
    class Nearest:
        name = "nearest"
        sees = ("raw", "whitened")

        def attack(self, seen, labels, tuning_labels, setting):
            ...  # for every seed, logits of the tuning and of the testing samples

What an attacker may choose (regularisation, epochs), it chooses on the tuning samples; the labels of those that it is
judged on, it never sees.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.svm import SVC
from torch import nn

from privatenet.audit.attack.features import Array
from privatenet.audit.attack.samples import Labels, Representation
from privatenet.audit.attack.together import Member, Recipe, train_together
from privatenet.models.adversary import ArmAdversary, upper_part
from privatenet.models.arm import ArmHead
from privatenet.models.network import Network


@dataclass(frozen=True)
class Setting:
    """What surrounds an attack: the tap, its network, the classes, seeds, and where small networks are trained.

    `donor` is the network whose upper layers a fine-tuning attacker starts from: an image adversary's, if there is one.
    """

    tap: str
    donor: Network
    num_classes: int
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
    sees: tuple[str, ...]

    def attack(self, seen: Representation, labels: Labels, tuning_labels: Labels, setting: Setting) -> Answers:
        """Learn from `seen.fitting` and `labels`, and answer for the others, once for every seed."""
        ...


ATTACKERS: dict[str, Attacker] = {}

VECTORS = ("raw", "whitened", "channels")


def attacker(kind: type[Any]) -> type[Any]:
    """Register a class of attackers under its name."""
    ATTACKERS[kind.name] = kind()
    return kind


@attacker
class Paper:
    """The paper's adversary: ARM and a linear layer on maps, a linear layer on vectors, on the tap's own numbers."""

    name = "paper"
    sees = ("map", "vector")

    def attack(self, seen: Representation, labels: Labels, tuning_labels: Labels, setting: Setting) -> Answers:
        def build() -> nn.Module:
            if len(seen.shape) == 1:
                return nn.Linear(seen.shape[0], setting.num_classes)
            channels, height, width = seen.shape
            return ArmAdversary(ArmHead(channels, (height, width), setting.num_classes, "ema"))

        return _batched(build, seen, labels, tuning_labels, setting, epochs=20, tried=((1e-3, 1e-4), (1e-2, 1e-4)))


@attacker
class Logistic:
    """Multinomial logistic regression; its L2 penalty is chosen by tuning. It has no chance in it, and so no seeds."""

    name = "logistic"
    sees = VECTORS

    def attack(self, seen: Representation, labels: Labels, tuning_labels: Labels, setting: Setting) -> Answers:
        def fit(c: float) -> Answers:
            model = LogisticRegression(C=c, max_iter=300, tol=1e-3).fit(seen.fitting, labels)
            return _answers(model, seen, setting, model.predict_log_proba)

        return _best([fit(c) for c in (1e-4, 1e-3, 1e-2, 1e-1)], tuning_labels)


class _Perceptron:
    """A perceptron whose hidden layers have the widths `hidden`."""

    sees = VECTORS
    hidden: tuple[int, ...]

    def attack(self, seen: Representation, labels: Labels, tuning_labels: Labels, setting: Setting) -> Answers:
        def build() -> nn.Module:
            return _perceptron(seen.shape[0], self.hidden, setting.num_classes)

        return _batched(build, seen, labels, tuning_labels, setting, epochs=12, tried=((1e-3, 1.0), (3e-3, 1e-2)))


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
    """A support vector machine with an RBF kernel of the median distance's width; C is chosen by tuning; no seeds."""

    name = "svm"
    sees = VECTORS
    most = 6000

    def attack(self, seen: Representation, labels: Labels, tuning_labels: Labels, setting: Setting) -> Answers:
        rows = np.sort(np.random.default_rng(setting.seeds[0]).permutation(len(labels))[: self.most])
        fitting = seen.fitting[rows]
        distances = _squared_distances(fitting, fitting)
        width = float(np.median(distances)) or 1.0
        # The kernel is computed here, by one matrix product, and not pair by pair inside the solver.
        kernels = [np.exp(-_squared_distances(part, fitting) / width) for part in (seen.tuning, seen.testing)]
        own = np.exp(-distances / width)

        def fit(c: float) -> Answers:
            model = SVC(C=c, kernel="precomputed", decision_function_shape="ovr", cache_size=500).fit(own, labels[rows])
            margins = [model.decision_function(kernel) for kernel in kernels]
            logits = [np.stack([-m, m], axis=1) if m.ndim == 1 else m for m in margins]
            tuning, testing = (_spread(part, model.classes_, setting.num_classes) for part in logits)
            return Answers(tuning[None], testing[None])

        return _best([fit(c) for c in (1.0, 10.0)], tuning_labels)


@attacker
class BoostedTrees:
    """Gradient-boosted trees by histograms, on the first components; a part of the fitting samples ends the boosting.

    Trees do not see a component's scale: raw and whitened are the same to them.
    """

    name = "trees"
    sees = ("whitened", "channels")
    most = 64

    def attack(self, seen: Representation, labels: Labels, tuning_labels: Labels, setting: Setting) -> Answers:
        fitting, tuning, testing = (part[:, : self.most] for part in (seen.fitting, seen.tuning, seen.testing))
        first = Representation(seen.kind, fitting, tuning, testing, seen.note)

        def fit(seed: int) -> Answers:
            model = HistGradientBoostingClassifier(
                max_iter=100, learning_rate=0.1, max_leaf_nodes=15, max_features=0.3, random_state=seed,
                early_stopping=True, n_iter_no_change=10,
            )  # fmt: skip
            model.fit(first.fitting, labels)
            return _answers(model, first, setting, lambda x: np.log(model.predict_proba(x).clip(1e-12)))

        runs = [fit(seed) for seed in setting.seeds]
        return Answers(np.concatenate([r.tuning for r in runs]), np.concatenate([r.testing for r in runs]))


@attacker
class ConvolutionalHead:
    """Two convolutions, the mean and the maximum over positions, a linear layer: a small network on the map."""

    name = "conv"
    sees = ("map",)

    def attack(self, seen: Representation, labels: Labels, tuning_labels: Labels, setting: Setting) -> Answers:
        return _batched(
            lambda: _ConvolutionalHead(seen.shape[0], setting.num_classes), seen, labels, tuning_labels, setting,
            epochs=8, tried=((3e-3, 1e-2),),
        )  # fmt: skip


@attacker
class FineTuned:
    """The upper layers of a trained network, fine-tuned: those of the image adversary, or of the network itself."""

    name = "finetuned"
    sees = ("map",)

    def attack(self, seen: Representation, labels: Labels, tuning_labels: Labels, setting: Setting) -> Answers:
        return _batched(
            lambda: upper_part(setting.donor, setting.tap, setting.num_classes), seen, labels, tuning_labels, setting,
            epochs=8, tried=((3e-3, 1e-2),),
        )  # fmt: skip


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
    build: Callable[[], nn.Module], seen: Representation, labels: Labels, tuning_labels: Labels, setting: Setting,
    epochs: int, tried: Sequence[tuple[float, float]],
) -> Answers:  # fmt: skip
    """Every seed with every (learning rate, weight decay) that is `tried`, all at once; for each seed the best one."""
    members = [Member(seed, lr, decay) for seed in setting.seeds for lr, decay in tried]
    recipe = Recipe(epochs, setting.device)
    trained = train_together(build, members, seen, labels, tuning_labels, recipe)
    losses = np.array(trained.losses).reshape(len(setting.seeds), -1)
    chosen = losses.argmin(axis=1) + losses.shape[1] * np.arange(len(setting.seeds))
    return Answers(trained.tuning[chosen], trained.testing[chosen])


def _answers(model: Any, seen: Representation, setting: Setting, log_probability: Callable[[Array], Array]) -> Answers:
    tuning, testing = (
        _spread(log_probability(part), model.classes_, setting.num_classes) for part in (seen.tuning, seen.testing)
    )
    return Answers(tuning[None], testing[None])


def _spread(logits: Array, classes: Labels, num_classes: int) -> Array:
    """Logits of the classes that were there to learn from, as logits of all of them; the others are out of reach."""
    full = np.full((len(logits), num_classes), logits.min() - 10, dtype=np.float32)
    full[:, classes] = logits
    return full


def _best(runs: Sequence[Answers], tuning_labels: Labels) -> Answers:
    classes = np.arange(runs[0].tuning.shape[2])

    def loss(run: Answers) -> float:
        return float(log_loss(tuning_labels, np.exp(log_softmax(run.tuning[0], axis=1)), labels=classes))

    return min(runs, key=loss)


def _squared_distances(left: Array, right: Array) -> Array:
    products = left @ right.T
    distances: Array = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * products
    return distances.clip(min=0)
