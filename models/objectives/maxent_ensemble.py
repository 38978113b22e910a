"""Maximum entropy against several adversaries, after MaxEnt-ARL (Roy and Boddeti, CVPR 2019): the one that knows most
shall answer with the prior, and none of them stays for long."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field, with_config
from torch import Tensor, nn

from privatenet.models.objectives.term import Learning, Term, TermContext, mean_of_known
from privatenet.models.probe import reduce_map

WIDTH = 256
DEPTHS = (0, 1, 2, 3)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class EnsembleLearning(Learning):
    """How the members learn; `restart_epochs`: epochs after which the next one of them begins again."""

    steps: Annotated[int, Field(ge=1)] = 3
    restart_epochs: Annotated[int, Field(ge=0)] = 2


@dataclass(frozen=True)
class MaxentEnsembleOptions:
    """Settings of `maxent_ensemble`.

    Args:
        members: Number of adversaries; they have 0, 1, 2, 3, 0, ... hidden layers.
        learning: How they learn, such as {lr: 3e-3, steps: 3, restart_epochs: 2}; one of them in turn is restarted.
        prior: What a confused adversary answers: uniform (1/K) or the classes' frequencies (class).
    """

    members: Annotated[int, Field(ge=1)] = 4
    learning: EnsembleLearning = field(default_factory=EnsembleLearning)
    prior: Literal["uniform", "class"] = "uniform"


class MaxentEnsemble(Term):
    """The largest of the members' mean divergences KL(prior || answer), over the global batch."""

    options = MaxentEnsembleOptions
    prior: Tensor
    turn: Tensor

    def __init__(self, options: MaxentEnsembleOptions, context: TermContext) -> None:
        super().__init__(options, context)
        num_classes = len(context.frequencies)
        uniform = torch.full_like(context.frequencies, 1 / num_classes)
        self.register_buffer("prior", context.frequencies if options.prior == "class" else uniform, persistent=False)
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        num_features = reduce_map(torch.zeros(1, *context.tap_shape)).shape[1]
        depths = [DEPTHS[member % len(DEPTHS)] for member in range(options.members)]
        self.adversary = Ensemble(num_features, num_classes, depths).requires_grad_(False)
        self.learning = options.learning

    @property
    def ensemble(self) -> "Ensemble":
        assert isinstance(self.adversary, Ensemble)
        return self.adversary

    def view(self, features: Tensor) -> Tensor:
        return self.ensemble.answers(features)

    def loss_of_known(self, values: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return maxent_loss(values, self.prior, self.known(labels, targets))

    def adversary_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        answers, labels = self.global_batch(self.ensemble.answers(features), labels)
        every = labels[:, None].expand(-1, answers.shape[1])
        losses = F.cross_entropy(answers.transpose(1, 2), every, ignore_index=-1, reduction="none")
        return mean_of_known(losses, labels >= 0).sum()  # each member learns by its own

    def restart(self) -> None:
        """Only the member whose turn it is."""
        self.ensemble.restart(int(self.turn) % len(self.ensemble.members))
        self.turn += 1


class Ensemble(nn.Module):
    """Perceptrons of the given depths on features [B, ...], which are averaged over neighbouring positions first."""

    def __init__(self, num_features: int, num_classes: int, depths: Sequence[int]) -> None:
        super().__init__()
        self.sizes = [(num_features, *[WIDTH] * depth, num_classes) for depth in depths]
        self.members = nn.ModuleList(map(_perceptron, self.sizes))

    def answers(self, features: Tensor) -> Tensor:
        """The members' logits [B, M, K]."""
        reduced = reduce_map(features)
        return torch.stack([member(reduced) for member in self.members], dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """The mean of the members' probabilities, as logits [B, K]."""
        return self.answers(features).float().log_softmax(dim=2).logsumexp(dim=1) - math.log(len(self.members))

    def restart(self, member: int) -> None:
        """Give one member new weights, in place."""
        self.members[member].load_state_dict(_perceptron(self.sizes[member]).state_dict())


def maxent_loss(logits: Tensor, prior: Tensor, known: Tensor) -> Tensor:
    """max over members of the mean over `known` samples (bool [B]) of KL(prior [K] || softmax(logits [B, M, K]))."""
    divergences = torch.xlogy(prior, prior) - prior * logits.log_softmax(dim=2)
    return mean_of_known(divergences.sum(dim=2), known).max()


def _perceptron(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.LayerNorm(sizes[0], elementwise_affine=False)]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
