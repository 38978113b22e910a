"""HSIC (Gretton et al., ALT 2005): features and private labels shall be independent, by a kernel measure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from privatenet.models.objectives.term import Gather, Term, TermContext


@dataclass(frozen=True)
class HsicOptions:
    """`hsic` has no settings of its own."""


class Hsic(Term):
    """tr(KHLH) / (||HKH|| ||HLH||) over the global batch: an RBF kernel of median width, labels alike or not."""

    options = HsicOptions

    def __init__(self, options: Any, context: TermContext) -> None:
        super().__init__(options, context)
        self.gather, self.num_classes = Gather(), len(context.frequencies)

    def forward(self, features: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        every, classes = self.gather(features.float().flatten(1)), self.gather(labels)
        distances = torch.cdist(every, every).square()
        kernel = _centred(torch.exp(-distances / distances.detach().median().clamp(min=1e-12)))
        alike = F.one_hot(classes, self.num_classes).to(kernel.dtype)
        target = _centred(alike @ alike.T)
        return {"loss": (kernel * target).sum() / (kernel.norm() * target.norm()).clamp(min=1e-12)}


def _centred(kernel: Tensor) -> Tensor:
    return kernel - kernel.mean(dim=0) - kernel.mean(dim=1, keepdim=True) + kernel.mean()
