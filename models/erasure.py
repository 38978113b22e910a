"""Linear erasure of attributes from a few numbers: LEACE (Belrose et al., "LEACE: Perfect linear concept erasure in
closed form", NeurIPS 2023). No linear map finds them afterwards; other maps may, and so may new faces, a little."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TINY_VARIANCE = 1e-12
"""Of the largest: a direction that varies less is rounding, as that of the mean of logits which have none."""
TINY_CORRELATION = 1e-7


class Erasure(nn.Module):
    """An affine map of numbers [B, d], each picture's by itself: at first, and until it is fitted, none."""

    matrix: Tensor
    offset: Tensor

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(numbers))
        self.register_buffer("offset", torch.zeros(numbers))

    def forward(self, numbers: Tensor) -> Tensor:
        with torch.autocast(numbers.device.type, enabled=False):
            return F.linear(numbers, self.matrix, self.offset)


def moments(numbers: Tensor, labels: Sequence[Tensor], classes: Sequence[int]) -> Tensor:
    """The sum over samples of r r', r = (1, numbers, one-hot labels), float64 [1 + d + K, 1 + d + K].

    `numbers` are [B, d]; `labels`, int64 [B] with -1 where unknown, and `classes` are by attribute, K classes in all.
    """
    one_hot = [F.one_hot(each + 1, count + 1)[:, 1:] for each, count in zip(labels, classes, strict=True)]
    rows = torch.cat([torch.ones_like(numbers[:, :1]), numbers, *one_hot], dim=1).double()
    return rows.T @ rows


def leace(total: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Matrix [d, d] and offset [d], float64, of the smallest change of the numbers after which no linear map of them
    tells any of the attributes, by their `moments`: x - W+ P W (x - mean), W whitening, P onto W cov(x, labels).

    An attribute's covariances are those of the samples whose label is known; the mean and W are of all.
    """
    count, sums = total[0, 0], total[0, 1 : len(total) - sum(classes)]
    numbers = len(sums)
    mean = sums / count
    covariance = total[1 : numbers + 1, 1 : numbers + 1] / count - mean.outer(mean)
    shared = []
    for block in total[: numbers + 1, numbers + 1 :].split(list(classes), dim=1):
        sizes, by_class = block[0], block[1:]
        known = sizes.sum().clamp(min=1)
        shared.append(by_class / known - (by_class.sum(dim=1) / known).outer(sizes / known))
    variances, directions = torch.linalg.eigh(covariance)
    kept = variances > TINY_VARIANCE * variances.max()
    scales, directions = variances[kept].sqrt(), directions[:, kept]
    telling, correlations, _ = torch.linalg.svd((directions / scales).T @ torch.cat(shared, dim=1), full_matrices=False)
    telling = telling[:, correlations > TINY_CORRELATION]
    matrix = (
        torch.eye(numbers, dtype=total.dtype) - (directions * scales) @ telling @ telling.T @ (directions / scales).T
    )
    return matrix, mean - matrix @ mean
