"""`privatenet sweep` as a person starts it: real Ray, a real MLflow server, and what goes wrong on the way."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray import cloudpickle, tune
from servers import MlflowServer, mlflow_server

from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.synthetic import synthetic_source
from privatenet.distributed.config import Config
from privatenet.distributed.place import free_port
from privatenet.distributed.tracking.store import TrackedRun, find_runs
from privatenet.launch import cli
from privatenet.tune.cluster import cluster
from privatenet.tune.group import Workers
from privatenet.tune.phases import STOPPED, Phase, run_phase
from privatenet.tune.settings import RayConfig, SearchConfig, SpaceConfig, SweepConfig
from privatenet.tune.storage import storage_of

mlflow = pytest.importorskip("mlflow")
__all__ = ["mlflow_server"]

pytestmark = pytest.mark.timeout(900)

SWEEP = """
data: {{shards: {shards}, validation: 0.25}}
model: {{backbone: mobilenet_v3_large, weights: none, image_size: 64}}
engine: {{precision: fp32}}
target: {{epochs: 1, batch_size: 16}}
adversary: {{epochs: 1, batch_size: 16}}
private: {{epochs: 2, batch_size: 16}}
tracking: {{model: false, uri: "{uri}", experiment: {experiment}}}
space: {space}
search: {{concurrent: 2, attackers: [logistic], {search}}}
output: {output}
"""

EPOCH_1 = re.compile(r"(\w+) lambda [^:]*: epoch 1, utility")


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
    def lines(self) -> str:
        return self.log.read_text()

    def wait_for(self, happened: Callable[[], Any], timeout: float = 400) -> None:
        end = time.monotonic() + timeout
        while not happened():
            assert self.process.poll() is None, self.lines[-3000:]
            assert time.monotonic() < end, self.lines[-3000:]
            time.sleep(0.1)

    def done(self, timeout: float = 600) -> str:
        try:
            assert self.process.wait(timeout) == 0, self.lines[-4000:]
        finally:
            kill_all(self.process)
        return self.lines

    def kill(self) -> None:
        """SIGKILL for the command alone, and wait until the trials, which lose Ray with it, have ended."""
        orphans = self.process.children(recursive=True)
        trials = [orphan for orphan in orphans if is_trial(orphan)]
        self.process.kill()
        try:
            assert not psutil.wait_procs([self.process, *trials], timeout=120)[1]
        finally:
            for orphan in orphans:  # some of Ray's own stay for a minute
                with suppress(psutil.NoSuchProcess):
                    orphan.kill()


def plain(**environment: str) -> dict[str, str]:
    """The environment of a person who has set nothing of MLflow's, Ray's or a launcher's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "RANK", "RAY"))}
    return {**inherited, **environment}


def kill_all(process: psutil.Process) -> None:
    if process.is_running():
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait(60)


def write_sweep(folder: Path, faces: Path, uri: str, space: str, search: str) -> Path:
    """Settings in `folder`/sweep.yaml; returns the output folder."""
    output = folder / folder.name
    settings = SWEEP.format(shards=faces, uri=uri, experiment=folder.name, space=space, search=search, output=output)
    (folder / "sweep.yaml").write_text(settings)
    return output


def trials_of(runs: list[TrackedRun]) -> list[TrackedRun]:
    return [run for run in runs if run.tags["stage"] == "private"]


def steps(uri: str, run: TrackedRun, metric: str) -> list[int]:
    return [point.step for point in mlflow.MlflowClient(uri).get_metric_history(run.run_id, metric)]


@dataclass(frozen=True)
class Searched:
    """A sweep that was killed and resumed: its output, MLflow's address, the trial that lost its worker, what the two
    commands printed, and their home folder."""

    output: Path
    uri: str
    trial: str
    killed: str
    resumed: str
    home: Path

    @property
    def runs(self) -> list[TrackedRun]:
        return find_runs(self.uri, [str(self.output)])


