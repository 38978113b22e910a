"""One of every family of classifiers, cut into stages: what it computes, in training too, stays what it was."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings
from without_memory import WithoutMemory

from privatenet.models.adversary import ImageAdversary, upper_part
from privatenet.models.backbones import Backbone, build_backbone
from privatenet.models.channel import RELEASE, ChannelSpec
from privatenet.models.cuts import cut_network
from privatenet.models.errors import ModelError
from privatenet.models.freeze import freeze
from privatenet.models.layouts import from_map, to_map
from privatenet.models.network import Network, NetworkSpec, build_network
from privatenet.models.zoo import Classifier, build_classifier, check_name

COMPUTED = {
    "alexnet": 64, "convnext_tiny": 64, "densenet121": 64, "efficientnet_b0": 64, "efficientnet_v2_s": 64,
    "googlenet": 64, "inception_v3": 96, "maxvit_t": 224, "mnasnet0_5": 64, "mobilenet_v2": 64,
    "mobilenet_v3_small": 64, "regnet_x_400mf": 64, "regnet_y_400mf": 64, "resnet18": 64, "resnext50_32x4d": 64,
    "shufflenet_v2_x0_5": 64, "squeezenet1_1": 64, "swin_t": 64, "swin_v2_t": 64, "vgg11_bn": 64, "vit_b_32": 64,
    "timm/convnext_atto": 64, "timm/deit_tiny_distilled_patch16_224": 64, "timm/eva02_tiny_patch14_224": 56,
    "timm/levit_128s": 64, "timm/resnetv2_18": 64, "timm/swin_tiny_patch4_window7_224": 64,
    "timm/vit_tiny_patch16_224": 64, "timm/xception41": 64, "timm/xcit_nano_12_p16_224": 64,
}  # fmt: skip
"""And a picture size that it takes; test_every_backbone.py has their larger relatives."""
STEPPED = {
    "vit_b_16": 32, "swin_t": 64, "regnet_x_400mf": 64, "densenet121": 64, "shufflenet_v2_x0_5": 64,
    "timm/vit_tiny_patch16_224": 64, "timm/convnext_atto": 64,
}  # fmt: skip


def classifier(name: str, size: int) -> Classifier:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return build_classifier(name, size)


def whole(stages: dict[str, nn.Module]) -> nn.Module:
    """From the picture to the logits."""
    return nn.Sequential(*stages.values())


@pytest.mark.parametrize(("name", "size"), COMPUTED.items())
def test_stages_compute_the_original_network_in_evaluation_and_in_training(name: str, size: int) -> None:
    original = classifier(name, size)
    network = original.network
    for key, tensor in network.state_dict().items():
        if key.endswith(("running_mean", "running_var", "layer_scale")):
            tensor.uniform_(0.5, 1.5)
    stages = cut_network(name, original)
    pictures = torch.randn(2, 3, size, size)
    for training in (False, True):  # in training the same seed drops the same
        network.train(training)
        whole(stages).train(training)
        torch.manual_seed(1)
        expected = network(pictures)
        torch.manual_seed(1)
        features, taps = pictures, []
        for stage in list(stages.values()):
            taps.append((features, features.clone()))
            features = stage(features)
        pairs = zip(features, expected, strict=True) if isinstance(expected, tuple) else [(features, expected)]
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        assert all(torch.equal(features, copy) for features, copy in taps), "what follows a tap changed it"


@pytest.mark.parametrize(("name", "size"), STEPPED.items())
def test_networks_of_all_kinds_train_send_answer_and_are_copied(name: str, size: int) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    spec = NetworkSpec(name, 3, size, "linear", channel=ChannelSpec("noise", "layer2", norm=3.0, sigma=0.5))
    network = build_network(spec).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, size, size).to(memory_format=torch.channels_last)
    logits, taps = network(images)
    assert {tap: tuple(features.shape[1:]) for tap, features in taps.items()} == network.tap_shapes
    nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    after = {"layer3", "layer4", "last", "layer1", "layer2"}
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for stage in after
        for parameter in network.backbone.get_submodule(stage).parameters()
    )
    with torch.no_grad():
        logits, taps = network.eval()(images)
        torch.testing.assert_close(network.answer(taps[RELEASE]), logits, rtol=0, atol=0)
        copy = deepcopy(freeze(network)).train()
        assert not any(each.training for each in copy.modules())
        torch.testing.assert_close(copy.answer(taps[RELEASE]), logits, rtol=0, atol=0)
    upper = upper_part(network, "layer3", 2)
    assert upper(taps["layer3"]).shape == (2, 2)
    assert all(parameter.requires_grad for parameter in upper.parameters())
    copy.load_state_dict(network.state_dict())


@pytest.mark.parametrize("placeless", [0, 1, 5])
def test_tokens_become_maps_that_hold_all_of_them(placeless: int) -> None:
    tokens = torch.randn(2, placeless + 9, 8)
    maps = to_map(tokens, "tokens")
    assert maps.shape == (2, 8 * (1 + placeless), 3, 3)
    torch.testing.assert_close(from_map(maps, "tokens", 8), tokens)
    torch.testing.assert_close(maps[:, :8, 1, 2], tokens[:, placeless + 5])
    torch.testing.assert_close(maps.mean(dim=(2, 3))[:, 8:], tokens[:, :placeless].flatten(1))
    rows = torch.randn(2, 3, 3, 8)
    assert torch.equal(from_map(to_map(rows, "channels last"), "channels last", 8), rows)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_b_16", 40, r"'vit_b_16' cannot be built for pictures of 40 px: .*divisible"),
        ("maxvit_t", 64, r"'maxvit_t' cannot be built for pictures of 64 px: .*partition"),
        ("inception_v3", 32, r"'inception_v3' does not take pictures of 32 px: .*too small|.*size"),
    ],
)
def test_picture_sizes_that_a_network_cannot_take_are_refused(name: str, size: int, message: str) -> None:
    with WithoutMemory(), pytest.raises(ModelError, match=message):
        build_network(NetworkSpec(name, image_size=size, head="linear"))


def test_a_vit_says_that_it_was_built_for_another_size() -> None:
    with WithoutMemory():
        backbone = build_backbone("vit_b_32", image_size=64)
    assert backbone.takes(64)
    assert not backbone.takes(32)
    with pytest.raises(ModelError, match="'vit_b_32' does not take pictures of 96 px: Wrong image height"):
        Network(NetworkSpec("vit_b_32", image_size=96), backbone)


def test_who_knows_the_picture_looks_at_it_whole_where_the_network_takes_one_size_only() -> None:
    pytest.importorskip("timm")
    images = torch.randn(2, 3, 64, 64)
    for name, half in (("timm/vit_tiny_patch16_224", False), ("shufflenet_v2_x0_5", True)):
        adversary = ImageAdversary(build_network(NetworkSpec(name, image_size=64, head="linear"))).eval()
        assert adversary.halves == half
        assert adversary.embed(images).shape == (2, adversary.network.tap_shapes["backbone"][0])


class Plain(nn.Module):
    """Four convolutions; `forward` may do what no module of it knows of."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(4))
        self.fc = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = images
        for layer in self.layers:
            features = nn.functional.dropout(layer(features), 0.5, self.training and self.fault == "drops")
        if self.fault == "looks" and features.mean() > 0:
            features = -features
        if self.fault == "remembers":
            features = features + images.mean()
        if self.fault == "stays":
            features = features.to(torch.device("cpu"))
        if self.fault == "repeats":
            features = self.layers[3](self.layers[3](features))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("drops", "what dropout does in training is not known to any of its modules"),
        ("looks", "control flow"),
        ("remembers", "depends on one map only at 1 places; needed are 4"),
        ("stays", "is tied to the device that the network was built on"),
        ("repeats", "has a part in several stages"),
    ],
)
def test_networks_that_no_cut_does_justice_to_are_refused(fault: str, message: str) -> None:
    assert len(cut_network("plain", Classifier(Plain("none"), 64))) == 7
    with pytest.raises(ModelError, match=f"'plain' cannot be cut into stages: .*{message}"):
        cut_network("plain", Classifier(Plain(fault), 64))


