"""Batch statistics and ranks: averaged before a network is evaluated or saved, or computed over all ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from privatenet.models.arm import BatchMean
from privatenet.models.freeze import is_frozen
from privatenet.models.objectives.term import Gather


def average_statistics(module: nn.Module) -> None:
    """Replace every running statistic in `module` by its mean over the ranks. All ranks call it."""
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not buffers or dist.get_world_size() == 1:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(flat)
    means = (flat / dist.get_world_size()).split([buffer.numel() for buffer in buffers])
    for buffer, mean in zip(buffers, means, strict=True):
        buffer.copy_(mean.view_as(buffer))


def synchronise_statistics(module: nn.Module) -> nn.Module:
    """Make BatchNorm and the amend module's batch mean in `module` use the samples of all ranks; returns `module`.

    What is frozen stays as it is. Unlike torch's SyncBatchNorm this works on CPUs too. Every rank must hold equally
    many samples.
    """
    for name, child in module.named_children():
        if is_frozen(child):
            continue
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, SyncBatchNorm(child))
        elif isinstance(child, BatchMean):
            setattr(module, name, SyncBatchMean())
        else:
            synchronise_statistics(child)
    return module


def gather_batches(module: nn.Module) -> nn.Module:
    """Give the terms in `module` that look at a whole batch the global one, of all ranks; returns `module`."""
    for name, child in module.named_children():
        if isinstance(child, Gather):
            setattr(module, name, GatherRanks())
        else:
            gather_batches(child)
    return module


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the pictures of all ranks, with `norm`'s parameters and statistics (the same tensors)."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        wide = input.float()
        mean = mean_over_ranks(wide.mean(dim=(0, 2, 3)))
        variance = mean_over_ranks((wide - mean[:, None, None]).square().mean(dim=(0, 2, 3)))
        count = dist.get_world_size() * input.numel() // input.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return ((wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class SyncBatchMean(BatchMean):
    """The amend module's mean over batch and channels, over the batches of all ranks."""

    def forward(self, features: Tensor) -> Tensor:
        return mean_over_ranks(super().forward(features))


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of `value` over the ranks, differentiable: its gradient is the mean of the ranks' gradients."""
    return _MeanOverRanks.apply(value)  # type: ignore[no-any-return]


class _MeanOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total / dist.get_world_size()


class GatherRanks(Gather):
    """The batches [B, ...] of all ranks, one after another [ranks x B, ...]; every rank holds equally many.

    Every rank then computes the same loss, so the gradient of a rank's own batch is that of the loss times the ranks:
    averaged over ranks, as gradients are, it is the global batch's.
    """

    def forward(self, values: Tensor) -> Tensor:
        gathered: Tensor = _GatherRanks.apply(values)
        return gathered


class _GatherRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        batches = [
            torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())
        ]
        dist.all_gather(batches, values.contiguous())
        return torch.cat(batches)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()