@pytest.fixture(scope="module")
def searched(faces: Path, mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Three trials that Optuna chose, the second of which diverges; one loses its worker, MLflow goes away, and the
    command is killed; then it is resumed."""
    folder, home = tmp_path_factory.mktemp("searched"), tmp_path_factory.mktemp("home")
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    # Tune notes every second, and not every ten, how far trials are: else the kill may come before it has.
    person = {"HOME": str(home), "XDG_CACHE_HOME": cache, "TUNE_GLOBAL_CHECKPOINT_S": "1"}
    space = "{lambda: {low: 0.1, high: 0.9}, objective: [confusion, adversarial], options: {prior: [uniform, class]}"
    space += ", taps: [backbone, arm], lr: [1.0e-3, 1.0e+30]}"
    output = write_sweep(folder, faces, mlflow_server.uri, space, "trials: 3, retries: 1, audit: quick, seed: 18")

    first = Command(folder, **person)
    try:
        first.wait_for(lambda: EPOCH_1.search(first.lines))
        trial = EPOCH_1.findall(first.lines)[0]
        mlflow_server.stop()
        worker_of(trial, first.process).kill()
        first.wait_for(lambda: re.search(f"{trial} .*: failed, is taken up again", first.lines))
        first.kill()
    finally:
        kill_all(first.process)
    mlflow_server.start()
    resumed = Command(folder, "--resume", **person).done()
    return Searched(output, mlflow_server.uri, trial, first.lines, resumed, home)


def worker_of(trial: str, process: psutil.Process) -> psutil.Process:
    """The process that trains a trial: Tune lets it work in a folder of the trial's name."""
    workers = [child for child in process.children(recursive=True) if is_trial(child)]
    return next(worker for worker in workers if Path(worker.cwd()).name == trial)


def is_trial(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "ImplicitFunc" in " ".join(process.cmdline())
    return False


def test_a_sweep_leaves_a_parent_with_one_child_for_each_trial(searched: Searched) -> None:
    parent = json.loads((searched.output / "mlflow.json").read_text())["run_id"]
    runs = find_runs(searched.uri, [parent])
    trials = trials_of(runs)
    assert len({run.tags["trial"] for run in trials}) == len(trials) == 3
    assert sorted(run.tags["stage"] for run in runs if run not in trials) == ["adversary", "target"]
    assert {run.parent for run in runs} == {parent}
    assert mlflow.MlflowClient(searched.uri).get_run(parent).info.status == "FINISHED"
    for run in trials:
        assert {"space.lambda", "space.objective", "space.taps"} <= run.params.keys()
        assert ("space.prior" in run.params) == (run.params["space.objective"] == "confusion")
        assert float(run.params["protect.lambda"]) == pytest.approx(float(run.params["space.lambda"]))
        assert run.name.startswith("lambda 0.")
        assert "test/emotion/accuracy" not in run.metrics, "test data are not for choosing"
        if run.status == "FINISHED":
            assert sorted(set(steps(searched.uri, run, "train/loss"))) == [1, 2]
            assert 0 <= run.metrics["validation/utility_low"] <= run.metrics["validation/utility"]
            pairs = [run.metrics[f"validation/{tap}-gender/excess"] for tap in ("backbone", "arm")]
            assert run.metrics["validation/leakage"] == max(pairs)
            assert (Path(run.tags["checkpoint"]) / "model.safetensors").is_file()
    assert "2 at a time" in searched.resumed
    assert not re.search("Traceback|WARNING", searched.killed + searched.resumed)


def test_a_killed_worker_and_a_killed_command_cost_an_epoch_and_a_finished_trial_is_not_run_again(
    searched: Searched,
) -> None:
    assert re.search("mobilenet_v3_large: done", searched.killed)
    assert not re.search("mobilenet_v3_large: starts", searched.resumed)
    assert re.search(f"{searched.trial} .*: epoch 2", searched.resumed)
    assert not re.search(f"{searched.trial} .*: epoch 1", searched.resumed)


def test_a_trial_that_diverges_is_recorded_as_failed_and_the_others_go_on(searched: Searched) -> None:
    trials = trials_of(searched.runs)
    diverging = [run for run in trials if float(run.params["space.lr"]) > 1]
    assert len(diverging) == 1
    for run in trials:
        assert run.status == ("FAILED" if run in diverging else "FINISHED")
        assert ("no longer finite" in run.tags.get("failure", "")) == (run in diverging)


def test_the_front_is_that_of_the_table_and_alone_was_tested(searched: Searched) -> None:
    output = searched.output
    with (output / "compare" / "front.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["utility"]]
    assert len(rows) == 3
    points = [(float(row["utility"]), float(row["leakage"])) for row in rows]
    for row, (utility, leakage) in zip(rows, points, strict=True):
        beaten = any(u >= utility and e <= leakage and (u, e) != (utility, leakage) for u, e in points)
        assert (row["on_front"] == "True") == (not beaten)
    trials = [run for run in trials_of(searched.runs) if run.status == "FINISHED"]
    trade_offs = [(run.metrics["validation/utility"], run.metrics["validation/leakage"]) for run in trials]
    for run, (utility, leakage) in zip(trials, trade_offs, strict=True):
        best = not any(u >= utility and e <= leakage and (u, e) != (utility, leakage) for u, e in trade_offs)
        assert ("test/leakage" in run.metrics) == best
        assert (output / "front" / run.tags["trial"] / "audit-private" / "report" / "report.html").is_file() == best
        assert str(output / "front") in run.tags["checkpoint"] or not best
    assert (output / "front" / "unprotected" / "audit-target" / "report" / "report.html").is_file()
    for name in ("compare.html", "front.png"):
        assert (output / "compare" / name).stat().st_size > 1000


def test_trials_share_the_unprotected_network_its_adversaries_and_the_decoded_pictures(searched: Searched) -> None:
    target = next(run for run in searched.runs if run.tags["stage"] == "target").tags["checkpoint.sha256"]
    for run in trials_of(searched.runs):
        if run.status == "FINISHED":
            settings = json.loads((Path(run.tags["checkpoint"]) / "state.json").read_text())["identity"]
            assert settings["network"] == target
    assert len(list((searched.output / "cache").rglob("pictures-train.npy"))) == 1


def test_compare_registers_the_chosen_model_under_an_alias(
    searched: Searched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # By number: networks of three trials need not have a knee.
    arguments = ["compare", str(searched.output), "--output", str(tmp_path), "--register", "hidden", "--pick", "2"]
    assert cli.main(arguments) == 0
    assert "hidden" in capsys.readouterr().out
    mlflow.set_tracking_uri(searched.uri)
    version = mlflow.MlflowClient().get_model_version_by_alias("hidden", "chosen")
    assert version.run_id in {run.run_id for run in searched.runs}
    model = mlflow.pytorch.load_model("models:/hidden@chosen")
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e6


def test_a_finished_sweep_is_not_begun_anew(searched: Searched, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(searched.output.parent / "sweep.yaml")
    assert cli.main(["sweep", "--config", config]) == 2
    assert "--resume goes on with it" in capsys.readouterr().err
    assert cli.main(["sweep", "--config", config, "--resume", "--search.trials", "7"]) == 2
    assert "holds another sweep (search.trials was 3, is 7)" in capsys.readouterr().err


def test_a_ray_that_starts_and_ends_with_the_sweep_leaves_nothing_in_the_home_folder(searched: Searched) -> None:
    assert not (searched.home / ".ray").exists()


def start_node(python: Path, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> psutil.Process:
    """`ray start`, and wait until it says that the node is there."""
    log = folder / f"node-{time.monotonic_ns()}"
    with log.open("wb") as stream:
        command = [str(python), "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *arguments]
        process = psutil.Popen(command, env=plain(**environment), cwd=folder, stdout=stream, stderr=stream)
    for _ in range(1200):
        if "Ray runtime started" in log.read_text():
            return process
        assert process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.1)
    raise TimeoutError(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has all that this package depends on, but not the package itself."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    source = Path(pytest.__file__).resolve().parents[1]
    for path in source.iterdir():
        if "privatenet" not in path.name and path.name != "__pycache__":
            (site / path.name).symlink_to(path)
    python = folder / "bin" / "python"
    missing = subprocess.run([str(python), "-I", "-c", "import ray, privatenet"], capture_output=True, text=True)
    assert "No module named 'privatenet'" in missing.stderr
    return python


@pytest.fixture(scope="module")
def two_nodes(bare_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster: a head without cores to give, and a node that lacks this package."""
    folder, address = tmp_path_factory.mktemp("nodes"), f"127.0.0.1:{free_port()}"
    open_to_all = {"RAY_AUTH_MODE": "disabled"}  # whatever token lies in the home folder
    head = ["--head", "--port", address.partition(":")[2], "--num-cpus", "0", "--include-dashboard", "false"]
    node = ["--address", address, "--num-cpus", "2"]
    nodes = []
    try:
        nodes.append(start_node(Path(sys.executable), head, folder, open_to_all))
        nodes.append(start_node(bare_python, node, folder, {**open_to_all, "PYTHONPATH": ""}))
        yield address
    finally:
        for process in nodes:
            kill_all(process)


def test_a_second_node_needs_only_the_wheel_and_a_sweep_goes_on_where_only_its_storage_survived(
    searched: Searched, two_nodes: str, wheel: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each trial has two ranks; the unprotected network is given, and is attacked at its logits, as it has no release;
    the storage is a URL."""
    output = write_sweep(tmp_path, faces, searched.uri, "{lambda: [0.3]}", "algorithm: grid, audit: quick")
    start = ["--protect.start", str(searched.output / "front" / "unprotected" / "target" / "final")]
    terms = ["--channel.kind", "noise", "--protect.terms", "[{at: release-gender, objective: mixture}]"]
    cluster_options = ["--ray.address", two_nodes, "--ray.wheel", str(wheel), "--ray.workers", "2"]
    cluster_options += ["--ray.storage", f"file://{tmp_path / 'storage'}"]
    command = ["sweep", "--quiet", "--config", str(tmp_path / "sweep.yaml"), *start, *terms, *cluster_options]

    assert cli.main(command) == 0
    assert "trials: 1 done" in capsys.readouterr().out
    assert {run.status for run in find_runs(searched.uri, [str(output)])} == {"FINISHED"}
    assert list((tmp_path / "storage" / output.name / "trials").glob("*/checkpoint_*"))
    front = (output / "compare" / "front.csv").read_text()
    parent = (output / "mlflow.json").read_text().partition(",")[0]

    shutil.rmtree(output)
    assert cli.main([*command, "--space.lambda", "[0.9]"]) == 2
    assert f"the folder '{output.name}' in ray.storage holds a sweep" in capsys.readouterr().err
    assert cli.main([*command, "--space.lambda", "[0.9]", "--resume"]) == 2
    assert "holds another sweep (space.lambda was [0.3], is [0.9])" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    lines = capsys.readouterr().out
    assert "trials: 1 done" in lines
    assert ": starts" not in lines, "a finished trial was run again"
    assert (output / "compare" / "front.csv").read_text() == front
    assert (output / "mlflow.json").read_text().partition(",")[0] == parent
    tested = {run.tags["mlflow.runName"]: run.metrics for run in find_runs(searched.uri, [str(output)])}
    assert "test/release-gender/excess" in tested["lambda 0.3"]
    assert "test/logits-gender/excess" in tested["unprotected"]
    assert {run.status for run in find_runs(searched.uri, [str(output)])} == {"FINISHED"}


@dataclass(frozen=True)
class Reports:
    """Stands in for a trial's plan: the utility that each trial reports after every epoch, by lambda."""

    utility: Mapping[float, float]
    workers: Workers = Workers(1, 1, 0.0)  # noqa: RUF009


def report_utility(parameters: Mapping[str, Any], plan: Reports) -> None:
    utility = plan.utility[parameters["point"]["lambda"]]
    for epoch in (1, 2):
        tune.report({"epoch": epoch, "utility": utility})
    tune.report({"epoch": 2, "utility": utility, "validation/utility": utility, "validation/process": os.getpid()})


def test_trials_share_a_process_and_those_that_do_worse_than_others_are_stopped_early(
    two_nodes: str, wheel: Path, tmp_path: Path
) -> None:
    """Trials of numbers only: how each of them trains is not for the scheduler."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    search = SearchConfig(algorithm="grid", goal="utility", stop_early=True, concurrent=1)
    ray = RayConfig(address=two_nodes, wheel=str(wheel))
    sweep = SweepConfig(Config(output=str(tmp_path / "sweep")), SpaceConfig(), search, ray, "", quiet=True)
    plan: Any = Reports({0.2: 0.8, 0.5: 0.9, 0.9: 0.7})
    with cluster(ray):
        points: list[dict[str, Any]] = [{"lambda": value} for value in plan.utility]
        phase = Phase("trials", report_utility, plan, points, stop_early=True)
        results = run_phase(phase, sweep, storage_of(sweep))
    assert [result.failure for result in results] == ["", "", STOPPED]
    assert [result.finished for result in results] == [True, True, False]
    assert len({result.metrics["validation/process"] for result in results[:2]}) == 1
