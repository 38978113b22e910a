"""Backbones, weights, networks and adversaries against torchvision's own networks and the paper's numbers."""

import urllib.request
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from privatenet.models.adversary import Pair, build_adversary
from privatenet.models.backbones import Backbone, build_backbone
from privatenet.models.errors import ModelError
from privatenet.models.network import Network, NetworkSpec, build_network, check_tap

TORCHVISION_NODES = {
    "resnet18": ("layer1", "layer2", "layer3", "layer4", "layer4"),
    "resnet50": ("layer1", "layer2", "layer3", "layer4", "layer4"),
    "mobilenet_v3_large": ("features.3", "features.6", "features.12", "features.15", "features.16"),
    "efficientnet_b0": ("features.2", "features.3", "features.5", "features.7", "features.8"),
    "convnext_tiny": ("features.1", "features.3", "features.5", "features.7", "features.7"),
}
MAPS_AT_224 = {
    "resnet18": ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7), (512, 7, 7)),
    "resnet50": ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7), (2048, 7, 7)),
    "mobilenet_v3_large": ((24, 56, 56), (40, 28, 28), (112, 14, 14), (160, 7, 7), (960, 7, 7)),
    "efficientnet_b0": ((24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7), (1280, 7, 7)),
    "convnext_tiny": ((96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7), (768, 7, 7)),
}


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def scrambled_torchvision(name: str) -> nn.Module:
    """torchvision's network with statistics and layer scales that would show if they were not loaded."""
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.get_model(name, weights=None)
    for key, tensor in network.state_dict().items():
        if key.endswith(("running_mean", "running_var", "layer_scale")):
            tensor.uniform_(0.5, 1.5)
    return network.eval()


def same_state(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", TORCHVISION_NODES)
def test_taps_are_torchvisions_own_features_for_the_same_weights(name: str, tmp_path: Path) -> None:
    network = scrambled_torchvision(name)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    backbone = build_backbone(name, str(tmp_path / "weights.pth")).eval()
    images = torch.randn(2, 3, 64, 64)
    taps = {}

    def keep(tap: str, features: torch.Tensor) -> torch.Tensor:
        taps[tap] = features
        return features

    with torch.no_grad():
        backbone(images, keep)
        expected = create_feature_extractor(network, list(set(TORCHVISION_NODES[name])))(images)
    for tap, node in zip(Backbone.taps, TORCHVISION_NODES[name], strict=True):
        torch.testing.assert_close(taps[tap], expected[node], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet18", {"stem.conv1.weight", "layer1.0.conv1.weight", "layer4.1.bn2.running_var"}),
        ("mobilenet_v3_large", {"stem.0.0.weight", "layer1.2.block.0.0.weight", "last.16.0.weight"}),
        ("efficientnet_b0", {"stem.1.0.block.0.0.weight", "layer3.5.0.block.0.0.weight", "last.8.0.weight"}),
        ("convnext_tiny", {"stem.0.0.weight", "layer1.1.0.block.0.weight", "layer4.7.0.layer_scale"}),
    ],
)
def test_checkpoints_of_before_name_the_same_tensors(name: str, keys: set[str]) -> None:
    assert keys <= build_backbone(name).state_dict().keys()


@pytest.mark.parametrize("name", TORCHVISION_NODES)
def test_network_has_its_taps_in_training_and_evaluation(name: str) -> None:
    spec = NetworkSpec(backbone=name, image_size=64)
    network = build_network(spec)
    assert network.training
    assert all(part.training for part in network.modules())
    for mode in (True, False):
        logits, taps = network.train(mode)(torch.randn(2, 3, 64, 64))
        assert logits.shape == (2, 7)
        assert tuple(taps) == network.taps == (*Backbone.taps, "arm")
        assert {tap: tuple(output.shape[1:]) for tap, output in taps.items()} == network.tap_shapes


@pytest.mark.parametrize("name", TORCHVISION_NODES)
def test_tap_shapes_at_224_px_without_touching_the_statistics(name: str) -> None:
    backbone = build_backbone(name)
    before = deepcopy(backbone)
    network = Network(NetworkSpec(backbone=name), backbone)
    assert network.tap_shapes == {**dict(zip(Backbone.taps, MAPS_AT_224[name], strict=True)), "arm": (121,)}
    assert same_state(backbone, before)


def test_parameters_are_as_many_as_the_papers() -> None:
    network = build_network(NetworkSpec())
    assert num_parameters(network.backbone) == 11_176_512
    assert num_parameters(network.head) == 1_029 + 854
    assert num_parameters(network) == 11_178_395
    counts = {
        (tap, classes): num_parameters(build_adversary(network.spec, network.tap_shapes, tap, classes))
        for tap in ("backbone", "arm")
        for classes in (2, 5)
    }
    assert counts == {("backbone", 2): 1_273, ("backbone", 5): 1_639, ("arm", 2): 244, ("arm", 5): 610}
    image_adversary = build_adversary(network.spec, network.tap_shapes, "image", 2)
    assert num_parameters(image_adversary) == 11_176_512 + 1_029 + 244


@pytest.mark.parametrize("head", ["arm", "linear"])
def test_adversary_on_every_tap_gives_the_attributes_logits(head: str) -> None:
    network = build_network(NetworkSpec(image_size=64, head=head))  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 64)
    _, taps = network(images)
    for tap, seen in {**taps, "image": images}.items():
        adversary = build_adversary(network.spec, network.tap_shapes, tap, num_classes=5)
        assert adversary(seen).shape == (2, 5)


