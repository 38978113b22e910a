"""Channels: what a trusted device sends of its features, where the rest of the network is in the open.

What is sent bounds what anybody can learn: noise of a known size on features of bounded length, or one of a few codes.
A channel is a part of the network, in training and in use, so that what comes after it learns to live with it. One of
few numbers is narrow at whatever tap: a linear layer makes them of the features, another one features of them.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privatenet.models.erasure import Erasure
from privatenet.models.errors import ModelError

CENTRE, RELEASE = "centre", "release"
"""The taps of a network with a channel: bounded features before noise or coding, and what is sent of them."""

ChannelKind = Literal["none", "noise", "codebook", "plain", "quantised"]

SETTINGS: dict[ChannelKind, tuple[str, ...]] = {
    "none": (),
    "noise": ("at", "numbers", "norm", "sigma"),
    "codebook": ("at", "numbers", "norm", "codes"),
    "plain": ("at", "numbers", "norm", "sigma"),
    "quantised": ("at", "numbers", "norm", "step", "sigma"),
}
"""Which settings mean something, by kind."""


@dataclass(frozen=True)
class ChannelSpec:
    """What is sent where a trusted device computes the network up to a tap, and the rest is in the open.

    Args:
        kind: noise (the features, not longer than `norm`, and Gaussian noise), codebook (the nearest of `codes` learnt
            vectors), plain (the features, not longer than `norm`: nothing random), quantised (the same on a grid, where
            what follows computes in a coarse format), or none: nothing is changed.
        at: The tap that is sent in place of its features: layer1 to layer4, backbone, arm, or logits (the head's
            numbers without their mean: the narrowest that still answers).
        norm: Largest Euclidean length of a picture's features; longer ones are scaled down.
        sigma: Standard deviation of the noise, for each number; of plain and quantised, which have none, that of the
            objective `mixture` alone: how near two pictures are alike to it.
        codes: How many codes there are.
        numbers: How many numbers are sent, which a linear layer makes of the tap's features and another one turns into
            features again for what follows; 0 sends the features themselves.
        step: Of the grid of quantised.
        erase: Private attributes, such as [gender], that no linear map shall find in what is sent: fitted to the faces
            that the network learnt from once it is trained (LEACE). Of few numbers only: at logits, or with numbers.
    """

    kind: ChannelKind = "none"
    at: str = "logits"
    norm: float = 12.0
    sigma: float = 1.0
    codes: int = 8
    numbers: int = 0
    step: float = 1.0
    erase: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.kind not in get_args(ChannelKind):
            raise ModelError(f"channel.kind {self.kind!r} is unknown; accepted: {', '.join(get_args(ChannelKind))}")
        for name in ("norm", "sigma", "step"):
            if not (isinstance(value := getattr(self, name), int | float) and 0 < value < math.inf):
                raise ModelError(f"channel.{name} {value} is not accepted; accepted: above 0")
        for name, (low, high) in {"codes": (2, 4096), "numbers": (0, 512)}.items():
            if not (isinstance(value := getattr(self, name), int) and low <= value <= high):
                raise ModelError(f"channel.{name} {value} is not accepted; accepted: {low} to {high}")
        if self.numbers and self.at == "logits":
            raise ModelError(f"channel.numbers {self.numbers} is not accepted at logits, which are few; accepted: 0")
        if self.erase and not (self.sends and (self.numbers or self.at == "logits")):
            raise ModelError(
                f"channel.erase {', '.join(self.erase)} is not accepted with channel.kind {self.kind} at {self.at}, "
                "numbers 0; accepted: where a channel sends few numbers, by channel.numbers or at logits"
            )

    @property
    def sends(self) -> bool:
        """Whether there is a channel at all."""
        return self.kind != "none"

    @classmethod
    def of(cls, values: "ChannelSpec | Mapping[str, Any]") -> "ChannelSpec":
        """The specification itself, or from its plain values."""
        return values if isinstance(values, ChannelSpec) else cls(**values)


NO_CHANNEL = ChannelSpec()


def build_channel(spec: ChannelSpec, shape: tuple[int, ...]) -> "Channel":
    """The channel of `spec` for features of `shape`, those of one picture. Raises ModelError where there is none."""
    kinds: dict[ChannelKind, type[Channel]] = {
        "noise": NoiseChannel, "codebook": Codebook, "plain": Channel, "quantised": Quantiser
    }  # fmt: skip
    if spec.kind not in kinds:
        raise ModelError(f"channel.kind {spec.kind!r} sends nothing; accepted: {', '.join(kinds)}")
    return kinds[spec.kind](spec, shape)


class Channel(nn.Module):
    """Features [B, *shape] to what is sent of them: `forward` sends what `bound` has made of them, as it is.

    What is sent is of `sent_shape`; `decode` makes features of it again, for the rest of the network.
    """

    def __init__(self, spec: ChannelSpec, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec
        self.sent_shape = (spec.numbers,) if spec.numbers else shape
        if spec.numbers:
            self.encoder, self.decoder = _linear_layers(spec, shape)
        if spec.erase:
            self.erasure = Erasure(self.sent_shape[0])

    def bound(self, features: Tensor) -> Tensor:
        """Features, or numbers, in single precision, not longer than the norm by picture; logits without their mean.

        What shall be erased from them is, once that has been fitted: some may then be a little longer.
        """
        features = (self.encoder(features) if self.spec.numbers else features).float()
        if self.spec.at == "logits":
            features = features - features.mean(dim=1, keepdim=True)
        length = features.flatten(1).norm(dim=1).view(-1, *[1] * (features.dim() - 1))
        bounded: Tensor = features * (self.spec.norm / length.clamp(min=self.spec.norm))
        return self.erasure(bounded) if self.spec.erase else bounded

    def forward(self, bounded: Tensor) -> Tensor:
        return bounded

    def decode(self, release: Tensor) -> Tensor:
        """Features [B, *shape] for what comes after the tap."""
        decoded: Tensor = self.decoder(release) if self.spec.numbers else release
        return decoded


class NoiseChannel(Channel):
    """Gaussian noise, drawn anew for every release, in evaluation too: the Gaussian mechanism.

    `draw` gives standard Gaussian numbers like a tensor: torch's, alike for a seed, unless it is given another one.
    """

    def __init__(self, spec: ChannelSpec, shape: tuple[int, ...]) -> None:
        super().__init__(spec, shape)
        self.draw: Callable[[Tensor], Tensor] = torch.randn_like

    def forward(self, bounded: Tensor) -> Tensor:
        return bounded + self.spec.sigma * self.draw(bounded)


class Codebook(Channel):
    """The nearest of k learnt codes (van den Oord et al., "Neural discrete representation learning", NeurIPS 2017).

    The gradient of what follows moves the code that was sent, and passes straight through to the features. On logits
    the first codes begin as the plain answers, one for each class.
    """

    def __init__(self, spec: ChannelSpec, shape: tuple[int, ...]) -> None:
        super().__init__(spec, shape)
        numbers = math.prod(self.sent_shape)
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


class Quantiser(Channel):
    """The nearest point of a grid; the gradient passes straight through."""

    def forward(self, bounded: Tensor) -> Tensor:
        grid = (bounded.detach() / self.spec.step).round() * self.spec.step
        return grid + (bounded - bounded.detach())


def draw_noise_by(draw: Callable[[Tensor], Tensor], network: nn.Module) -> None:
    """Have the noise of a network's channel, where it has such a one, drawn by `draw` from now on."""
    for module in network.modules():
        if isinstance(module, NoiseChannel):
            module.draw = draw


