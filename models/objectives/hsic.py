"""HSIC (Gretton et al., ALT 2005), normalised as kernel alignment is (Cortes et al., JMLR 2012): features and private
labels shall be independent, by a kernel measure."""

import torch
import torch.nn.functional as F
from torch import Tensor

from privatenet.models.objectives.conditional import (
    ConditionalOptions,
    ConditionalTerm,
    alignment,
    residuals,
    squared_distances,
)


class Hsic(ConditionalTerm):
    """Normalised HSIC of the global batch's features, averaged over neighbouring positions, and labels."""

    options = ConditionalOptions

    def loss(self, values: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return hsic_loss(values, labels, self.groups(targets), self.num_classes)


def hsic_loss(features: Tensor, labels: Tensor, groups: Tensor, num_classes: int) -> Tensor:
    """tr(KHLH) / (||HKH|| ||HLH||) of features [B, D] and labels int64 [B], 0 to 1; 0 where one of them is constant.

    K is exp(-d / median d), d squared distances; L is 1 for equal labels, else 0. H subtracts, from a kernel's feature
    maps, the means of `groups` (one-hot [B, G]): one group is HSIC, the target's classes its conditional form.
    """
    kernel = _rbf(features)
    kernel = residuals(residuals(kernel, groups).T, groups)
    one_hot = residuals(F.one_hot(labels, num_classes).float(), groups)
    return alignment(kernel, one_hot @ one_hot.T)


def _rbf(features: Tensor) -> Tensor:
    distances = squared_distances(features)
    upper = torch.triu_indices(len(features), len(features), 1, device=features.device)
    median = distances.detach()[upper[0], upper[1]].median().clamp(min=1e-12)
    return torch.exp(-distances / median)