def test_published_files_fit_whatever_else_is_in_them(tmp_path: Path) -> None:
    theirs = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False)
    torch.save(theirs.state_dict(), tmp_path / "googlenet.pth")
    loaded = build_backbone("googlenet", str(tmp_path / "googlenet.pth")).state_dict()
    assert torch.equal(loaded["layer4.inception5b.branch1.conv.weight"], theirs.inception5b.branch1.conv.weight)


def test_timms_networks_start_from_local_files_under_timms_names_and_of_another_size(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    name = "timm/vit_tiny_patch16_224"
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=96)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    ours = build_backbone(name, str(tmp_path / "weights.safetensors"), image_size=64)
    assert torch.equal(ours.state_dict()["layer4.10.mlp.fc1.weight"], theirs.blocks[10].mlp.fc1.weight)
    resized = interpolate_embeddings(64, 16, {"encoder.pos_embedding": theirs.pos_embed})["encoder.pos_embedding"]
    torch.testing.assert_close(ours.state_dict()["stem.pos_embed"], resized)
    save_file(ours.state_dict(), tmp_path / "ours.safetensors")
    again = build_backbone(name, str(tmp_path / "ours.safetensors"), image_size=64)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in ours.state_dict().items())
    with pytest.raises(ModelError, match=r"'imagenet' of timm/vit_tiny_patch16_224: .*none and the path"):
        build_backbone(name, "imagenet", 64)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"'resnet19' is unknown; accepted: resnet1.*other classifiers of torchvision, or timm/NAME"),
        ("fcn_resnet50", r"'fcn_resnet50' is unknown"),
        ("timm/vit_tiny", r"'timm/vit_tiny' is unknown; accepted: timm/.*other classifiers of timm"),
    ],
)
def test_unknown_names_are_refused_with_those_that_are_close(name: str, message: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with pytest.raises(ModelError, match=message):
        check_name(name)


def test_backbones_of_one_seed_are_alike_and_have_torchvisions_weights() -> None:
    torch.manual_seed(3)
    backbone = Backbone("mobilenet_v3_small")
    torch.manual_seed(3)
    theirs = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    ours = backbone.state_dict()
    left_out = {key for key, name in backbone.published_names.items() if name is None}
    assert left_out == {key for key in theirs if key.startswith("classifier.")}
    assert all(torch.equal(ours[name], theirs[key]) for key, name in backbone.published_names.items() if name)
