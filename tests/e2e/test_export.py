"""What `privatenet export` writes, in the runtimes that it is for: the same answers, on a device and in the open."""

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from base64 import b64encode
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from support import FINISHED_STATE, wait_for

from privatenet import models
from privatenet.audit.export import parts as export_parts
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.transforms import prepare, resize
from privatenet.data_shards.sources.synthetic import EMOTIONS, SYNTHETIC_SCHEMA
from privatenet.distributed import checkpoint
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.place import free_port
from privatenet.distributed.ranks import ALONE
from privatenet.launch import cli
from privatenet.models.channel import NO_CHANNEL, ChannelSpec
from privatenet.models.errors import ModelError
from privatenet.models.network import Network, NetworkSpec, build_network

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZE = 64
CHANNELS = {
    "none": NO_CHANNEL,
    "noise": ChannelSpec("noise", "logits"),
    "codebook": ChannelSpec("codebook", "logits"),
    "quantised": ChannelSpec("quantised", "layer4", numbers=6, step=2.0),
}


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_parts, "RUNS", 3)


def trained(kind: str, shards: Path, folder: Path) -> Network:
    """A checkpoint in `folder` of a network that has learnt nothing but answers differently to different pictures."""
    torch.manual_seed(0)
    spec = NetworkSpec("resnet18", len(EMOTIONS), SIZE, "arm", channel=CHANNELS[kind])
    network = build_network(spec).eval()
    network.head.linear.weight.data *= 30
    fingerprint = Faces(DataConfig(shards=str(shards)), ALONE).fingerprint
    config = {"engine": asdict(EngineConfig()), "data": asdict(DataConfig(shards=str(shards)))}
    state = {"stage": "private", "spec": asdict(spec), "schema": SYNTHETIC_SCHEMA.to_dict(), "config": config}
    state["identity"] = {"fingerprint": fingerprint}
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    checkpoint.save(folder / "final", {"model": weights}, FINISHED_STATE | state)
    return network


def all_pictures(shards: Path) -> torch.Tensor:
    faces = Faces(DataConfig(shards=str(shards)), ALONE)
    images = torch.cat([batch.images for batch in faces.batches(faces.testing(), 64)])
    return resize(images, SIZE)


def run(path: Path, *inputs: np.ndarray) -> np.ndarray:
    """By onnxruntime alone, as whoever uses the files does."""
    session = onnxruntime.InferenceSession(path)
    feed = {given.name: values for given, values in zip(session.get_inputs(), inputs, strict=True)}
    (result,) = session.run(None, feed)
    return np.asarray(result)


@pytest.mark.parametrize(
    ("kind", "settings", "first", "second"),
    [
        ("none", ["--deployment=enclave", "--split=layer3"], "open", "trusted"),
        ("noise", ["--deployment=split"], "trusted", "open"),
        ("codebook", ["--deployment=split"], "trusted", "open"),
        ("quantised", ["--deployment=split"], "trusted", "open"),
    ],
)
def test_the_parts_together_do_not_answer_as_the_network_does(
    kind: str, settings: list[str], first: str, second: str, shards: Path, tmp_path: Path
) -> None:
    network = trained(kind, shards, tmp_path / "private")
    assert cli.main(["export", str(tmp_path / "private"), *settings, "--out", str(tmp_path / "out")]) == 0
    pictures = all_pictures(shards)
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((len(pictures), len(EMOTIONS)), dtype=np.float32)] if kind == "noise" else []
    values = run(tmp_path / "out" / f"{first}.onnx", pictures.numpy(), *noise)
    values = run(tmp_path / "out" / f"{second}.onnx", values)
    with torch.inference_mode():
        images = prepare(pictures, SIZE)
        logits, taps = network(images)
        if noise:
            logits = network.answer(taps["centre"] + torch.from_numpy(noise[0]))
    close = np.abs(values - logits.numpy()).max(axis=1) < 1e-3
    assert close.mean() >= (1 if kind in ("none", "noise") else 0.95)
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert max(report["distance"].values()) < 1e-4
    program = torch.export.load(tmp_path / "out" / f"{first}.pt2").module()
    assert torch.allclose(
        program(pictures, *map(torch.from_numpy, noise)).flatten(),
        torch.from_numpy(run(tmp_path / "out" / f"{first}.onnx", pictures.numpy(), *noise)).flatten(),
        atol=1e-3,
    ) or kind in ("codebook", "quantised")


