"""Adversarial (Edwards and Storkey, ICLR 2016): the known adversary's cross-entropy shall be large."""

import math

from torch import Tensor

from privatenet.models.objectives.known import KnownAdversaryTerm
from privatenet.models.objectives.term import known_cross_entropy


class Adversarial(KnownAdversaryTerm):
    """Minus the adversary's cross-entropy, held at log K."""

    def loss_of_known(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return adversarial_loss(logits, labels)


def adversarial_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the cross-entropy of logits [B, K] where labels [B] are known, not -1; at least -log K.

    An adversary that is worse than guessing is no more private, and without the bound the loss has no minimum.
    """
    return -known_cross_entropy(logits, labels).clamp(max=math.log(logits.shape[1]))
