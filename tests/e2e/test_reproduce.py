"""`privatenet reproduce` as a person starts it: every network of the paper, once, and the figures beside its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support import Start

from privatenet.audit.attack.findings import read_findings
from privatenet.audit.paper.reproduction import read_reproduction
from privatenet.distributed.config import TrackingConfig
from privatenet.distributed.errors import Interrupted
from privatenet.distributed.tracking import store as mlflow_store
from privatenet.distributed.tracking.tracker import log_files, parent_run
from privatenet.launch import cli

QUICK = """
data: {{shards: {shards}}}
model: {{backbone: mobilenet_v3_large, weights: none, image_size: 64}}
engine: {{precision: fp32}}
target: {{epochs: 1, batch_size: 16}}
adversary: {{epochs: 1, batch_size: 16}}
private: {{epochs: 1, batch_size: 16}}
tracking: {{model: false}}
reproduce: {{attributes: [gender], taps: [backbone], lambdas: [0.5, 1.0], repetitions: 2}}
output: {output}
"""
PARTS = {
    "target",
    "known",
    *(
        f"{network}/{part}"
        for network in ("adversarial-backbone-gender", "confusion-backbone-gender", "lambda-1")
        for part in ("private", "unknown")
    ),
}


@pytest.fixture
def quick(shards: Path, tmp_path: Path) -> Path:
    """A configuration that runs the paper with one attribute at one tap in seconds, into a fresh output folder."""
    path = tmp_path / "quick.yaml"
    path.write_text(QUICK.format(shards=shards, output=tmp_path / "paper"))
    return path


def test_the_paper_is_run_once_under_one_parent_and_found_again(
    quick: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    output = quick.parent / "paper"
    gentle = {"OMP_WAIT_POLICY": "passive"}  # else threads that wait keep busy cores from those that work
    first = start("-m", "privatenet.launch.cli", "reproduce", "--ranks", "2", "--config", str(quick), **gentle)
    assert first.returncode == 0, first.stderr[-3000:]
    assert {str(path.parent.relative_to(output)) for path in output.rglob("final")} == PARTS
    for line in ("Table 1: adversaries", "Table 2: private networks", "Fig. 2: confusion at backbone", "Table 3: one"):
        assert line in first.stdout
    assert f"{output}/reproduction.md" in first.stdout
    assert (output / "figures" / "lambda.svg").is_file()
    assert "lambda.svg" in (output / "reproduction.md").read_text()

    reproduction = read_reproduction(output / "reproduction.json")
    assert [adversary.tap for adversary in reproduction.unprotected] == ["backbone", "image"]
    assert [network.name for network in reproduction.sweep] == ["confusion-backbone-gender", "lambda-1"]
    assert reproduction.networks[1] == reproduction.sweep[0]
    networks = [network.name for network in reproduction.networks]
    assert [latency.network for latency in reproduction.latencies] == ["unprotected", *networks]
    unprotected = reproduction.unprotected[0].accuracy.value
    for network in (*reproduction.networks, *reproduction.sweep):
        scores = json.loads((output / network.name / "unknown" / "final" / "state.json").read_text())["test"]
        unknown = network.unknown.accuracy
        assert unknown.value == pytest.approx(scores["backbone-gender"]["accuracy"])
        assert unknown.low < unknown.value < unknown.high
        assert network.unknown_robustness == pytest.approx((unknown.value - unprotected) / unprotected)

    assert cli.main(["train", "reproduce", "--config", str(quick)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("done before") == len(PARTS)
    assert "epoch 1/1" not in printed
    again = replace(read_reproduction(output / "reproduction.json"), latencies=reproduction.latencies)
    assert replace(again, config=reproduction.config, timed_on=reproduction.timed_on) == reproduction

    mlflow = pytest.importorskip("mlflow")
    parent = json.loads((output / "mlflow.json").read_text())["run_id"]
    mlflow.set_tracking_uri(f"sqlite:///{output / 'mlflow.db'}")
    runs = mlflow.search_runs(experiment_names=["privatenet"], output_format="list")
    assert {run.info.status for run in runs} == {"FINISHED"}
    parts = [run for run in runs if run.info.run_id != parent]
    assert len(runs) == len(parts) + 1 == len(PARTS) + 1
    assert {run.data.tags["mlflow.parentRunId"] for run in parts} == {parent}
    kept = mlflow.MlflowClient().list_artifacts(parent)
    assert {item.path for item in kept} == {"reproduction.json", "reproduction.md", "lambda.svg", "lambda.png"}

    network = output / "confusion-backbone-gender"
    words = "--taps [backbone] --attributes [gender] --attackers [paper,finetuned] --seeds 1 --references [unprotected]"
    arguments = [*words.split(), "--sweep", str(output / "reproduction.json")]
    assert cli.main(["audit", str(network / "private"), *arguments]) == 0
    audited = read_findings(network / "audit-private" / "report" / "audit.json")
    kinds = {(control.kind, control.tap) for control in audited.controls}
    assert {("image-adversary", ""), ("unprotected-adversary", "backbone"), ("unknown-adversary", "backbone")} <= kinds
    assert [attack.attacker for attack in audited.audited.leaks[0].attacks] == ["paper", "finetuned"]
    assert "lambda" in (network / "audit-private" / "report" / "report.md").read_text()


def test_a_parent_run_that_was_interrupted_goes_on_under_its_own_id(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    with pytest.raises(Interrupted), parent_run(TrackingConfig(), tmp_path, "reproduce") as first:
        raise Interrupted("asked to stop")
    store = mlflow.MlflowClient(first.uri)
    assert store.get_run(first.parent).info.status == "KILLED"
    with parent_run(TrackingConfig(), tmp_path, "reproduce") as second:
        assert second == first
        assert store.get_run(first.parent).info.status == "RUNNING"
    assert store.get_run(first.parent).info.status == "FINISHED"


def test_without_mlflow_there_is_no_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_store, "MLFLOW", False)
    with parent_run(TrackingConfig(), tmp_path, "reproduce") as tracking:
        assert tracking == TrackingConfig()
        log_files(tracking, [tmp_path / "reproduction.md"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--reproduce.attributes", "[race]"],
            "reproduce.attributes: 'race' is unknown here: accepted are gender, age",
        ),
        (["--reproduce.lambdas", "[2]"], "reproduce.lambdas: 2.0"),
        (["--reproduce.taps", "[arm]", "--model.head", "linear"], "reproduce.taps: 'arm'"),
        (["--reproduce.lambda", "[1]"], "reproduce.lambda"),
        (["--shards", "nowhere"], "no data set here"),
    ],
)
@pytest.mark.parametrize("command", [["reproduce"], ["train", "reproduce"]])
def test_bad_settings_are_refused_before_anything_is_started(
    command: list[str], arguments: list[str], message: str, quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command[0] == "train":
        arguments = [word.replace("--shards", "--data.shards") for word in arguments]
    assert cli.main([*command, "--config", str(quick), *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("privatenet: error: ")
    assert message in said
    assert "\n" not in said
    assert not (quick.parent / "paper").exists()


def test_help_says_what_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["reproduce", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: privatenet reproduce")
    assert "Table 2" in said
