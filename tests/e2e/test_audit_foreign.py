"""Networks that nobody here wrote are attacked as ours are: torchvision's, timm's, a transformer of Hugging Face's, a
file of ONNX, and features as they come."""

import doctest
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from privatenet.audit import audit_features
from privatenet.audit.attack.findings import Findings, read_findings
from privatenet.audit.errors import AuditError
from privatenet.audit.foreign import audit as foreign
from privatenet.audit.foreign.preprocessing import Preprocessing
from privatenet.audit.settings import AuditConfig
from privatenet.data_shards.shards.picture import decode_stored
from privatenet.data_shards.shards.split import open_split
from privatenet.launch import cli

QUICK = ["--attackers", "[logistic]", "--faces", "[training]", "--seeds", "1", "--tracking.model", "false"]
TRANSFORMER = """
from transformers import ViTConfig, ViTForImageClassification

def build():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(image_size=64, patch_size=16, num_labels=7, **sizes))
"""
SIZE = {"preprocessing.size": 64}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def audit(shards: Path, network: str, taps: str, settings: Mapping[str, Any] | None = None) -> Findings:
    """Audit it by command into the folder `audit`."""
    values = {"network": network, "taps": f"[{taps}]", "shards": shards, "output": "audit", **SIZE, **(settings or {})}
    assert cli.main(["audit", *(f"--{key}={value}" for key, value in values.items()), *QUICK]) == 0
    assert (Path("audit") / "report" / "report.html").stat().st_size > 10_000
    return read_findings(Path("audit") / "report" / "audit.json")


def pictures(shards: Path) -> Tensor:
    """All test pictures, as a network of `SIZE` takes them."""
    split = open_split(shards, "test")
    stored = [decode_stored(split.read(row), split.names[row], split.image_size) for row in range(len(split))]
    images = torch.from_numpy(np.stack([np.asarray(picture) for picture in stored])).permute(0, 3, 1, 2)
    return Preprocessing(size=64).apply(images)


def kept(tap: str) -> Tensor:
    """The features of the test pictures that the audit has kept, of the network that is not random."""
    index = json.loads((Path("audit") / "report" / "audit.json").read_text())["networks"][0]["sha256"]
    (folder,) = Path("audit/features").glob(f"{index[:12]}-*")
    return torch.from_numpy(np.load(folder / "test" / f"{tap}.npy"))


def test_torchvisions_resnet_is_attacked_at_modules_and_beside_one_that_was_never_trained(
    shards: Path, here: Path
) -> None:
    torch.manual_seed(1)
    network = torchvision.models.resnet18(num_classes=7).eval()
    save_file(network.state_dict(), here / "weights.safetensors")
    settings = {"arguments": "{num_classes: 7}", "weights": "weights.safetensors"}
    findings = audit(shards, "torchvision.models:resnet18", "layer3, avgpool", settings)
    assert {leak.tap for leak in findings.audited.leaks} == {"layer3", "avgpool", "logits", "label"}
    assert [network.role for network in findings.networks] == ["audited", "random"]
    assert [row.deployment for row in findings.audited.certificates] == ["label", "label"]
    with torch.inference_mode():
        images = pictures(shards)
        assert torch.allclose(kept("logits"), network(images), atol=1e-4)
        deepest = network.avgpool(network.layer4(kept("layer3"))).flatten(1)
        assert torch.allclose(kept("avgpool"), deepest, atol=1e-4)


def test_a_network_of_timm_is_attacked_at_its_tokens(shards: Path, here: Path) -> None:
    pytest.importorskip("timm")
    arguments = "{model_name: test_vit, img_size: 64, num_classes: 0, pretrained: false}"
    findings = audit(shards, "timm:create_model", "blocks.1", {"arguments": arguments})
    assert {leak.tap for leak in findings.audited.leaks} == {"blocks.1", "output"}
    assert kept("blocks.1").ndim == 3
    assert np.isnan(findings.audited.utility.value), "there is no answer that could be right"


def test_a_transformer_of_hugging_face_is_attacked_where_it_answers_with_an_object(shards: Path, here: Path) -> None:
    pytest.importorskip("transformers")
    (here / "faces_net.py").write_text(TRANSFORMER)
    findings = audit(shards, "faces_net:build", "vit.layernorm")
    assert {leak.tap for leak in findings.audited.leaks} == {"vit.layernorm", "logits", "label"}


