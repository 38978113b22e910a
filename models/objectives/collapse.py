"""Collapse: faces of one target class shall look alike at the tap, so that nothing else can be told from them.

The trace ratio of Fisher's scatter matrices, which neural collapse drives to zero (Papyan, Han and Donoho, PNAS 2020).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from privatenet.models.objectives.conditional import residuals
from privatenet.models.objectives.term import Term, TermContext
from privatenet.models.probe import reduce_map


@dataclass(frozen=True)
class CollapseOptions:
    """`collapse` has no settings of its own."""


class Collapse(Term):
    """tr(S_W) / tr(S_B) of the global batch's features, averaged over neighbouring positions.

    It looks at the target's labels only: the attribute of its pair does not matter.
    """

    options = CollapseOptions

    def __init__(self, options: Any, context: TermContext) -> None:
        super().__init__(options, context)
        self.num_targets = context.num_targets

    def view(self, features: Tensor) -> Tensor:
        return reduce_map(features)

    def known(self, labels: Tensor, targets: Tensor) -> Tensor:
        return targets >= 0

    def loss(self, values: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return collapse_loss(values, targets, self.num_targets)


def collapse_loss(features: Tensor, targets: Tensor, num_targets: int) -> Tensor:
    """Within-class scatter of features [B, D] over between-class scatter, of the classes with two samples or more.

    0 where there are fewer than two such classes.
    """
    classes = F.one_hot(targets, num_targets).float()
    frequent = (classes.sum(dim=0) > 1).float()
    weights = classes @ frequent
    around_mean = weights[:, None] * residuals(features, torch.ones_like(weights)[:, None], weights)
    around_class = weights[:, None] * residuals(features, classes)
    within = around_class.square().sum()
    between = (around_mean - around_class).square().sum()
    return torch.where(frequent.sum() > 1, within / between.clamp(min=1e-12), 0 * within)