def test_two_lines_of_python_load_it_and_small_formats_are_measured(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = trained("noise", shards, tmp_path / "private")
    command = ["export", str(tmp_path / "private"), "--deployment=split", "--out", str(tmp_path / "out"), "--leak=true"]
    assert cli.main([*command, "--variants=[int8]"]) == 0
    loaded = models.load(tmp_path / "out")
    pictures = all_pictures(shards)
    named = loaded.predict(pictures)
    assert len(named) == len(pictures)
    assert {name for name, _ in named} <= set(EMOTIONS)
    with torch.inference_mode():
        plain = network(prepare(pictures, SIZE))[1]["centre"].argmax(dim=1)
    agreement = np.mean([EMOTIONS[place] == name for place, (name, _) in zip(plain.tolist(), named, strict=True)])
    assert agreement > 0.8, "it is not the network"
    whole, eighth = json.loads((tmp_path / "out" / "export.json").read_text())["variants"]
    sizes = [each["parts"][0]["bytes"] for each in (whole, eighth)]
    assert sizes[1] < 0.35 * sizes[0]
    assert {(leak["tap"], leak["attribute"]) for leak in eighth["leaks"]} >= {("sent", "gender"), ("label", "gender")}
    assert "noise" in (tmp_path / "out" / "README.md").read_text()
    assert "M ops" in capsys.readouterr().out


def test_mlflow_serves_it_from_pictures(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    trained("noise", shards, tmp_path / "private")
    assert cli.main(["export", str(tmp_path / "private"), "--out", str(tmp_path / "out")]) == 0
    faces = Faces(DataConfig(shards=str(shards)), ALONE).test
    contents = [faces.read(row) for row in range(6)]
    rows = [[b64encode(content).decode()] for content in contents]
    port, log = free_port(), tmp_path / "served.txt"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(tmp_path / "out" / "mlflow")]
    with log.open("w") as stream:
        options = ["--env-manager", "local", "--port", str(port)]
        activated = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        server = subprocess.Popen(
            [*command, *options], stdout=stream, stderr=stream, cwd=tmp_path, env=activated, start_new_session=True
        )
    try:
        wait_for(lambda: _ask(port, "/ping", None) is not None or server.poll() is not None)
        body = {"dataframe_split": {"columns": ["picture"], "data": rows}}
        answers = _ask(port, "/invocations", body)["predictions"]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(60)
    loaded = models.load(tmp_path / "out")
    images = torch.stack([torch.from_numpy(np.array(Image.open(io.BytesIO(c)).convert("RGB"))) for c in contents])
    shares = loaded(images.permute(0, 3, 1, 2)).detach().numpy()
    served = np.array([[answer[f"p_{name}"] for name in EMOTIONS] for answer in answers])
    assert np.abs(served.sum(axis=1) - 1).max() < 1e-5
    assert {answer["class"] for answer in answers} <= set(EMOTIONS)
    assert np.abs(served - shares).mean() < 0.2, "they differ by more than one draw of the noise"


def _ask(port: int, path: str, body: Any) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read().strip() or b"{}")
    except URLError:
        return None


def test_a_file_that_differs_from_pytorch_is_kept(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("none", shards, tmp_path / "private")
    monkeypatch.setattr(export_parts, "CLOSE", 1e-12)
    command = ["export", str(tmp_path / "private"), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 2
    assert not (tmp_path / "out" / "network.onnx").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--deployment=split"], "a network without a channel has nothing to send"),
        (["--deployment=enclave", "--split=layer9"], "cannot be cut at 'layer9'; accepted: layer1, "),
        (["--deployment=enclave"], "cannot be cut at ''"),
    ],
)
def test_a_network_that_cannot_be_cut_so_is_exported(
    settings: list[str], words: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("none", shards, tmp_path / "private")
    assert cli.main(["export", str(tmp_path / "private"), *settings, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_folder_is_loaded_as_a_network(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"spec": {}}')
    with pytest.raises(ModelError, match="holds no exported network"):
        models.load(tmp_path)
