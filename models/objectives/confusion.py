"""Confusion (Li and Cavallaro, ICASSP 2022, Eq. 7): the known adversary shall answer with the prior."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from privatenet.models.objectives.known import KnownAdversaryTerm, KnownOptions
from privatenet.models.objectives.term import TermContext, mean_of_known


@dataclass(frozen=True)
class ConfusionOptions(KnownOptions):
    """Settings of `confusion`.

    Args:
        prior: What a confused adversary answers: uniform (1/K, the paper) or the classes' frequencies (class).
    """

    prior: Literal["uniform", "class"] = "uniform"


class Confusion(KnownAdversaryTerm):
    """Squared distance of the adversary's softmax to the prior. The paper prints 1/D in place of the uniform 1/K."""

    options = ConfusionOptions
    prior: Tensor

    def __init__(self, options: ConfusionOptions, context: TermContext) -> None:
        super().__init__(options, context)
        shares = context.frequencies
        self.register_buffer(
            "prior", shares if options.prior == "class" else torch.full_like(shares, 1 / len(shares)), persistent=False
        )

    def loss_of_known(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return confusion_loss(logits, self.prior, self.known(labels, targets))


def confusion_loss(logits: Tensor, prior: Tensor, known: Tensor) -> Tensor:
    """Squared distance of softmax(logits [B, K]) to `prior` [K], summed over classes and averaged over `known` [B]."""
    return mean_of_known((logits.float().softmax(dim=1) - prior).square().sum(dim=1), known)
