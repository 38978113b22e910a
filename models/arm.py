"""The ARM head: amend module (Shi and Zhu, arXiv 2103.10189) and linear classifier on a feature map."""

import copy
import math
from typing import Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privatenet.models.errors import ModelError

Affinity = Literal["batch", "ema", "none"]
"""Whose mean amends a picture's features: its batch's (the paper's), in evaluation a running one, or nobody's."""

Module = TypeVar("Module", bound=nn.Module)

_MOMENTUM = 0.1  # of the running affinity; BatchNorm's


class ArmHead(nn.Module):
    """A feature map [B, C, h, w] to logits [B, K] and the amend module's output [B, (2h-3)(2w-3)], the tap `arm`.

    Pixel shuffle by 16; one 32x32 convolution of stride 8 shared by all channels; BatchNorm; then the mean over
    channels plus alpha times the mean over batch and channels; a linear layer. Maps whose channels are not a multiple
    of 256 are first projected to 512 channels. With affinity "batch" a picture's output depends on its neighbours,
    in evaluation too; "ema" follows the batches' mean as BatchNorm does, and uses that in evaluation.
    Raises ModelError for an unknown affinity or a map smaller than 2x2.
    """

    running_affinity: Tensor

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, affinity: Affinity = "ema") -> None:
        super().__init__()
        height, width = size
        if affinity not in get_args(Affinity):
            raise ModelError(f"affinity {affinity!r} is unknown; accepted: {', '.join(get_args(Affinity))}")
        if min(size) < 2:
            raise ModelError(
                f"a map of {height}x{width} is too small for ARM; accepted: 2x2 and up, "
                "which means pictures of 64 px and up where the backbone divides their size by 32"
            )
        self.affinity = affinity
        self.num_features = (2 * height - 3) * (2 * width - 3)
        fits = channels % 256 == 0
        self.projection = nn.Identity() if fits else nn.Conv2d(channels, 512, kernel_size=1, bias=False)
        self.kernel = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(1, 1, 32, 32), a=math.sqrt(5)))
        self.norm = nn.BatchNorm2d((channels if fits else 512) // 256)
        if affinity != "none":
            self.alpha = nn.Parameter(torch.ones(1))
            self.batch_mean: nn.Module = BatchMean()
        if affinity == "ema":
            self.register_buffer("running_affinity", torch.zeros(1, 1, 2 * height - 3, 2 * width - 3))
        self.linear = nn.Linear(self.num_features, num_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        arm = self.amend(features)
        return self.linear(arm), arm

    def amend(self, features: Tensor) -> Tensor:
        """The tap `arm` of a feature map."""
        maps = _shuffle_and_convolve(self.projection(features), self.kernel)
        # Under autocast the convolution is bf16; what follows is tiny and stays in the parameters' own precision.
        maps = self.norm(maps.to(self.norm.weight.dtype))
        return self._add_mean(maps).flatten(1)

    def _add_mean(self, maps: Tensor) -> Tensor:
        single = maps.mean(dim=1, keepdim=True)
        if self.affinity == "none":
            return single
        if self.affinity == "ema" and not self.training:
            return single + self.alpha * self.running_affinity
        shared: Tensor = self.batch_mean(maps)
        if self.affinity == "ema":
            moved = torch.lerp(self.running_affinity, shared.detach(), _MOMENTUM)
            self.running_affinity.copy_(moved)  # and not lerp_, which vmap cannot batch
        return single + self.alpha * shared


class BatchMean(nn.Module):
    """Mean of [B, C, H, W] over batch and channels, [1, 1, H, W]; a module, so that another can replace it."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(0, 1), keepdim=True)


class OwnMean(nn.Module):
    """What `BatchMean` is for a batch of one picture, for each of [B, C, H, W] alone: [B, 1, H, W]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=1, keepdim=True)


def one_by_one(module: Module) -> Module:
    """A copy of `module` that answers for each picture as if it came alone, also where the affinity is "batch"."""
    alone = copy.deepcopy(module)
    for each in alone.modules():
        if isinstance(each, ArmHead) and each.affinity == "batch":
            each.batch_mean = OwnMean()
    return alone


def _shuffle_and_convolve(features: Tensor, kernel: Tensor) -> Tensor:
    """`conv2d(pixel_shuffle(features, 16), kernel, stride=8)` on each channel alone, [B, C/256, 2h-3, 2w-3].

    Computed as a 4x4 convolution of stride 1: with every 8x8 block of the shuffled picture as 64 channels, shuffling
    by 16 is a permutation of channels and a shuffle by 2. As written above, bf16 takes 100 times as long on a CPU.
    """
    batch, channels, height, width = features.shape
    groups = channels // 256
    # A channel's index is (group, row of the block, row in the block, column of the block, column in the block).
    blocks = features.reshape(batch, groups, 2, 8, 2, 8, height, width).permute(0, 1, 6, 2, 7, 4, 3, 5)
    picture = blocks.reshape(batch * groups, 2 * height, 2 * width, 64).permute(0, 3, 1, 2)
    weight = kernel.reshape(4, 8, 4, 8).permute(1, 3, 0, 2).reshape(1, 64, 4, 4)
    return F.conv2d(picture, weight).reshape(batch, groups, 2 * height - 3, 2 * width - 3)
