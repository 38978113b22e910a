"""Adversaries: networks that predict a private attribute from what a tap shows."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from privatenet.models.arm import Affinity, ArmHead
from privatenet.models.backbones import Backbone
from privatenet.models.channel import NO_CHANNEL
from privatenet.models.errors import ModelError
from privatenet.models.network import Network, NetworkSpec, build_network, check_tap


@dataclass(frozen=True)
class Pair:
    """What an adversary looks at and what it is after."""

    tap: str
    attribute: str

    @property
    def name(self) -> str:
        return f"{self.tap}-{self.attribute}"

    @classmethod
    def parse(cls, name: str) -> "Pair":
        """The pair called `name`, such as "backbone-gender"; an attribute may contain further hyphens."""
        tap, _, attribute = name.partition("-")
        if not tap or not attribute:
            raise ModelError(f"pair {name!r} is malformed; accepted: TAP-ATTRIBUTE, such as backbone-gender")
        return cls(tap, attribute)


def build_adversary(
    network_spec: NetworkSpec,
    tap_shapes: Mapping[str, tuple[int, ...]],
    tap: str,
    num_classes: int,
    affinity: Affinity = "ema",
) -> nn.Module:
    """The paper's adversary on `tap`, giving logits [B, num_classes]: ARM on a map, a linear layer on a vector.

    On "image" it is the whole network of `network_spec`, on the picture. Raises ModelError for an unknown tap.
    """
    check_tap(network_spec, tap)
    if tap == "image":
        spec = replace(network_spec, num_classes=num_classes, affinity=affinity, channel=NO_CHANNEL)
        return ImageAdversary(build_network(spec))
    if len(shape := tap_shapes[tap]) == 1:
        return nn.Linear(shape[0], num_classes)
    channels, height, width = shape
    return ArmAdversary(ArmHead(channels, (height, width), num_classes, affinity))


def upper_part(network: Network, tap: str, num_classes: int) -> nn.Module:
    """What comes after `tap` in `network`, its weights copied, ending in a new linear layer: logits [B, num_classes].

    An adversary that starts from what the network has learnt. Raises ModelError for a tap that nothing follows but a
    linear layer.
    """
    taps, stages = Backbone.taps, list(Backbone.stages.values())
    if tap not in taps:
        raise ModelError(f"tap {tap!r} has no upper part to start from; accepted: {', '.join(taps)}")
    head = copy.deepcopy(network.head)
    head.linear = nn.Linear(head.linear.in_features, num_classes)
    stack = [copy.deepcopy(network.backbone.get_submodule(name)) for name in stages[taps.index(tap) + 1 :]]
    return nn.Sequential(*stack, ArmAdversary(head) if isinstance(head, ArmHead) else head).requires_grad_(True).train()


class ArmAdversary(nn.Module):
    """A feature map [B, C, h, w] to the private attribute's logits [B, K]."""

    def __init__(self, head: ArmHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor
        logits, _ = self.head(features)
        return logits


class ImageAdversary(nn.Module):
    """Pictures [B, 3, S, S] to the private attribute's logits [B, K]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.halves = network.backbone.takes(network.spec.image_size // 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor
        logits, _ = self.network(images)
        return logits

    def embed(self, images: Tensor) -> Tensor:
        """The means of the backbone's channels [B, C].

        Where it takes them, of pictures of half the size: a quarter of the cost.
        """
        smaller = F.avg_pool2d(images, 2) if self.halves else images
        maps: Tensor = self.network.backbone(smaller, lambda tap, features: features)
        return maps.mean(dim=(2, 3))
