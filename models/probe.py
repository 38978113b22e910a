"""A probe in closed form: how much of an attribute a new linear adversary reads, measured the same way each time."""

import torch
import torch.nn.functional as F
from torch import Tensor

NUMBERS = 2048
RIDGE = 0.3


def explained_variance(features: Tensor, labels: Tensor, num_classes: int) -> float:
    """Share of the variance of one-hot `labels` int64 [N] that ridge regression on `features` [N, D] explains, 0 to 1.

    Fitted on every second sample and judged on the others, and the other way round, so that noise explains nothing;
    features are standardised, so that what hides in small ones counts. 0 where fewer than two classes occur.
    """
    targets = F.one_hot(labels, num_classes).double()
    wide = features.double()
    rows = torch.arange(len(labels), device=labels.device)
    residual = total = 0.0
    for fold in (0, 1):
        fitting, judging = rows[rows % 2 == fold], rows[rows % 2 != fold]
        mean, deviation = wide[fitting].mean(dim=0), wide[fitting].std(dim=0)
        scaled = (wide - mean) / deviation.clamp(min=1e-6 * float(deviation.max().clamp(min=1e-12)))
        kernel = scaled[fitting] @ scaled[fitting].T / scaled.shape[1]
        centre = targets[fitting].mean(dim=0)
        ridge = RIDGE * torch.eye(len(fitting), dtype=kernel.dtype, device=kernel.device)
        dual = torch.linalg.solve(kernel + ridge, targets[fitting] - centre)
        answers = centre + scaled[judging] @ (scaled[fitting].T @ dual) / scaled.shape[1]
        residual += float((targets[judging] - answers).square().sum())
        total += float((targets[judging] - centre).square().sum())
    return max(0.0, 1 - residual / total) if total else 0.0


def reduce_map(features: Tensor) -> Tensor:
    """Features [B, C, h, w] or [B, D] as at most about 2,048 numbers each, by averaging neighbouring positions."""
    if features.dim() == 2:
        return features.float()
    side = max(1, int((NUMBERS / features.shape[1]) ** 0.5))
    height, width = (min(side, size) for size in features.shape[2:])
    return F.adaptive_avg_pool2d(features.float(), (height, width)).flatten(1)
