"""Backbones: torchvision's networks without their classifier, cut into the stages an onlooker may tap."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import torchvision
from torch import Tensor, nn

from privatenet.models.errors import ModelError
from privatenet.models.weights import backbone_weights


def build_backbone(name: str, weights: str = "none") -> "Backbone":
    """The backbone called `name`, initialised as `weights` says: "none", "imagenet" or a local weight file.

    Raises ModelError for an unknown name and for weights that cannot be had or do not fit.
    """
    if name not in BACKBONES:
        raise ModelError(f"backbone {name!r} is unknown; accepted: {', '.join(BACKBONES)}")
    backbone = Backbone(name)
    if weights != "none":
        backbone.load_state_dict(initial_weights(backbone, weights))
    return backbone


def initial_weights(backbone: "Backbone", weights: str) -> dict[str, Tensor]:
    """A state_dict of `backbone` from "imagenet" or a local weight file; ModelError where it cannot be had."""
    return backbone_weights(backbone.name, backbone.state_dict(), backbone.torchvision_names, weights)


class Backbone(nn.Module):
    """A picture [B, 3, H, W] to its feature maps, one [B, C, h, w] at every tap.

    `stages` maps each tap to the submodule that it is the output of, in order. `torchvision_names` maps each of our
    state_dict's keys to torchvision's, so that published weight files fit.
    """

    stages: ClassVar = {**{f"layer{n}": f"layer{n}" for n in range(1, 5)}, "backbone": "last"}
    taps = tuple(stages)

    def __init__(self, name: str) -> None:
        super().__init__()
        network = torchvision.models.get_model(name, weights=None)
        stages = BACKBONES[name](network)
        self.name = name
        self.stem, self.layer1, self.layer2, self.layer3, self.layer4 = stages[:5]
        self.last = stages[5] if len(stages) == 6 else nn.Identity()
        *_, classifier = network.children()
        self.channels = next(each.in_features for each in classifier.modules() if isinstance(each, nn.Linear))
        theirs = {id(tensor): key for key, tensor in network.state_dict(keep_vars=True).items()}
        ours = self.state_dict(keep_vars=True)
        self.torchvision_names = {key: theirs[id(tensor)] for key, tensor in ours.items()}

    def forward(self, images: Tensor, send: Callable[[str, Tensor], Tensor]) -> Tensor:
        """The last tap's map; `send(tap, features)` gets every tap's, and what it returns goes on."""
        features: Tensor = self.stem(images)
        for tap, stage in self.stages.items():
            features = send(tap, self.get_submodule(stage)(features))
        return features


Cut = Callable[[nn.Module], list[nn.Module]]
"""A torchvision network to its stages: stem, layer1 to layer4 and, where it has one, the convolution after them."""


def _resnet(network: nn.Module) -> list[nn.Module]:
    stem = OrderedDict((name, network.get_submodule(name)) for name in ("conv1", "bn1", "relu", "maxpool"))
    return [nn.Sequential(stem), *(network.get_submodule(f"layer{n}") for n in range(1, 5))]


def _features_at(*starts: int) -> Cut:
    """Cuts `network.features` where each stage after the stem starts: a new stage begins where the map is halved."""

    def cut(network: nn.Module) -> list[nn.Module]:
        features = network.get_submodule("features")
        assert isinstance(features, nn.Sequential)
        return [features[start:stop] for start, stop in pairwise((0, *starts, len(features)))]

    return cut


BACKBONES: dict[str, Cut] = {
    "resnet18": _resnet,
    "resnet50": _resnet,
    "mobilenet_v3_large": _features_at(2, 4, 7, 13, 16),
    "efficientnet_b0": _features_at(2, 3, 4, 6, 8),
    "convnext_tiny": _features_at(1, 2, 4, 6),
}