def test_linear_head_is_the_mean_over_positions_then_a_linear_layer() -> None:
    network = build_network(NetworkSpec(image_size=64, head="linear"))
    logits, taps = network(torch.randn(2, 3, 64, 64))
    assert "arm" not in taps
    pooled = taps["backbone"].flatten(2).mean(2)
    torch.testing.assert_close(logits, pooled @ network.head.linear.weight.T + network.head.linear.bias)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "resnet19"}, r"backbone 'resnet19'.*resnet18, resnet"),
        ({"head": "mlp"}, r"head 'mlp'.*arm, linear"),
        ({"affinity": "mean"}, r"affinity 'mean'.*batch, ema, none"),
        ({"num_classes": 1}, r"num_classes 1 .*2 and up"),
        ({"image_size": 16}, r"image_size 16 .*32 and up"),
    ],
)
def test_impossible_specs_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        NetworkSpec(**fields)  # type: ignore[arg-type]


def test_pictures_too_small_for_arm_are_refused_with_a_size_that_works() -> None:
    with pytest.raises(ModelError, match=r"1x1.*64 px"):
        build_network(NetworkSpec(image_size=32))


def test_unknown_taps_are_refused_with_those_there_are() -> None:
    spec = NetworkSpec(head="linear")
    check_tap(spec, "image")
    check_tap(spec, "layer2")
    with pytest.raises(ModelError, match=r"'arm'.*image, layer1, layer2, layer3, layer4, backbone$"):
        check_tap(spec, "arm")
    with pytest.raises(ModelError, match="'layer5'"):
        build_adversary(spec, {}, "layer5", 2)


def test_pair_names_go_there_and_back() -> None:
    assert Pair.parse("backbone-gender") == Pair("backbone", "gender")
    assert Pair.parse("arm-age-group") == Pair("arm", "age-group")
    assert Pair("arm", "age-group").name == "arm-age-group"


@pytest.mark.parametrize("name", ["backbone", "backbone-", "-gender", ""])
def test_malformed_pair_names_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="TAP-ATTRIBUTE"):
        Pair.parse(name)


def test_local_weights_load_however_they_were_saved(tmp_path: Path) -> None:
    network = scrambled_torchvision("resnet18")
    theirs = network.state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in theirs.items()}}, tmp_path / "a.pt")
    save_file({key: value.contiguous() for key, value in theirs.items()}, tmp_path / "b.safetensors")
    old = {key: value for key, value in theirs.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "c.pth")
    backbone = build_backbone("resnet18", str(tmp_path / "b.safetensors"))
    save_file(backbone.state_dict(), tmp_path / "d.safetensors")
    for file in ("a.pt", "c.pth", "d.safetensors"):
        assert same_state(build_backbone("resnet18", str(tmp_path / file)), backbone)
    torch.testing.assert_close(backbone.state_dict()["stem.conv1.weight"], theirs["conv1.weight"], rtol=0, atol=0)


def changed_state(change: str) -> dict[str, object]:
    state: dict[str, object] = dict(torchvision.models.resnet18(weights=None).state_dict())
    if change == "missing":
        del state["layer3.0.conv1.weight"]
    if change == "unexpected":
        state["layer5.0.conv1.weight"] = torch.zeros(1)
    if change == "shape":
        state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    if change == "no tensor":
        state["epoch"] = 3
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"missing: layer3\.0\.conv1\.weight$"),
        ("unexpected", r"unexpected: layer5\.0\.conv1\.weight$"),
        ("shape", r"another shape: stem\.conv1\.weight \(64, 1, 7, 7\) for \(64, 3, 7, 7\)$"),
        ("no tensor", r"epoch hold no tensor"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_the_key(change: str, message: str, tmp_path: Path) -> None:
    torch.save(changed_state(change), tmp_path / "bad.pth")
    with pytest.raises(ModelError, match=message):
        build_backbone("resnet18", str(tmp_path / "bad.pth"))


class Intruder:
    """An object that an unsafe loader would bring to life."""


def test_files_that_are_no_safe_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "noise.safetensors").write_bytes(b"not a checkpoint")
    (tmp_path / "weights.bin").write_bytes(b"")
    torch.save({"state_dict": Intruder()}, tmp_path / "pickle.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    expected = {
        "noise.pth": "read safely",
        "empty.pt": "read safely",
        "noise.safetensors": "read safely",
        "pickle.pth": "read safely",
        "list.pth": "holds a list",
        "weights.bin": r"'\.bin' is not accepted",
        "absent.pth": "no such file",
    }
    for file, message in expected.items():
        with pytest.raises(ModelError, match=message):
            build_backbone("resnet18", str(tmp_path / file))


def test_imagenet_weights_say_what_to_do_when_they_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the discard port: every connection is refused
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of an earlier download
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    with pytest.raises(ModelError, match="not possible") as refusal:
        build_backbone("resnet18", "imagenet")
    for part in ("https://download.pytorch.org/models/resnet18-f37072fd.pth", str(cached), "weights: none"):
        assert part in str(refusal.value)

    network = scrambled_torchvision("resnet18")
    torch.save(network.state_dict(), cached)
    loaded: Tensor = build_backbone("resnet18", "imagenet").state_dict()["layer4.1.bn2.running_var"]
    torch.testing.assert_close(loaded, network.state_dict()["layer4.1.bn2.running_var"], rtol=0, atol=0)
