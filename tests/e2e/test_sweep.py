"""`privatenet sweep` as a person starts it: real Ray, a real MLflow server, and what goes wrong on the way."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from servers import MlflowServer, mlflow_server

from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.synthetic import synthetic_source
from privatenet.distributed.ranks import free_port
from privatenet.distributed.tracking.store import TrackedRun, find_runs
from privatenet.launch import cli

mlflow = pytest.importorskip("mlflow")
__all__ = ["mlflow_server"]

pytestmark = pytest.mark.timeout(1200)

SWEEP = """
data: {{shards: {shards}, validation: 0.25}}
model: {{backbone: mobilenet_v3_large, weights: none, image_size: 64}}
engine: {{precision: fp32}}
target: {{epochs: 1, batch_size: 16}}
adversary: {{epochs: 1, batch_size: 16}}
private: {{epochs: 2, batch_size: 16}}
tracking: {{model: false, uri: "{uri}", experiment: {experiment}}}
space: {space}
search: {{concurrent: 2, attackers: [logistic, mlp1], audit: quick, {search}}}
output: {output}
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faces") / "shards"
    build(synthetic_source(160, 48, seed=5), out, samples_per_shard=64)
    return out


class Command:
    """A sweep in a process of its own, and what it prints."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.log = folder / f"log-{time.monotonic_ns()}"
        command = [sys.executable, "-m", "privatenet.launch.cli", "sweep", "--config", str(folder / "sweep.yaml")]
        with self.log.open("wb") as log:
            self.process = psutil.Popen(
                [*command, *arguments], env=plain(**environment), cwd=folder, stdout=log, stderr=log
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, happened: Callable[[], bool], timeout: float = 400) -> None:
        end = time.monotonic() + timeout
        while not happened():
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < end, self.said[-3000:]
            time.sleep(0.1)

    def done(self, timeout: float = 600) -> str:
        try:
            assert self.process.wait(timeout) == 0, self.said[-4000:]
        finally:
            self.end()
        return self.said

    def end(self) -> None:
        kill_all(self.process)


def plain(**environment: str) -> dict[str, str]:
    """The environment of a person who has set nothing of MLflow's, Ray's or a launcher's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "RANK", "RAY"))}
    return {**own, **environment}


def kill_all(process: psutil.Process) -> None:
    if process.is_running():
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait(60)


def start_node(python: str, arguments: list[str], folder: Path, environment: dict[str, str]) -> psutil.Process:
    """`ray start`, and wait until it says that the node is there."""
    log = folder / f"node-{time.monotonic_ns()}"
    with log.open("wb") as stream:
        command = [python, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *arguments]
        process = psutil.Popen(command, env=plain(**environment), cwd=folder, stdout=stream, stderr=stream)
    for _ in range(1200):
        if "Ray runtime started" in log.read_text():
            return process
        assert process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.1)
    raise TimeoutError(log.read_text()[-2000:])


def write_sweep(folder: Path, faces: Path, uri: str, experiment: str, space: str, search: str) -> Path:
    path = folder / "sweep.yaml"
    output = folder / "out"
    path.write_text(
        SWEEP.format(shards=faces, uri=uri, experiment=experiment, space=space, search=search, output=output)
    )
    return output


def trials_of(runs: list[TrackedRun]) -> list[TrackedRun]:
    return [run for run in runs if run.tags["stage"] == "private"]


def steps(uri: str, run: TrackedRun, metric: str) -> list[int]:
    return [point.step for point in mlflow.MlflowClient(uri).get_metric_history(run.run_id, metric)]


@pytest.fixture(scope="module")
def searched(
    faces: Path, mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, str]:
    """Six trials that Optuna chose, two at a time: the output, the server's address and what was printed."""
    folder = tmp_path_factory.mktemp("searched")
    space = "{lambda: {low: 0.1, high: 0.9}, objective: [confusion, adversarial], prior: [uniform, class]"
    space += ", taps: [backbone, arm]}"
    output = write_sweep(folder, faces, mlflow_server.uri, "searched", space, "trials: 6")
    return output, mlflow_server.uri, Command(folder).done()