def test_a_file_of_onnx_is_attacked_at_what_its_nodes_give_out(shards: Path, here: Path) -> None:
    onnx = pytest.importorskip("onnx")
    network = torchvision.models.resnet18(num_classes=7).eval()
    batch = {"x": {0: torch.export.Dim("batch", min=1, max=4096)}}
    torch.onnx.export(network, (torch.zeros(2, 3, 64, 64),), here / "net.onnx", dynamo=True, dynamic_shapes=batch)
    (pooled,) = [node.output[0] for node in onnx.load(here / "net.onnx").graph.node if "Mean" in node.op_type][:1]
    tap = pooled.strip("/").replace("/", ".")
    findings = audit(shards, "net.onnx", tap)
    assert {leak.tap for leak in findings.audited.leaks} == {tap, "logits", "label"}
    with torch.inference_mode():
        assert torch.allclose(kept("logits"), network(pictures(shards)), atol=1e-4)


def arrays(samples: int = 200) -> dict[str, Any]:
    """Features that tell gender, and logits that are mostly right."""
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {}
    for split in ("train", "test"):
        gender, emotion = rng.integers(0, 2, samples), rng.integers(0, 3, samples)
        values[f"{split}/labels/gender"] = np.array(["male", "female"])[gender]
        values[f"{split}/labels/emotion"] = emotion
        values[f"{split}/persons"] = np.arange(samples) // 2 + (split == "test") * samples
        values[f"{split}/pool"] = rng.normal(size=(samples, 6)) + gender[:, None]
        values[f"{split}/logits"] = rng.normal(size=(samples, 3)) + 2 * np.eye(3)[emotion]
    return values


def test_features_made_elsewhere_are_attacked_by_command_and_from_python_alike(here: Path) -> None:
    np.savez(here / "faces.npz", **arrays())
    command = ["audit", "--features=faces.npz", "--target=emotion", *QUICK, "--fail-above", "gender=0.1"]
    assert cli.main(command) == 3
    findings = read_findings(here / "audit-faces" / "report" / "audit.json")
    config = AuditConfig(attackers=["logistic"], faces=["training"], seeds=1)
    same = audit_features(arrays(), "emotion", config)
    assert same.networks[0].leaks[0].headline.accuracy == findings.networks[0].leaks[0].headline.accuracy
    frame = same.to_frame()
    assert frame[["tap", "attribute"]].values.tolist() == [[tap, "gender"] for tap in ("pool", "logits", "label")]
    assert frame["excess"][0] > 0.3 > frame["excess"][1]
    assert "gender leaks at 1 of 3 taps" in same.report(here / "report").read_text()
    assert same.audited.utility.value > 0.7
    if importlib.util.find_spec("mlflow"):
        assert cli.main(["compare", "audit-faces", "--output", "compared"]) == 0
        assert f"{here.name}/audit-faces" in (here / "compared" / "front.csv").read_text()


def test_the_example_in_the_documentation_of_audit_features_does_not_hold() -> None:
    results = doctest.testmod(foreign)
    assert results.attempted > 5
    assert results.failed == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train/pool": np.zeros((199, 6))}, r"train/ have \[199, 200\] samples"),
        ({"train/pool": None}, "taps of train/ are {'logits'"),
        ({"train/../pool": np.zeros((200, 6))}, "tap '../pool': accepted are names"),
        ({"train/pool": np.full((200, 6), np.nan)}, "holds what is no finite number"),
        ({"train/pool": np.zeros((200, 1, 1, 1, 1))}, "accepted are vectors"),
        ({"test/pool": np.zeros((200, 5))}, r"'pool': \[6\].*'pool': \[5\]"),
        ({"train/labels/gender": None}, "array 'train/labels/gender' is missing"),
        ({"train/labels/gender": np.zeros((200, 2))}, "accepted: whole numbers or text"),
        ({"train/logits": np.zeros((200, 4)), "test/logits": np.zeros((200, 4))}, "logits have 4 columns"),
        ({"train/pool": np.array([object()] * 200)}, "accepted: numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_taken(changes: dict[str, Any], words: str) -> None:
    changed = {key: value for key, value in (arrays() | changes).items() if value is not None}
    with pytest.raises(AuditError, match=words):
        audit_features(changed, "emotion")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network=torchvision.models:resnet99"], "cannot be imported"),
        (["--network=torchvision.models:resnet18", "--taps=[layer9]"], "names of its modules are layer"),
        (["--network=torchvision.models:resnet18", "--weights=none.safetensors"], "no such file"),
        (["--network=torchvision.models:resnet18", "--preprocessing.mean=[1]"], "accepted for rgb are 3 numbers"),
        (["--network=missing.onnx"], "is no ONNX file that can be run"),
        (["runs/x", "--features=x.npz"], "accepted is one of CHECKPOINT, --network and --features"),
        (["--features=missing.npz"], "is no file .npz"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(
    arguments: list[str], words: str, shards: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["audit", *arguments, "--shards", str(shards), *QUICK]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("privatenet: error: ")
    assert words in line
