"""How much of a network has to be trusted: memory by its cuts, beside what its audit has found there."""

import csv
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from audited import findings
from support import FINISHED_STATE

from privatenet.audit.attack.findings import write_findings
from privatenet.distributed import checkpoint
from privatenet.launch import cli
from privatenet.models.channel import ChannelSpec
from privatenet.models.network import NetworkSpec, build_network


def test_a_cut_has_another_memory_or_another_leak_than_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    spec = NetworkSpec("resnet18", 7, 64, "arm", channel=ChannelSpec("noise", "logits"))
    network = build_network(spec)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    state = {**FINISHED_STATE, "stage": "private", "spec": asdict(spec)}
    saved = checkpoint.save(tmp_path / "run" / "private" / "final", {"model": weights}, state)
    report = tmp_path / "run" / "audit-private" / "report"
    report.mkdir(parents=True)
    audit = findings()
    write_findings(
        replace(audit, networks=(replace(audit.audited, sha256=saved.hash), *audit.networks[1:])), report / "audit.json"
    )
    assert cli.main(["budget", "run/private", "--backbones", "[mobilenet_v3_large]", "--image-size", "64"]) == 0
    with (tmp_path / "budget" / "budget.csv").open() as file:
        rows = list(csv.DictReader(file))
    own = [row for row in rows if row["network"] == "run/private" and row["attribute"] == "gender"]
    assert [row["tap"] for row in own] == [
        "arm", "backbone", "layer4", "layer3", "layer2", "layer1", "release", "label"
    ]  # fmt: skip
    sizes = [float(row["fp32_mb"]) for row in own]
    assert sizes[:6] == sorted(sizes[:6])
    numbers = sum(tensor.numel() for tensor in network.state_dict().values())
    assert sizes[-1] == pytest.approx(4 * numbers / 1e6, rel=0.05)
    assert all(float(row["fp32_mb"]) == pytest.approx(4 * float(row["int8_mb"]), rel=0.01) for row in own)
    by_tap = {row["tap"]: row for row in own}
    leak = audit.audited.leak("layer4", "gender")
    assert leak
    assert float(by_tap["layer4"]["read"]) == pytest.approx(leak.headline.accuracy.value, abs=1e-4)
    assert (by_tap["layer1"]["read"], by_tap["arm"]["certified"]) == ("", "")
    others = [row for row in rows if row["network"] == "mobilenet_v3_large"]
    assert others[-1]["tap"] == "label"
    assert {row["utility"] for row in others} == {""}
    assert (tmp_path / "budget" / "budget.png").stat().st_size > 5000
    assert "layer4" in capsys.readouterr().out