def test_a_sweep_leaves_a_parent_with_one_child_for_each_trial(searched: tuple[Path, str, str]) -> None:
    output, uri, said = searched
    parent = json.loads((output / "mlflow.json").read_text())["run_id"]
    runs = find_runs(uri, [parent])
    trials = trials_of(runs)
    assert len(trials) == 6
    assert sorted(run.tags["stage"] for run in runs if run not in trials) == ["adversary", "target"]
    assert {run.status for run in runs} == {"FINISHED"}
    assert {run.parent for run in runs} == {parent}
    assert mlflow.MlflowClient(uri).get_run(parent).info.status == "FINISHED"
    for run in trials:
        assert {"space.lambda", "space.objective", "space.taps"} <= run.params.keys()
        assert ("space.prior" in run.params) == (run.params["space.objective"] == "confusion")
        assert float(run.params["protect.lambda"]) == pytest.approx(float(run.params["space.lambda"]))
        assert run.name.startswith("lambda 0.")
        assert steps(uri, run, "train/loss") == [1, 2]
        assert 0 <= run.metrics["validation/utility_low"] <= run.metrics["validation/utility"]
        pairs = [run.metrics[f"validation/{tap}-gender/excess"] for tap in ("backbone", "arm")]
        assert run.metrics["validation/leakage"] == max(pairs)
        assert (Path(run.tags["checkpoint"]) / "model.safetensors").is_file()
        assert "test/emotion/accuracy" not in run.metrics, "test data are not for choosing"
    assert "2 at a time" in said
    assert not re.search("Traceback|WARNING", said)


