"""Tracking with a real MLflow server that goes away and comes back: nothing is lost, and nothing waits for it."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from servers import Gate, MlflowServer, gate, mlflow_server
from support import Start
from torch import nn

from privatenet.data_shards.uri import Uri
from privatenet.distributed.config import TrackingConfig
from privatenet.distributed.errors import ConfigError, Interrupted
from privatenet.distributed.tracking import outbox, store
from privatenet.distributed.tracking.registry import register
from privatenet.distributed.tracking.sender import deliver, pause_s
from privatenet.distributed.tracking.store import find_runs
from privatenet.distributed.tracking.tracker import Tracker, conclude, log_files, parent_run
from privatenet.launch import cli

mlflow = pytest.importorskip("mlflow")
__all__ = ["mlflow_server"]

SETTINGS = {"target": {"lr": 0.1}, "long": "x" * 9000}


class Tiny(nn.Module):
    """Answers as a network does: logits and taps."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.head(images.mean((2, 3))), {}


@pytest.fixture
def config(mlflow_server: MlflowServer) -> TrackingConfig:
    return TrackingConfig(uri=mlflow_server.uri, experiment="tracked")


@pytest.fixture
def server(mlflow_server: MlflowServer) -> Iterator[Gate]:
    """The server at an address of its own, which can be away for a while."""
    with gate(mlflow_server.port) as opened:
        yield opened


def tracker(config: TrackingConfig, folder: Path, lines: list[str], stage: str = "private") -> Tracker:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    return Tracker(config, folder, stage, SETTINGS, lines.append)


def stored(config: TrackingConfig, run_id: str | None) -> Any:
    return mlflow.MlflowClient(config.uri.full).get_run(run_id)


def steps(config: TrackingConfig, run_id: str | None) -> list[int]:
    history = mlflow.MlflowClient(config.uri).get_metric_history(run_id, "train/loss")
    return [metric.step for metric in history]


def test_what_a_run_says_reaches_the_server_at_once(config: TrackingConfig, tmp_path: Path) -> None:
    lines: list[str] = []
    run = tracker(config, tmp_path / "run" / "private", lines)
    run.data("tiny", "shards/tiny", "f" * 64)
    run.log({"train/loss": 2.0, "validation/emotion/auc": float("nan")}, 1)
    run.params({"lambda": 0.5, "target.lr": 0.2})
    run.params({"lambda": 0.5})
    run.tag({"front": "yes"})
    (tmp_path / "run" / "report").mkdir()
    (tmp_path / "run" / "report" / "page.html").write_text("page")
    run.artifacts(tmp_path / "run" / "report")
    run.finish("a" * 64, None, 0)

    entry = stored(config, run.run_id)
    assert entry.info.status == "FINISHED"
    assert entry.data.metrics == {"train/loss": 2.0}
    assert entry.data.params["target.lr"] == "0.1"
    assert entry.data.params["lambda"] == "0.5"
    assert len(entry.data.params["long"]) == 6000
    assert entry.data.tags["front"] == "yes"
    assert entry.data.tags["checkpoint.sha256"] == "a" * 64
    assert entry.data.tags["folder"] == "private"
    (data,) = entry.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("tiny", "f" * 36)
    client = mlflow.MlflowClient(config.uri)
    assert {item.path for item in client.list_artifacts(run.run_id)} == {"config.yaml", "report"}
    assert [item.path for item in client.list_artifacts(run.run_id, "report")] == ["report/page.html"]
    assert not lines
    assert deliver(run.folder) == 0