def secret_noise(like: Tensor) -> Tensor:
    """Standard Gaussian numbers of the shape of `like`, each from 52 bits of the operating system's generator, which
    nobody can follow."""
    bits = torch.frombuffer(bytearray(os.urandom(8 * like.numel())), dtype=torch.int64) & (2**52 - 1)
    uniform = (bits.double() + 0.5) * 2**-52  # exact, and never 0 or 1
    noise: Tensor = torch.special.ndtri(uniform).view(like.shape).to(like)
    return noise


def _linear_layers(spec: ChannelSpec, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """Features [B, *shape] to numbers [B, d] whose lengths are about half the norm, and back.

    At first the numbers are orthogonal sums over the channels of the map, or of its coarsest parts where they are more:
    features next to each other are alike, so that such sums hold most. Features of a rectifier have a large mean, which
    tells nothing and would take up the norm: hence the batch normalisation, in evaluation a linear map like the rest.
    The decoder begins as the encoder's transpose, its features about 1 in size, as what follows expects them.
    """
    channels, *size = (*shape, 1, 1)[:3]
    parts = min(*size, math.ceil(math.sqrt(spec.numbers / channels)))
    basis = torch.empty(spec.numbers, channels * parts**2)
    nn.init.orthogonal_(basis, generator=torch.Generator().manual_seed(0))
    rows = F.interpolate(basis.view(-1, channels, parts, parts), tuple(size)).flatten(1)
    linear, norm = nn.Linear(rows.shape[1], spec.numbers, bias=False), nn.BatchNorm2d(spec.numbers)
    back = nn.Linear(spec.numbers, rows.shape[1])
    with torch.no_grad():
        linear.weight.copy_(rows)
        norm.weight.fill_(spec.norm / 2 / math.sqrt(spec.numbers))
        back.weight.copy_(rows.T * (2 * math.sqrt(basis.shape[1]) / spec.norm))
        back.bias.zero_()
    encoder = nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, (-1, 1, 1)), norm, nn.Flatten())
    return encoder, nn.Sequential(back, nn.Unflatten(1, shape))
