"""Channels: what a trusted device sends of its features, where the rest of the network is in the open.

What is sent bounds what anybody can learn: noise of a known size on features of bounded length, or one of a few codes.
A channel is a part of the network, in training and in use, so that what comes after it learns to live with it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privatenet.models.errors import ModelError

CENTRE, RELEASE = "centre", "release"
"""The taps of a network with a channel: bounded features before noise or coding, and what is sent of them."""

ChannelKind = Literal["none", "noise", "codebook"]


@dataclass(frozen=True)
class ChannelSpec:
    """What is sent where a trusted device computes the network up to a tap, and the rest is in the open.

    Args:
        kind: noise (the features, not longer than `norm`, and Gaussian noise), codebook (the nearest of `codes` learnt
            vectors), or none: nothing is changed.
        at: The tap that is sent in place of its features: layer1 to layer4, backbone, arm, or logits (the head's
            numbers without their mean: the narrowest that still answers).
        norm: Largest Euclidean length of a picture's features; longer ones are scaled down.
        sigma: Standard deviation of the noise, for each number.
        codes: How many codes there are.
    """

    kind: ChannelKind = "none"
    at: str = "logits"
    norm: float = 12.0
    sigma: float = 1.0
    codes: int = 8

    def __post_init__(self) -> None:
        if self.kind not in get_args(ChannelKind):
            raise ModelError(f"channel.kind {self.kind!r} is unknown; accepted: {', '.join(get_args(ChannelKind))}")
        for field in ("norm", "sigma"):
            if not 0 < getattr(self, field) < math.inf:
                raise ModelError(f"channel.{field} {getattr(self, field)} is not accepted; accepted: above 0")
        if not 2 <= self.codes <= 4096:
            raise ModelError(f"channel.codes {self.codes} is not accepted; accepted: 2 to 4096")

    @classmethod
    def of(cls, values: "ChannelSpec | Mapping[str, Any]") -> "ChannelSpec":
        """The specification itself, or from its plain values."""
        return values if isinstance(values, ChannelSpec) else cls(**values)


NO_CHANNEL = ChannelSpec()


def build_channel(spec: ChannelSpec, shape: tuple[int, ...]) -> "Channel":
    """The channel of `spec` for features of `shape`, those of one picture. Raises ModelError where there is none."""
    kinds: dict[ChannelKind, type[Channel]] = {"noise": NoiseChannel, "codebook": Codebook}
    if spec.kind not in kinds:
        raise ModelError(f"channel.kind {spec.kind!r} sends nothing; accepted: {', '.join(kinds)}")
    return kinds[spec.kind](spec, shape)


class Channel(nn.Module):
    """Features [B, ...] to what is sent of them, of the same shape: `forward` sends what `bound` has made of them."""

    def __init__(self, spec: ChannelSpec, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec

    def bound(self, features: Tensor) -> Tensor:
        """Features in single precision, each picture's no longer than the channel's norm; logits without their mean."""
        features = features.float()
        if self.spec.at == "logits":
            features = features - features.mean(dim=1, keepdim=True)
        length = features.flatten(1).norm(dim=1).view(-1, *[1] * (features.dim() - 1))
        bounded: Tensor = features * (self.spec.norm / length.clamp(min=self.spec.norm))
        return bounded

    def forward(self, bounded: Tensor) -> Tensor:
        raise NotImplementedError


class NoiseChannel(Channel):
    """Gaussian noise, drawn anew for every release, in evaluation too: the Gaussian mechanism."""

    def forward(self, bounded: Tensor) -> Tensor:
        return bounded + self.spec.sigma * torch.randn_like(bounded)


class Codebook(Channel):
    """The nearest of k learnt codes (van den Oord et al., "Neural discrete representation learning", NeurIPS 2017).

    The gradient of what follows moves the code that was sent, and passes straight through to the features. On logits
    the first codes begin as the plain answers, one for each class.
    """

    def __init__(self, spec: ChannelSpec, shape: tuple[int, ...]) -> None:
        super().__init__(spec, shape)
        numbers = math.prod(shape)
        codes = torch.randn(spec.codes, numbers, generator=torch.Generator().manual_seed(0))
        if spec.at == "logits":
            answers = torch.eye(numbers)[: spec.codes] - 1 / numbers
            codes[: len(answers)] = answers
        self.codes = nn.Parameter(spec.norm / 2 * F.normalize(codes, dim=1))

    def choose(self, bounded: Tensor) -> Tensor:
        """The number of each picture's code, int64 [B]."""
        return torch.cdist(bounded.flatten(1).float(), self.codes.float()).argmin(dim=1)

    def forward(self, bounded: Tensor) -> Tensor:
        code = self.codes[self.choose(bounded)].view_as(bounded)
        return code + (bounded - bounded.detach())
