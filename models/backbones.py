"""Backbones: image classifiers without their classifier, cut into the stages that an onlooker may tap."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from privatenet.models.cuts import cut_network
from privatenet.models.errors import ModelError, reason
from privatenet.models.tracing import on_meta
from privatenet.models.weights import backbone_weights
from privatenet.models.zoo import build_classifier


def build_backbone(name: str, weights: str = "none", image_size: int = 224) -> "Backbone":
    """The backbone called `name`, initialised as `weights` says: "none", "imagenet" or a local weight file.

    Where it takes pictures of one size only, it is built for `image_size`. Raises ModelError for an unknown name, for a
    size or a network that is not possible, and for weights that cannot be had or do not fit.
    """
    backbone = Backbone(name, image_size)
    if weights != "none":
        backbone.load_state_dict(initial_weights(backbone, weights))
    return backbone


def initial_weights(backbone: "Backbone", weights: str) -> dict[str, Tensor]:
    """A state_dict of `backbone` from "imagenet" or a local weight file; ModelError where it cannot be had."""
    return backbone_weights(backbone.name, backbone.state_dict(), backbone.published_names, weights)


class Backbone(nn.Module):
    """A picture [B, 3, H, W] to its feature maps, one [B, C, h, w] at every tap.

    `stages` maps each tap to the submodule that it is the output of, in order; each computes the next map from the last
    one alone. `published_names` maps each key of the classifier's state_dict to ours, so that published weight files
    fit, or to None where it belongs to what the backbone leaves out.
    """

    stages: ClassVar = {**{f"layer{n}": f"layer{n}" for n in range(1, 5)}, "backbone": "last"}
    taps = tuple(stages)

    def __init__(self, name: str, image_size: int = 224) -> None:
        super().__init__()
        self.name = name
        classifier = build_classifier(name, image_size)
        stages = cut_network(name, classifier)
        self.stem = stages["stem"]
        self.layer1, self.layer2, self.layer3, self.layer4 = (stages[f"layer{n}"] for n in range(1, 5))
        self.last = stages["last"]
        ours = {id(tensor): key for key, tensor in self.state_dict(keep_vars=True).items()}
        theirs = classifier.network.state_dict(keep_vars=True)
        self.published_names = {key: ours.get(id(tensor)) for key, tensor in theirs.items()}

    def forward(self, images: Tensor, send: Callable[[str, Tensor], Tensor]) -> Tensor:
        """The last tap's map; `send(tap, features)` gets every tap's, and what it returns goes on."""
        features: Tensor = self.stem(images)
        for tap, stage in self.stages.items():
            features = send(tap, self.get_submodule(stage)(features))
        return features

    def shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the maps of one picture. Raises ModelError for a size that the network does not take."""
        shapes: dict[str, tuple[int, ...]] = {}

        def note(tap: str, features: Tensor) -> Tensor:
            shapes[tap] = tuple(features.shape[1:])
            return features

        try:
            on_meta(self, torch.empty(1, 3, image_size, image_size, device="meta"), note)
        except Exception as error:  # any network says in its own way what it does not take
            message = f"backbone {self.name!r} does not take pictures of {image_size} px: {reason(error)}"
            raise ModelError(message) from error
        return shapes

    def takes(self, image_size: int) -> bool:
        """Whether pictures of this size are possible."""
        try:
            self.shapes(image_size)
        except ModelError:
            return False
        return True
