"""Training as a person starts it: the launchers, MLflow, going on, and what bad input gets."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dist_cases as cases
import numpy as np
import pytest
from forks import on_ranks
from support import Start
from watched import Watched

from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.launch import cli
from privatenet.launch.exits import guarded

PARTS = ("target", "known", "private", "unknown")


def test_a_whole_run_leaves_models_a_table_and_where_to_find_them(finished: tuple[Path, str]) -> None:
    config, said = finished
    output = config.parent / "run"
    for part in PARTS:
        state = json.loads((output / part / "final" / "state.json").read_text())
        assert state["test"]
        assert (output / part / "metrics.jsonl").is_file()
        assert not list((output / part).glob("checkpoints/step-*")), "checkpoints are left behind"
    assert [line.split()[0] for line in said.splitlines() if " epoch " in line] == ["target", *PARTS]
    assert "backbone-gender *" in said
    assert f"mlflow ui --backend-store-uri sqlite:///{output / 'mlflow.db'}" in said


def test_what_reaches_out_of_a_watched_place_is_noted(tmp_path: Path) -> None:
    place = Watched(tmp_path / "watched")
    reaching = (
        "import socket, subprocess; subprocess.run(['curl', '-s', 'x']); socket.create_connection(('192.0.2.1', 9))"
    )
    done = subprocess.run(
        [*place.command, sys.executable, "-c", reaching], env=place.environment, capture_output=True, timeout=60
    )
    assert done.returncode
    assert place.tries == ["program curl -s x", "socket.getaddrinfo 192.0.2.1", "socket.connect 192.0.2.1"]


def test_mlflow_holds_one_run_for_each_part_with_all_that_identifies_it(
    finished: tuple[Path, str], shards: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    config, _ = finished
    output = config.parent / "run"
    mlflow.set_tracking_uri(f"sqlite:///{output / 'mlflow.db'}")
    runs = mlflow.search_runs(experiment_names=["privatenet"], output_format="list")
    assert sorted(run.data.tags["folder"] for run in runs) == sorted(PARTS)
    fingerprint = load_manifest(shards).fingerprint
    for run in runs:
        part = run.data.tags["folder"]
        state = json.loads((output / part / "final" / "state.json").read_text())
        assert run.info.status == "FINISHED"
        assert run.data.params["protect.lambda"] == "0.5"
        assert run.data.tags["data.fingerprint"] == fingerprint
        assert run.data.tags["precision"] in ("bf16", "fp32")
        assert [item.dataset.digest for item in run.inputs.dataset_inputs] == [fingerprint[:36]]
        assert run.data.tags["checkpoint.sha256"] == state["files"]["model.safetensors"]
        assert run.data.metrics["images_per_s"] > 0
        for head, score in state["test"].items():
            assert run.data.metrics[f"test/{head}/accuracy"] == pytest.approx(score["accuracy"])
    (target,) = [run for run in runs if run.data.tags["folder"] == "target"]
    history = mlflow.MlflowClient().get_metric_history(target.info.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2]


@pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType")
def test_the_logged_model_answers_for_any_number_of_pictures(finished: tuple[Path, str]) -> None:
    mlflow = pytest.importorskip("mlflow")
    config, _ = finished
    mlflow.set_tracking_uri(f"sqlite:///{config.parent / 'run' / 'mlflow.db'}")
    (run,) = mlflow.search_runs(
        experiment_names=["privatenet"], filter_string="tags.folder = 'private'", output_format="list"
    )
    (output,) = run.outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 3, 96, 96)
    pictures = np.random.default_rng(0).normal(size=(5, 3, 96, 96)).astype(np.float32)
    together = model.predict(pictures)
    assert together.shape == (5, 7)
    assert np.allclose(together[3:4], model.predict(pictures[3:4]), atol=1e-4), (
        "a picture's answer has neighbours in it"
    )


def test_finished_stages_are_reused_and_another_setting_is_not_let_over_them(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = finished
    assert cli.main(["train", "run", "--config", str(config)]) == 0
    assert capsys.readouterr().out.count("done before") == 4
    message = bad_input(["train", "run", "--config", str(config), "--target.lr", "0.01"], capsys)
    assert "target.lr was 0.001, is 0.01): choose another --output" in message


def test_training_works_without_mlflow_and_ray_and_says_so_in_one_line(tiny_config: Path, start: Start) -> None:
    hide = "import sys; sys.modules.update(mlflow=None, ray=None); from privatenet.launch import cli; "
    call = f"sys.exit(cli.main(['train', 'target', '--config', {str(tiny_config)!r}, '--target.epochs', '1']))"
    done = start("-c", hide + call)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("mlflow is not installed: figures go to") == 1
    lines = (tiny_config.parent / "run" / "target" / "metrics.jsonl").read_text().splitlines()
    assert "validation/emotion/accuracy" in json.loads(lines[0])
    assert "test/emotion/accuracy" in json.loads(lines[-1])


def bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused: exit code 2, one line, no traceback."""
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("privatenet: error: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protect.lambda", "2"], "protect.lambda is 2.0: accepted are numbers from 0 to 1"),
        (["--target.epoch", "2"], "target.epoch"),
        (["--data.shards", "nowhere"], "no data set here"),
        (["--target.batch_size", "512"], "72 training samples are too few"),
        (["--model.weights", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    arguments: list[str], message: str, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in bad_input(["train", "target", "--config", str(tiny_config), *arguments], capsys)
    assert not (tiny_config.parent / "run").exists()


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("adversary", ["--attack.pairs", "[layer9-gender]"], "tap 'layer9' is unknown; accepted: image, layer1"),
        (
            "adversary",
            ["--attack.pairs", "[arm-race]"],
            "'race' is no private attribute: accepted are gender, age_group",
        ),
        ("private", ["--protect.terms", "[{at: layer2-gender}]"], "has no adversary layer2-gender"),
        ("private", ["--model.image_size", "128"], "the settings under `model` ask for"),
        ("private", ["--protect.start", "nothing"], "there is no finished stage"),
        ("private", ["--protect.adversaries", "unknown"], "was trained on another network"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    stage: str, arguments: list[str], message: str, finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = finished
    before = sorted((config.parent / "run").rglob("*"))
    assert message in bad_input(["train", stage, "--config", str(config), *arguments], capsys)
    assert sorted((config.parent / "run").rglob("*")) == before


def test_a_checkpoint_of_another_data_set_is_refused(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = finished
    other = tmp_path / "other"
    assert cli.main(["shards", "build", "synthetic", "--train", "40", "--test", "8", "--out", str(other)]) == 0
    capsys.readouterr()
    arguments = ["train", "adversary", "--config", str(config), "--data.shards", str(other)]
    assert "was trained on the data set" in bad_input(arguments, capsys)


def test_a_manifest_that_does_not_match_its_tars_is_refused(
    tiny_config: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(shards, damaged)
    with (damaged / "train-000000.tar").open("ab") as tar:
        tar.write(bytes(512))
    message = bad_input(["train", "target", "--config", str(tiny_config), "--data.shards", str(damaged)], capsys)
    assert "train-000000.tar" in message


@pytest.mark.parametrize(
    "command", [[], ["shards"], ["train"], ["run"], ["audit"], ["reproduce"], ["doctor"], ["shards", "build"]]
)
def test_help_is_there_everywhere(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main([*command, "--help"])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code == 0
    assert capsys.readouterr().out.startswith("usage: privatenet")


def test_the_doctor_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "deepspeed" in said
    assert "privatenet run --ranks" in said


@pytest.mark.parametrize(
    "command", [["trian"], ["shards", "verify", "nowhere"], ["send", "nowhere"], ["compare", "nothing", "--pik", "3"]]
)
def test_mistakes_are_answered_without_waiting_for_torch(command: list[str], start: Start) -> None:
    call = f"import sys; from privatenet.launch import cli; code = cli.main({command!r}); "
    done = start("-c", call + "sys.exit(9 if 'torch' in sys.modules else code)")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("privatenet: error: ")


@pytest.mark.skipif("PRIVATENET_LFW_RAF" not in os.environ, reason="PRIVATENET_LFW_RAF names no real faces")
def test_real_faces_are_learnt_in_one_epoch_on_two_ranks(tmp_path: Path) -> None:
    shards, output = tmp_path / "shards", tmp_path / "run"
    arguments = ["build", "rafdb", os.environ["PRIVATENET_LFW_RAF"], "--out", str(shards)]
    assert cli.main(["shards", *arguments]) == 0
    settings = ["--config", "laptop.yaml", "--data.shards", str(shards), "--output", str(output)]
    settings += ["--model.image_size", "80", "--target.epochs", "1", "--target.warmup_epochs", "0.3"]
    settings += ["--target.ema", "0", "--tracking.model", "false"]
    codes = [code for code, _ in on_ranks(2, cases.train_by_command, ["target", *settings])]
    assert codes == [0, 0]
    utility = json.loads((output / "target" / "final" / "state.json").read_text())["test"]["emotion"]
    assert utility["samples"] == 1239
    assert utility["accuracy"] > utility["majority"] + 0.1


def test_ctrl_c_while_a_command_is_read_in_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert cli.main(["audit", "runs/x"]) == 130
    assert capsys.readouterr().err == "privatenet: interrupted: nothing was begun\n"


def test_what_ctrl_c_ends_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise KeyboardInterrupt

    assert guarded(command) == 130
    assert capsys.readouterr().err == "privatenet: interrupted: the same command goes on\n"