def test_the_front_is_that_of_the_table_and_alone_was_tested(searched: tuple[Path, str, str]) -> None:
    output, uri, _ = searched
    with (output / "compare" / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    points = [(float(row["utility"]), float(row["leakage"])) for row in rows]
    for row, (utility, leakage) in zip(rows, points, strict=True):
        beaten = any(u >= utility and e <= leakage and (u, e) != (utility, leakage) for u, e in points)
        assert (row["on_front"] == "True") == (not beaten)
    trials = trials_of(find_runs(uri, [str(output)]))
    own = [(run.metrics["validation/utility"], run.metrics["validation/leakage"]) for run in trials]
    for run, (utility, leakage) in zip(trials, own, strict=True):
        best = not any(u >= utility and e <= leakage and (u, e) != (utility, leakage) for u, e in own)
        assert ("test/leakage" in run.metrics) == best
        assert (output / "front" / run.tags["trial"] / "audit-private" / "report" / "report.html").is_file() == best
        assert str(output / "front") in run.tags["checkpoint"] or not best
    assert (output / "front" / "unprotected" / "audit-target" / "report" / "report.html").is_file()
    for name in ("compare.html", "front.png"):
        assert (output / "compare" / name).stat().st_size > 1000


def test_trials_share_the_unprotected_network_its_adversaries_and_the_decoded_pictures(
    searched: tuple[Path, str, str],
) -> None:
    output, uri, said = searched
    assert said.count("shared: 1 done") == 1
    runs = find_runs(uri, [str(output)])
    target = next(run for run in runs if run.tags["stage"] == "target").tags["checkpoint.sha256"]
    for run in trials_of(runs):
        settings = json.loads((Path(run.tags["checkpoint"]) / "state.json").read_text())["settings"]
        assert settings["network"] == target
    assert len(list((output / "cache").rglob("pictures-train.npy"))) == 1


def test_compare_registers_the_chosen_model_under_an_alias(
    searched: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, uri, _ = searched
    arguments = ["compare", str(output), "--output", str(tmp_path), "--register", "hidden", "--pick", "knee"]
    assert cli.main(arguments) == 0
    assert "hidden" in capsys.readouterr().out
    mlflow.set_tracking_uri(uri)
    version = mlflow.MlflowClient().get_model_version_by_alias("hidden", "chosen")
    trials = {run.run_id: run for run in find_runs(uri, [str(output)])}
    assert version.run_id in trials
    model = mlflow.pytorch.load_model("models:/hidden@chosen")
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e6


def test_a_finished_sweep_is_not_begun_anew(
    searched: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(searched[0].parent / "sweep.yaml")
    assert cli.main(["sweep", "--config", config]) == 2
    assert "--resume goes on with it" in capsys.readouterr().err
    assert cli.main(["sweep", "--config", config, "--resume", "--search.trials", "7"]) == 2
    assert "holds another sweep (search.trials was 6, is 7)" in capsys.readouterr().err


def test_killed_workers_and_a_killed_driver_cost_an_epoch_and_no_run_is_there_twice(
    faces: Path, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    """Also: a trial that diverges is tried again, then recorded as failed, and the others go on; MLflow is away."""
    space = "{lambda: [0.2, 0.5, 0.8], lr: [1.0e-3, 1.0e+30], taps: [backbone]}"
    search = "algorithm: grid, retries: 1"
    output = write_sweep(tmp_path, faces, mlflow_server.uri, "killed", space, search)
    state = output / "ray" / "trials"

    first = Command(tmp_path)
    try:
        first.wait_for(lambda: len(list(state.glob("*/checkpoint_*"))) > 0)
        workers = [p for p in first.process.children(recursive=True) if "ImplicitFunc" in " ".join(p.cmdline())]
        assert workers
        workers[0].send_signal(signal.SIGKILL)
        first.wait_for(lambda: "is taken up again" in first.said)
        first.wait_for(lambda: first.said.count(": done,") >= 2 and "trials" in first.said)
        mlflow_server.stop()
        first.wait_for(lambda: len(re.findall(r"epoch 1, utility", first.said)) >= 3)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(30)
    finally:
        first.end()
    finished = set(re.findall(r"(\w+) lambda [^:]*: done,", first.said))
    assert finished
    time.sleep(3)
    mlflow_server.start()

    said = Command(tmp_path, "--resume").done()
    assert not finished & set(re.findall(r"(\w+) lambda [^:]*: starts", said)), "a finished trial was run again"
    runs = trials_of(find_runs(mlflow_server.uri, [str(output)]))
    assert len(runs) == 6
    assert len({run.tags["trial"] for run in runs}) == 6
    for run in runs:
        diverges = float(run.params["space.lr"]) > 1
        assert run.status == ("FAILED" if diverges else "FINISHED")
        assert ("no longer finite" in run.tags.get("failure", "")) == diverges
        if not diverges:
            assert sorted(set(steps(mlflow_server.uri, run, "train/loss"))) == [1, 2]
    with (output / "compare" / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(row["on_front"] == "True" for row in rows) >= 1


def test_bad_trials_are_stopped_early_and_a_server_that_is_away_is_told_later(
    faces: Path, mlflow_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = "{lambda: {low: 0.1, high: 0.9}, lr: {low: 1.0e-5, high: 1.0e-1, log: true}, known: [frozen, alternating]}"
    search = "algorithm: random, trials: 5, goal: score, stop_early: true, measure_every: 1"
    output = write_sweep(tmp_path, faces, mlflow_server.uri, "stopped", space, search)
    command = Command(tmp_path)
    try:
        command.wait_for(lambda: "trials: 5 to do" in command.said)
        mlflow_server.stop()
        said = command.done()
    finally:
        command.end()
        mlflow_server.start()
    assert "stopped early" in said
    assert cli.main(["send", str(output)]) == 0
    assert "sent" in capsys.readouterr().out

    runs = trials_of(find_runs(mlflow_server.uri, [str(output)]))
    assert len(runs) == 5
    stopped = [run for run in runs if run.status == "KILLED"]
    assert stopped
    for run in runs:
        assert run.status in ("KILLED", "FINISHED")
        assert ("stopped early" in run.tags.get("failure", "")) == (run in stopped)
        assert steps(mlflow_server.uri, run, "train/loss") == ([1] if run in stopped else [1, 2])
    tested = [run for run in runs if "test/leakage" in run.metrics]
    assert len(tested) == 1, "with a single goal the best one is audited"
    scores = {
        run.run_id: run.metrics["validation/utility"] - run.metrics["validation/leakage"]
        for run in runs
        if run not in stopped
    }
    assert tested[0].run_id == max(scores, key=scores.__getitem__)


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python that has all that this package depends on, but not the package itself."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    site = next((tmp_path / "bare" / "lib").glob("python*/site-packages"))
    source = Path(pytest.__file__).resolve().parents[1]
    for path in source.iterdir():
        if "privatenet" not in path.name and path.name != "__pycache__":
            (site / path.name).symlink_to(path)
    python = tmp_path / "bare" / "bin" / "python"
    missing = subprocess.run(
        [str(python), "-c", "import torch, ray; import privatenet"], capture_output=True, text=True
    )
    assert "No module named 'privatenet'" in missing.stderr
    return python


def test_a_second_node_needs_only_the_wheel(
    faces: Path, mlflow_server: MlflowServer, tmp_path: Path, bare_python: Path
) -> None:
    """The head has no cores to give, so that everything runs on the other node; the storage is a URL."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "setup.cfg").is_file():
        pytest.skip("needs the source tree")
    build_wheel = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)]
    subprocess.run(build_wheel, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    space = "{lambda: [0.2, 0.8], taps: [backbone]}"
    output = write_sweep(tmp_path, faces, mlflow_server.uri, "nodes", space, "algorithm: grid")
    address = f"127.0.0.1:{free_port()}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    head = ["--head", "--port", address.partition(":")[2], "--num-cpus", "0", "--include-dashboard", "false"]
    nodes = []
    try:
        for python, arguments in ((sys.executable, head), (bare_python, ["--address", address, "--num-cpus", "2"])):
            nodes.append(start_node(str(python), arguments, tmp_path, token))
        where = ["--ray.address", address, "--ray.wheel", str(wheel), "--ray.workers", "2", "--search.audit", "none"]
        said = Command(tmp_path, *where, "--ray.storage", f"file://{tmp_path / 'storage'}", **token).done()
    finally:
        for node in nodes:
            kill_all(node)
    assert "trials: 2 done" in said
    assert {run.status for run in find_runs(mlflow_server.uri, [str(output)])} == {"FINISHED"}
    assert list((tmp_path / "storage" / "trials").glob("*/checkpoint_*"))
    shipped = yaml.safe_load((output / "sweep.yaml").read_text())
    assert shipped["search"]["algorithm"] == "grid"
