"""Distance correlation (Székely, Rizzo and Bakirov, Annals of Statistics 2007) of features and of what a network for
the private attribute makes of the same picture: faces count as alike as that network finds them, not by label alone.

As a penalty for fair representations: Guo et al., IEEE TNNLS 2022.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from privatenet.models.adversary import ImageAdversary
from privatenet.models.freeze import freeze
from privatenet.models.objectives.conditional import (
    ConditionalOptions,
    ConditionalTerm,
    alignment,
    residuals,
    squared_distances,
)
from privatenet.models.objectives.term import TermContext


class DistanceCorrelation(ConditionalTerm):
    """Squared distance correlation of the global batch's features, averaged over neighbouring positions, and of the
    known image adversary's embeddings. Pictures whose label is unknown take no part, as everywhere."""

    options = ConditionalOptions
    needs_adversary = True
    adversary_tap = "image"

    def __init__(self, options: Any, context: TermContext) -> None:
        super().__init__(options, context)
        assert isinstance(context.known, ImageAdversary)
        self.attribute_network = freeze(deepcopy(context.known))  # another term may have it, too
        self.size = context.known.network.tap_shapes["backbone"][0]

    def forward(
        self, features: Tensor, labels: Tensor, targets: Tensor, images: Tensor | None = None
    ) -> dict[str, Tensor]:
        assert images is not None
        with torch.no_grad():
            embeddings = self.attribute_network.embed(images).float()
        return self.losses(torch.cat([embeddings, self.view(features)], dim=1), labels, targets)

    def loss(self, values: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        embeddings, features = values.tensor_split([self.size], dim=1)
        return distance_correlation(features, embeddings, self.groups(targets))


def distance_correlation(features: Tensor, others: Tensor, groups: Tensor) -> Tensor:
    """dCov^2 / (dVar dVar) of features [B, D] and others [B, E], 0 to 1; 0 where one of them is constant.

    Distances are centred by the means of `groups` (one-hot [B, G]): one group is the distance correlation, the target's
    classes its conditional form.
    """
    return alignment(*(residuals(residuals(_distances(each), groups).T, groups) for each in (features, others)))


def _distances(values: Tensor) -> Tensor:
    """Euclidean distances [B, B] in units of their mean; of a point to itself without a gradient, which has none."""
    squared = squared_distances(values)
    near = squared <= 0.5e-6 * squared.mean()
    distances = torch.where(near, 1.0, squared).sqrt().masked_fill(near, 0.0)
    return distances / distances.detach().mean().clamp(min=1e-12)
