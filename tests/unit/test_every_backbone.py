"""Every classifier of torchvision is cut at four resolutions, and nothing of it is lost; without arithmetic."""

import pytest
import torch
import torchvision
from without_memory import WithoutMemory

from privatenet.models.cuts import cut_network
from privatenet.models.tracing import on_meta
from privatenet.models.zoo import build_classifier


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_torchvision_classifier_is_cut_at_four_resolutions_and_loses_nothing(name: str) -> None:
    with WithoutMemory():
        classifier = build_classifier(name, 224)
    stages = cut_network(name, classifier)
    assert list(stages) == ["stem", "layer1", "layer2", "layer3", "layer4", "last", "rest"]
    parts = {id(each) for stage in stages.values() for each in stage.parameters()}
    assert parts == {id(each) for each in classifier.network.parameters()}

    shapes = []
    features = torch.empty(2, 3, 224, 224, device="meta")
    for stage in stages.values():
        features = on_meta(stage, features)
        shapes.append(tuple(features.shape[1:]))
    assert shapes.pop() == (1000,)
    strides = [4, 8, 16, 32, 32]
    if name.startswith("vit_"):
        strides = [int(name.rpartition("_")[2])] * 5
    if name.startswith("squeezenet"):
        strides = [2, 4, 8, 16, 16]
    for (channels, height, width), stride in zip(shapes[1:], strides, strict=True):
        assert channels >= 16
        assert height == width
        assert 0.7 < height * stride / 224 <= 1, "valid convolutions lose some of the border"
