"""A queue of past samples, for a term whose batch alone is too few to tell anything by."""

import torch
from torch import Tensor, nn


class Queue(nn.Module):
    """The newest `size` samples: values [size, *shape], and their labels and targets, -1 where there is no sample yet.

    Going on with training needs it, and a finished network is kept without it: it holds features of training samples.
    """

    values: Tensor
    labels: Tensor
    targets: Tensor

    def __init__(self, size: int, *shape: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(size, *shape))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("targets", torch.full((size,), -1))

    def forward(self, values: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The queue's samples, then the batch's, which the queue takes in, detached."""
        joined = (
            torch.cat([self.values, values]),
            torch.cat([self.labels, labels]),
            torch.cat([self.targets, targets]),
        )
        size = len(self.labels)
        with torch.no_grad():
            for buffer, tensor in zip((self.values, self.labels, self.targets), joined, strict=True):
                buffer.copy_(tensor[len(tensor) - size :])
        return joined
