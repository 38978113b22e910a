"""Objectives: what the private network is trained for, as pure functions of an adversary's logits."""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from privatenet.models.errors import ModelError


def joint_loss(
    cross_entropy: Tensor, terms: Mapping[str, Tensor], weights: Mapping[str, float], lambda_: float
) -> Tensor:
    """(1 - lambda) CE + lambda times the weighted sum of `terms` (Eq. 8, for several adversaries at once).

    Raises ModelError if lambda is not in [0, 1].
    """
    if not 0 <= lambda_ <= 1:
        raise ModelError(f"lambda {lambda_} is out of range; accepted: 0 (utility only) to 1 (privacy only)")
    privacy = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return (1 - lambda_) * cross_entropy + lambda_ * privacy


def confusion_loss(logits: Tensor, prior: Tensor) -> Tensor:
    """Squared distance of softmax(logits [B, K]) to `prior` [K], summed over classes and averaged over the batch.

    Eq. 7 with the uniform prior 1/K (the paper prints 1/D). It is 0 for an adversary that only knows the prior.
    """
    return (logits.float().softmax(dim=1) - prior).square().sum(dim=1).mean()


def adversarial_loss(logits: Tensor, labels: Tensor, prior: Tensor | None = None) -> Tensor:
    """Minus the adversary's cross-entropy (Edwards and Storkey, ICLR 2016), held at log K.

    An adversary that is worse than guessing is no more private, and without the bound the loss has no minimum.
    """
    return -F.cross_entropy(logits.float(), labels).clamp(max=math.log(logits.shape[1]))


Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""An adversary's logits [B, K], its labels [B] and the prior [K] to a scalar that falls as less is revealed."""

OBJECTIVES: dict[str, Objective] = {
    "confusion": lambda logits, labels, prior: confusion_loss(logits, prior),
    "adversarial": adversarial_loss,
}
