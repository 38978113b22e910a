"""Exact figures over ranks: counts are summed where they arise and reduced once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

SPIKE_AFTER = 10
"""How many steps of an epoch make a mean that a loss is compared with."""


@dataclass(frozen=True)
class Score:
    """How well one classifier does on one attribute, over the `samples` whose label is known.

    `balanced_accuracy` is the mean recall over the classes that occur, `majority` the accuracy of always answering the
    most frequent class of these samples.
    """

    accuracy: float
    balanced_accuracy: float
    majority: float
    cross_entropy: float
    samples: int


class Tally:
    """Sums confusion counts and cross-entropy of several classifiers on the device; `scores` reduces over the ranks."""

    def __init__(self, num_classes: Mapping[str, int], device: torch.device) -> None:
        self.counts = {name: torch.zeros(k, k, dtype=torch.int64, device=device) for name, k in num_classes.items()}
        self.losses = {name: torch.zeros((), dtype=torch.float64, device=device) for name in num_classes}

    def add(self, name: str, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits [B, K], labels int64 [B] with -1 where unsure."""
        cells = (labels * logits.shape[1] + logits.argmax(dim=1)).clamp(min=0)
        self.counts[name].view(-1).index_add_(0, cells, (labels >= 0).long())  # without a wait for the device
        self.losses[name] += F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")

    def scores(self) -> dict[str, Score]:
        """Reduce over all ranks, which all call it together."""
        flat = torch.cat([counts.flatten() for counts in self.counts.values()])
        losses = torch.stack(list(self.losses.values()))
        dist.all_reduce(flat)
        dist.all_reduce(losses)
        sizes = [counts.numel() for counts in self.counts.values()]
        matrices = [
            matrix.view(counts.shape) for matrix, counts in zip(flat.split(sizes), self.counts.values(), strict=True)
        ]
        return {
            name: score(matrix.cpu(), float(loss))
            for name, matrix, loss in zip(self.counts, matrices, losses, strict=True)
        }


def score(confusion: Tensor, cross_entropy_sum: float) -> Score:
    """Figures of a confusion matrix [true, predicted]; all zero where it is empty."""
    support, right = confusion.sum(dim=1), confusion.diagonal()
    samples = int(support.sum())
    if samples == 0:
        return Score(0.0, 0.0, 0.0, 0.0, 0)
    present = support > 0
    return Score(
        accuracy=float(right.sum() / samples),
        balanced_accuracy=float((right[present] / support[present]).mean()),
        majority=float(support.max() / samples),
        cross_entropy=cross_entropy_sum / samples,
        samples=samples,
    )


class LossMeans:
    """Means over an epoch of a step's losses, kept on the device as sum and count; `means` reduces over the ranks."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            pair = torch.stack([loss.double(), torch.ones_like(loss, dtype=torch.float64)])
            self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def without_spike(self, loss: Tensor, factor: float) -> Tensor:
        """`loss`; infinite where it is further above this rank's mean than `factor` times that mean's size."""
        total, count = self.sums["loss"]
        mean = total / count
        spike = (loss - mean > factor * mean.abs()) & (count >= SPIKE_AFTER)
        return torch.where(spike, torch.inf, loss)

    def means(self) -> dict[str, float]:
        """Means over steps and ranks; all ranks call it together."""
        names = sorted(self.sums, key=lambda name: (name != "loss", name))
        if not names:
            return {}
        total = torch.stack([self.sums[name] for name in names])
        dist.all_reduce(total)
        values: Iterable[float] = (total[:, 0] / total[:, 1]).tolist()
        return dict(zip(names, values, strict=True))
