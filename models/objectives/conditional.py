"""Conditional forms: what features tell of a private attribute beyond what the target tells, by residuals."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from privatenet.models.objectives.term import Term, TermContext
from privatenet.models.probe import reduce_map


@dataclass(frozen=True)
class ConditionalOptions:
    """Settings of every objective that has a conditional form.

    Args:
        given: none: all that features tell of the attribute counts; target: only what they tell within a class of the
            target, so that the penalty does not fight what the target itself reveals.
    """

    given: Literal["none", "target"] = "none"


class ConditionalTerm(Term):
    """A loss on reduced features [B, D] and on residuals of one mean, or of one mean for each class of the target."""

    def __init__(self, options: Any, context: TermContext) -> None:
        super().__init__(options, context)
        self.within_targets = options.given == "target"
        self.num_classes, self.num_targets = len(context.frequencies), context.num_targets

    def view(self, features: Tensor) -> Tensor:
        return reduce_map(features)

    def known(self, labels: Tensor, targets: Tensor) -> Tensor:
        return (labels >= 0) & (targets >= 0) if self.within_targets else labels >= 0

    def groups(self, targets: Tensor) -> Tensor:
        """Which mean each sample is centred by, float32 one-hot [B, G]."""
        if self.within_targets:
            return F.one_hot(targets.clamp(min=0), self.num_targets).float()
        return torch.ones(len(targets), 1, device=targets.device)


def squared_distances(values: Tensor) -> Tensor:
    """Those between all rows of `values` [B, D], [B, B]."""
    centred = values - values.mean(dim=0)  # distances of far points would lose digits
    norms = centred.square().sum(dim=1)
    return (norms[:, None] + norms - 2 * centred @ centred.T).clamp(min=0)


def alignment(left: Tensor, right: Tensor) -> Tensor:
    """The cosine of two matrices [B, B]; 0 where one of them is zero."""
    scale = torch.linalg.matrix_norm(left) * torch.linalg.matrix_norm(right)
    cosine: Tensor = (left * right).sum() / scale.clamp(min=1e-6)
    return cosine


def residuals(values: Tensor, groups: Tensor, weights: Tensor | None = None) -> Tensor:
    """`values` [N, D] minus the mean of their group (one-hot [N, G]) over the samples of weight 1 (0 or 1, [N])."""
    members = groups if weights is None else groups * weights[:, None]
    means = members.T @ values / members.sum(dim=0).clamp(min=1)[:, None]
    return values - groups @ means
