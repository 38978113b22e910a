"""The target network: backbone and head, giving logits and every tap an adversary may see."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from privatenet.models.arm import Affinity, ArmHead
from privatenet.models.backbones import BACKBONES, Backbone, build_backbone
from privatenet.models.errors import ModelError

Head = Literal["arm", "linear"]


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is made of, recorded in checkpoints; `image_size` is in pixels, pictures are square.

    Raises ModelError for a value that no network can have.
    """

    backbone: str = "resnet18"
    num_classes: int = 7
    image_size: int = 224
    head: Head = "arm"
    affinity: Affinity = "ema"

    def __post_init__(self) -> None:
        accepted = {"backbone": tuple(BACKBONES), "head": get_args(Head), "affinity": get_args(Affinity)}
        for field, values in accepted.items():
            if getattr(self, field) not in values:
                raise ModelError(f"{field} {getattr(self, field)!r} is unknown; accepted: {', '.join(values)}")
        for field, least in {"num_classes": 2, "image_size": 32}.items():
            if getattr(self, field) < least:
                raise ModelError(f"{field} {getattr(self, field)} is too small; accepted: {least} and up")

    @property
    def taps(self) -> tuple[str, ...]:
        return (*Backbone.taps, "arm") if self.head == "arm" else Backbone.taps


def build_network(spec: NetworkSpec, weights: str = "none") -> "Network":
    """The network of `spec`; `weights` initialise its backbone, see `build_backbone`."""
    return Network(spec, build_backbone(spec.backbone, weights))


class Network(nn.Module):
    """Pictures [B, 3, S, S] to logits [B, K] and all taps, by name; `tap_shapes` are those of one picture."""

    def __init__(self, spec: NetworkSpec, backbone: Backbone) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.taps = spec.taps
        self.tap_shapes = _map_shapes(backbone, spec.image_size)
        channels, height, width = self.tap_shapes["backbone"]
        if spec.head == "arm":
            self.head: ArmHead | LinearHead = ArmHead(channels, (height, width), spec.num_classes, spec.affinity)
            self.tap_shapes["arm"] = (self.head.num_features,)
        else:
            self.head = LinearHead(channels, spec.num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        taps = self.backbone(images)
        if isinstance(self.head, ArmHead):
            logits, taps["arm"] = self.head(taps["backbone"])
        else:
            logits = self.head(taps["backbone"])
        return logits, taps


class LinearHead(nn.Module):
    """A feature map [B, C, h, w] to logits [B, K]: its mean over all positions, then a linear layer."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


def check_tap(network: NetworkSpec | Network, tap: str) -> None:
    """Raises ModelError unless an adversary can look at `tap` of this network: one of its taps, or the picture."""
    accepted = ("image", *network.taps)
    if tap not in accepted:
        raise ModelError(f"tap {tap!r} is unknown; accepted: {', '.join(accepted)}")


def _map_shapes(backbone: Backbone, image_size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the backbone's maps for one picture, found on the meta device: no arithmetic, no statistics moved."""
    state = {key: tensor.to("meta") for key, tensor in backbone.state_dict().items()}
    picture = torch.empty(1, 3, image_size, image_size, device="meta")
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        maps = functional_call(backbone, state, picture)
    backbone.train(training)
    return {tap: tuple(features.shape[1:]) for tap, features in maps.items()}