def test_training_goes_on_while_the_server_is_away_and_nothing_is_lost(
    server: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config, lines = TrackingConfig(uri=server.uri, experiment="away"), list[str]()
    run = tracker(config, tmp_path / "run" / "target", lines)
    other = tracker(config, tmp_path / "run" / "private", lines)
    with parent_run(config, tmp_path / "all", "reproduce") as tracking:
        run.log({"train/loss": 3.0}, 1)
        server.shut()
        try:
            start = time.monotonic()
            for epoch in range(2, 7):
                run.log({"train/loss": 3.0 / epoch}, epoch)
            other.log({"train/loss": 1.0}, 1)
            other.finish("b" * 64, Tiny(), 32)
            nested = tracker(replace(tracking, trial="t0"), tmp_path / "all" / "t0" / "private", lines)
            nested.stop("FAILED", "out of memory")
            killed = replace(tracking, trial="t1")
            conclude(killed, tmp_path / "ended" / "t1", "private", {}, {"failure": "killed"}, "FAILED", lines.append)
            (tmp_path / "all" / "table.md").write_text("table")
            log_files(tracking, [tmp_path / "all" / "table.md"], lines.append)
            took = time.monotonic() - start
            assert took < 5

            assert nested.run_id is None
            assert sum("cannot be used (ConnectionRefusedError" in line for line in lines) == 5
            assert sum(line == "the model is left out: MLflow is away" for line in lines) == 1
            assert (
                f"MLflow does not have all: once it is back, `privatenet send {other.folder} --uri {server.uri}` "
                "sends the rest" in lines
            )
            with pytest.raises(ConfigError, match=r"tracking\.uri: http://127.*cannot be used"):
                tracker(config, tmp_path / "wrong" / "target", lines)
            assert {path.name for path in (tmp_path / "wrong" / "target").iterdir()} == {"config.yaml"}
            with pytest.raises(ConfigError, match=r"tracking\.uri"):
                find_runs(config.uri, ["away"])
            assert cli.main(["send", str(tmp_path), "--uri", server.uri]) == 2
            assert capsys.readouterr().err.count("\n") == 1
        finally:
            server.open()

    monkeypatch.setattr(run.sender, "retry_at", 0.0)  # as if half a minute had gone by
    lines.clear()
    run.log({"train/loss": 0.1}, 7)
    assert lines == [f"{config.uri} is back and has what waited: 6 messages"]
    assert steps(config, run.run_id) == [1, 2, 3, 4, 5, 6, 7]

    assert cli.main(["send", str(tmp_path)]) == 2, "an outbox may come from somebody else, with a server of theirs"
    assert f"add --uri {server.uri} if that is your server" in capsys.readouterr().err
    assert cli.main(["send", str(tmp_path), "--uri", server.uri]) == 0
    sent = dict(line.split("  ") for line in capsys.readouterr().out.splitlines())
    assert sent[str(other.folder)] == "sent 3"
    assert sent[str(run.folder)] == "nothing waits"
    assert stored(config, other.run_id).info.status == "FINISHED"
    assert steps(config, other.run_id) == [1]
    late = stored(config, nested.run_id)
    assert late.info.status == "FAILED"
    assert late.data.tags["failure"] == "out of memory"
    assert late.data.tags["mlflow.parentRunId"] == tracking.parent
    kept = mlflow.MlflowClient(config.uri).list_artifacts(tracking.parent)
    assert [item.path for item in kept] == ["table.md"]
    assert stored(config, tracking.parent).info.status == "FINISHED"


def test_two_that_send_at_once_send_everything_once(config: TrackingConfig, tmp_path: Path) -> None:
    run = tracker(config, tmp_path / "run" / "target", [])
    assert run.sender is not None
    run.sender.add(*(outbox.LogMetrics({"train/loss": 1.0}, epoch, 1.0) for epoch in range(1, 21)))
    with ThreadPoolExecutor(2) as pool:
        counts = sorted(pool.map(deliver, [run.folder] * 2))
    assert counts == [0, 20]
    assert steps(config, run.run_id) == list(range(1, 21))


def test_a_run_goes_on_under_its_own_id_and_a_trial_is_found_again_by_its_name(
    config: TrackingConfig, tmp_path: Path
) -> None:
    lines: list[str] = []
    with parent_run(config, tmp_path / "sweep", "tune") as tracking:
        trial = replace(tracking, trial="trial-3")
        first = tracker(trial, tmp_path / "one" / "private", lines)
        first.log({"train/loss": 1.0, "images_per_s": 8.0}, 1)
        first.stop("FAILED", "x" * 900)
        assert len(stored(config, first.run_id).data.tags["failure"]) == 500

        again = tracker(trial, tmp_path / "one" / "private", lines)
        again.log({"train/loss": 1.0, "images_per_s": 9.0}, 1)  # trained once more, after a kill before its checkpoint
        assert again.run_id == first.run_id
        assert (again.lines.read_text().count("\n"), steps(config, first.run_id)) == (1, [1])
        entry = stored(config, first.run_id)
        assert entry.info.status == "RUNNING"
        assert "failure" not in entry.data.tags

        elsewhere = tracker(trial, tmp_path / "two" / "private", lines)  # killed before its folder could be saved
        assert elsewhere.run_id == first.run_id
        elsewhere.log({"train/loss": 1.0}, 2)
        elsewhere.finish("c" * 64, None, 0)
        assert steps(config, first.run_id) == [1, 2]

        unknown = tracker(trial, tmp_path / "two" / "unknown", lines, "adversary")
        other = tracker(replace(tracking, trial="trial-4"), tmp_path / "three" / "private", lines)
        assert len({first.run_id, unknown.run_id, other.run_id}) == 3
        assert stored(config, other.run_id).data.tags["trial"] == "trial-4"
    assert not lines
    assert len(find_runs(config.uri, [tracking.parent])) == 3


def test_a_trial_that_could_not_speak_is_recorded_once_as_failed(config: TrackingConfig, tmp_path: Path) -> None:
    with parent_run(config, tmp_path / "sweep", "tune") as tracking:
        silent, begun = replace(tracking, trial="trial-0"), replace(tracking, trial="trial-1")
        run = tracker(begun, tmp_path / "trial-1" / "private", [])
        for _ in range(2):
            why = {"failure": "the worker died"}
            conclude(silent, tmp_path / "ended" / "0", "private", {"lambda": 0.7}, why, "FAILED")
        why = {"failure": "the worker died too"}
        conclude(begun, tmp_path / "ended" / "1", "private", {"lambda": 0.9}, why, "FAILED")
    never, died = sorted(find_runs(config.uri, [str(tmp_path / "sweep")]), key=lambda run: run.tags["trial"])
    assert never.status == died.status == "FAILED"
    conclude(begun, tmp_path / "ended" / "1", "private", {}, {"checkpoint": "s3://there"})
    (concluded,) = find_runs(config.uri, [run.run_id])
    assert (concluded.status, concluded.tags["checkpoint"]) == ("FAILED", "s3://there"), (
        "a word more opens no run again"
    )
    assert never.params == {"lambda": "0.7"}
    assert never.tags["failure"] == "the worker died"
    assert never.parent == died.parent == tracking.parent
    assert (died.run_id, died.tags["failure"]) == (run.run_id, "the worker died too")
    later = tracker(silent, tmp_path / "trial-0" / "private", [])
    assert later.run_id == never.run_id, "a trial that is tried again goes on in the run of its failure"


def test_what_the_server_refuses_is_said_and_does_not_hold_up_the_rest(config: TrackingConfig, tmp_path: Path) -> None:
    lines: list[str] = []
    run = tracker(config, tmp_path / "run" / "private", lines)
    run.tag({"a;b": "no such name"})
    run.artifacts(tmp_path / "nowhere")
    run.log({"train/loss": 1.0}, 1)
    assert len(lines) == 2
    assert lines[0].startswith(f"MLflow refused tags of run {run.run_id}: ")
    assert "nowhere" in lines[1]
    assert steps(config, run.run_id) == [1]


def test_a_message_cut_short_by_a_kill_does_not_spoil_the_next(config: TrackingConfig, tmp_path: Path) -> None:
    run = tracker(config, tmp_path / "run" / "private", [])
    with (run.folder / outbox.OUTBOX).open("a") as file:
        file.write('{"what": "metr')
    again = tracker(config, run.folder, [])
    again.log({"train/loss": 1.0}, 1)
    assert steps(config, run.run_id) == [1]


def test_another_store_gets_the_whole_story(config: TrackingConfig, server: Gate, tmp_path: Path) -> None:
    run = tracker(config, tmp_path / "run" / "private", [])
    run.log({"train/loss": 1.0}, 1)
    run.stop("KILLED")
    first = run.run_id
    moved = tracker(replace(config, uri=server.uri), run.folder, [])
    assert moved.run_id != first
    assert steps(config, moved.run_id) == [1]
    assert stored(config, moved.run_id).info.status == "RUNNING"


def test_credentials_of_a_store_come_with_the_command_and_make_no_other_run_of_it(
    config: TrackingConfig, mlflow_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with gate(mlflow_server.port, "kim", "s3cret") as server:
        secret = replace(config, uri=Uri(server.uri.replace("//", "//kim:s3cret@")))
        run = tracker(secret, tmp_path / "run" / "private", [])
        again = tracker(secret, run.folder, [])
        assert again.run_id == run.run_id
        outbox.append(run.folder, outbox.SetTags({"late": "yes"}))
        for uri in (server.uri, server.uri.replace("//", "//kim:wrong@")):
            assert cli.main(["send", str(tmp_path), "--uri", uri]) == 2
            error = capsys.readouterr().err
            assert f"tracking.uri: {server.uri} cannot be used" in error
            assert "MLFLOW_TRACKING_PASSWORD" in error
            assert "wrong" not in error
        assert cli.main(["send", str(tmp_path), "--uri", "http://other"]) == 2
        assert f"nothing waits for http://other: accepted are {server.uri}" in capsys.readouterr().err
        assert cli.main(["send", str(tmp_path), "--uri", secret.uri.full]) == 0
        assert stored(config, run.run_id).data.tags["late"] == "yes"
        assert [found.run_id for found in find_runs(secret.uri, [str(run.folder)])] == [run.run_id]


def test_runs_are_found_by_experiment_id_and_folder(config: TrackingConfig, tmp_path: Path) -> None:
    config = replace(config, experiment="found")
    lone = tracker(config, tmp_path / "lone" / "target", [], "target")
    with parent_run(config, tmp_path / "sweep", "tune") as tracking:
        parts = [tracker(tracking, tmp_path / "sweep" / name, []) for name in ("a", "b")]
    ids = [part.run_id for part in parts]
    assert [run.run_id for run in find_runs(config.uri, ["found"])] == [lone.run_id, *ids]
    assert [run.run_id for run in find_runs(Uri(), [str(tmp_path / "sweep")])] == ids
    (found,) = find_runs(config.uri, [str(lone.run_id), str(lone.folder)])
    assert (found.name, found.status, found.parent, found.experiment) == ("lone/target", "RUNNING", "", "found")
    assert found.params["target.lr"] == "0.1"
    with pytest.raises(ConfigError, match=r"no experiment and no run 'fuond': its experiments are .*found"):
        find_runs(config.uri, ["fuond"])
    with pytest.raises(ConfigError, match=r"give tracking\.uri"):
        find_runs(Uri(), ["found"])


def test_more_runs_than_a_page_holds_are_all_found(config: TrackingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    client = store.connect(config.uri)
    experiment = store.experiment_id(client, "many")
    made = {client.create_run(experiment).info.run_id for _ in range(5)}
    search = client.search_runs
    monkeypatch.setattr(client, "search_runs", lambda *args, **named: search(*args, max_results=2, **named))
    monkeypatch.setattr(store, "connect", lambda _: client)
    assert {run.run_id for run in find_runs(config.uri, ["many"])} == made


@pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType")
@pytest.mark.parametrize("logged", [True, False])
def test_a_model_is_registered_and_loaded_by_its_alias(logged: bool, config: TrackingConfig, tmp_path: Path) -> None:
    network = Tiny()
    run = tracker(replace(config, model=logged), tmp_path / "run" / "private", [])
    run.finish("d" * 64, network, 32)
    (found,) = find_runs(config.uri, [str(run.run_id)])
    name = f"face-{logged}"
    if not logged:
        with pytest.raises(ConfigError, match="has no model"):
            register(config.uri, found, name, "best", None, 32)
    versions = [register(config.uri, found, name, "best", network, 32) for _ in range(2)]
    assert versions == ["1", "2"]
    assert stored(config, run.run_id).info.status == "FINISHED"
    assert len(stored(config, run.run_id).outputs.model_outputs) == 1
    mlflow.set_tracking_uri(config.uri)
    model = mlflow.pyfunc.load_model(f"models:/{name}@best")
    pictures = np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        logits = network(torch.from_numpy(pictures))[0].numpy()
    assert np.allclose(model.predict(pictures), logits, atol=1e-5)
    assert mlflow.MlflowClient(config.uri).get_model_version_by_alias(name, "best").run_id == run.run_id
    (experiment,) = mlflow.MlflowClient(config.uri).search_experiments(filter_string="name = 'tracked'")
    logged_model = mlflow.MlflowClient(config.uri).get_logged_model(model.metadata.model_id)
    assert logged_model.experiment_id == experiment.experiment_id


def test_an_interrupted_parent_says_how_it_ended(config: TrackingConfig, tmp_path: Path) -> None:
    with pytest.raises(Interrupted), parent_run(config, tmp_path / "stopped", "tune") as stopped:
        raise Interrupted("asked to stop")
    with pytest.raises(ZeroDivisionError), parent_run(config, tmp_path / "failed", "tune") as failed:
        _ = 1 / 0
    assert stored(config, stopped.parent).info.status == "KILLED"
    assert stored(config, failed.parent).info.status == "FAILED"
    assert stored(config, failed.parent).data.tags["failure"] == "ZeroDivisionError: division by zero"


def test_files_outside_of_the_named_folder_are_sent_to_nobody(
    config: TrackingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tracker(config, tmp_path / "run" / "private", [])
    secret, report = tmp_path / "secret.txt", tmp_path / "run" / "audit-private"
    report.mkdir()
    secret.write_text("nobody's business")
    (report / "report.md").write_text("report")
    (report / "figures").symlink_to(tmp_path)
    (run.folder / "link").symlink_to(secret)
    (run.folder / "model.md").write_text("model")
    for name in ("../../secret.txt", str(secret), "link", "../audit-private", "model.md"):
        outbox.append(run.folder, outbox.LogFiles(name))

    def send() -> set[str]:
        assert cli.main(["send", str(tmp_path / "run"), "--uri", config.uri]) == 0
        return {file.path for file in mlflow.MlflowClient(config.uri).list_artifacts(run.run_id)}

    assert send() == {"config.yaml", "model.md"}
    assert capsys.readouterr().out.count(f"is not below {tmp_path / 'run'}: it is not sent") == 4
    (report / "figures").unlink()
    outbox.append(run.folder, outbox.LogFiles("../audit-private"))
    assert send() == {"config.yaml", "model.md", "audit-private"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: is no message: Invalid JSON"),
        ("[]", "line 2: is no message"),
        ('{"kind": "shell", "command": "rm"}', "line 2: is no message: kind: Input should be 'run', 'params'"),
        (
            '{"kind": "metrics", "values": {"loss": "low"}, "epoch": 1, "time_s": 0}',
            "message of metrics: values.loss: ",
        ),
        ('{"kind": "files", "path": ["/etc/passwd"]}', "line 2: is no message of files: path: Input should be a valid"),
        ('{"kind": "status"}', "line 2: is no message of status: status: "),
    ],
)
def test_an_outbox_holds_what_no_run_reports(
    line: str, message: str, config: TrackingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "mlflow-outbox.jsonl").write_text(f"{outbox.encode(outbox.SetTags({'a': 'b'}))}\n{line}\n")
    (run / "mlflow.json").write_text(json.dumps({"run_id": "", "uri": config.uri, "sent": 0}))
    assert cli.main(["send", str(run), "--uri", config.uri]) == 2
    assert message in capsys.readouterr().err
    (run / "mlflow.json").write_text(json.dumps({"run_id": "", "uri": config.uri, "sent": -1}))
    assert cli.main(["send", str(run), "--uri", config.uri]) == 2
    assert "mlflow.json: is no record of what was sent: sent: " in capsys.readouterr().err


def test_mlflow_and_ray_tell_others_of_their_use(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "PYTEST_CURRENT_TEST", "PYTEST_VERSION", "GITHUB_ACTIONS", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)  # they make MLflow silent by themselves
    code = f"""
from privatenet.data_shards.uri import Uri
from privatenet.distributed.tracking import store
from privatenet.tune import cluster
store.connect(Uri("sqlite:///{tmp_path}/mlflow.db"))
cluster._set_defaults(cluster.ENVIRONMENT)
from mlflow.telemetry.utils import is_telemetry_disabled
from ray._common.usage.usage_lib import usage_stats_enabled
print("told", not is_telemetry_disabled(), usage_stats_enabled())
"""
    assert start("-c", code).stdout.split("\n")[-2] == "told False False"


def test_trying_in_vain_takes_a_twentieth_of_the_time_at_most() -> None:
    assert pause_s(0.01) == 30
    assert pause_s(20.0) == 400


def test_send_refuses_folders_without_anything_to_send(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["send", str(tmp_path)]) == 2
    assert "there is no mlflow-outbox.jsonl here or below" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        cli.main(["send", "--help"])
    assert capsys.readouterr().out.startswith("usage: privatenet send")
    with pytest.raises(ConfigError, match=r"has no mlflow\.json"):
        deliver(tmp_path)


def test_without_mlflow_figures_stay_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MLFLOW", False)
    lines: list[str] = []
    run = tracker(TrackingConfig(), tmp_path, lines)
    run.log({"train/loss": 1.0}, 1)
    run.stop("FAILED", "why")
    assert lines == [f"mlflow is not installed: figures go to {tmp_path / 'metrics.jsonl'} only"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["train/loss"] == 1.0
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('[]\n{"time": 1.0, "epo')  # cut short by a kill
    tracker(TrackingConfig(), tmp_path, lines).log({"train/loss": 0.5}, 2)
    first, _, second = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in (first, second)] == [1, 2]
    conclude(TrackingConfig(parent="p", trial="t"), tmp_path / "t", "private", {}, {}, "FAILED")
    assert not (tmp_path / "t").exists()


def test_a_store_whose_maker_was_killed_is_made_anew(tmp_path: Path, start: Start) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    die = "import os; os.link = lambda *_: os._exit(9)"
    imports = "from privatenet.data_shards.uri import Uri; from privatenet.distributed.tracking import store"
    killed = start("-c", f"{die}; {imports}; store.connect(Uri({uri!r}))")
    assert killed.returncode == 9, killed.stderr
    assert not (tmp_path / "mlflow.db").exists()
    assert [each.name for each in store.connect(Uri(uri)).search_experiments()] == ["Default"]
