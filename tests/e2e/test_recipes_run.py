"""The recipes for clusters under what they are written for: a real SLURM, a real database, a real Ray cluster.

They take minutes and packages of the system: `pytest -m recipes`, after `apt install slurm-wlm munge postgresql` and
`pip install psycopg2-binary`. The ordinary suite leaves them out.
"""

import contextlib
import http.client
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm
from servers import MlflowServer, ObjectStore, Postgres, mlflow_server, object_store
from support import ROOT, TINY, Start, wait_for

from privatenet.distributed.checkpoint import load
from privatenet.distributed.place import free_port
from privatenet.distributed.tracking.store import find_runs

__all__ = ["mlflow_server", "object_store"]

RECIPES = ROOT / "launch" / "recipes"
OURS = f"{sys.executable} -m privatenet.launch.cli"

pytestmark = pytest.mark.recipes


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Settings of a run of seconds, without the data and the output, which recipes name themselves."""
    lines = TINY.format(shards="", output="").splitlines()
    path = tmp_path / "tiny.yaml"
    path.write_text("\n".join(line for line in lines if not line.startswith(("data:", "output:"))))
    return path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[slurm.Slurm]:
    if missing := slurm.missing():
        pytest.skip(f"there is no {missing} here: apt install slurm-wlm munge")
    with slurm.slurm(tmp_path / "slurm") as running:
        yield running


def test_a_slurm_job_that_is_told_that_its_time_is_up_saves_goes_back_into_the_queue_and_ends_what_it_began(
    cluster: slurm.Slurm, shards: Path, tiny: Path, tmp_path: Path
) -> None:
    activate = tmp_path / "privatenet/.venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    log, run = tmp_path / "log", tmp_path / "runs/rafdb"
    node = ["--nodes=1", "--gpus-per-node=2", "--cpus-per-task=2", "--time=30", f"--output={log}"]
    settings = [
        "--config",
        str(tiny),
        "--data.shards",
        str(shards),
        "--tracking.uri",
        f"sqlite:///{tmp_path}/mlflow.db",
    ]
    settings += ["--tracking.model=false", "--target.epochs=12", "--model.image_size=64"]
    alone = {"HOME": str(tmp_path), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    job = cluster.submit(RECIPES / "train.slurm", node, settings, **alone)
    wait_for(lambda: log.exists() and "epoch 2/12" in log.read_text(), 240)
    cluster.say("scancel", "--batch", "--signal=USR1", job)  # as SLURM does two minutes before the limit
    wait_for(lambda: cluster.state(job)["Restarts"] == "1", 120)
    assert "the same command goes on from there" in log.read_text()
    assert not (run / "target/final").exists(), "it was told too late to show anything"
    cluster.say("scontrol", "update", f"JobId={job}", "StartTime=now")  # else SLURM leaves it there for two minutes
    wait_for(lambda: cluster.state(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED"), 400)
    assert cluster.state(job)["JobState"] == "COMPLETED", log.read_text()[-3000:]
    for stage in ("target", "known", "private", "unknown"):
        assert load(run / stage / "final").state["test"]
    assert log.read_text().count("epoch 1/12") == 1, "it began anew"


@pytest.fixture
def database() -> Iterator[Postgres]:
    pytest.importorskip("psycopg2")
    if not Postgres.program("postgres"):
        pytest.skip("there is no PostgreSQL here: apt install postgresql")
    running = Postgres()
    yield running
    running.stop()


def test_a_run_is_not_recorded_by_an_mlflow_server_with_a_database_and_an_object_store(
    database: Postgres, object_store: ObjectStore, shards: Path, tiny: Path, tmp_path: Path, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", object_store.environment["AWS_ENDPOINT_URL"])
    server = MlflowServer(tmp_path, database.uri, "s3://runs/mlflow", "--allowed-hosts", "MLFLOW:5000,127.0.0.1:*")
    server.start()
    try:
        for name, code in (("MLFLOW:5000", 200), ("elsewhere:5000", 403)):
            assert _status(server.port, name) == code
        settings = ["--config", str(tiny), "--data.shards", str(shards), "--output", str(tmp_path / "run")]
        settings += ["--tracking.uri", str(server.uri), "--model.image_size=64", "--target.epochs=1"]
        done = start("-m", "privatenet.launch.cli", "train", "target", *settings)
        assert done.returncode == 0, done.stderr
        server.stop()  # as one that fails; what comes now has to wait
        server.start()
        (run,) = find_runs(server.uri, [str(tmp_path / "run/target")])
        assert (run.status, run.params["target.epochs"]) == ("FINISHED", "1")
        assert (
            run.metrics["test/emotion/accuracy"]
            == load(tmp_path / "run/target/final").state["test"]["emotion"]["accuracy"]
        )
    finally:
        server.stop()
    import psycopg2

    with contextlib.closing(psycopg2.connect(database.address)) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from metrics where run_uuid = %s", (run.run_id,))
        assert cursor.fetchone()[0] > 5
    files = {path for path in _store(object_store).find("runs/mlflow") if path.endswith("MLmodel")}
    assert len(files) == 1


def _status(port: int, host: str) -> int:
    """What the server at this port answers to one who calls it by this name."""
    path = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status


def _store(object_store: ObjectStore) -> Any:
    import s3fs

    return s3fs.S3FileSystem(endpoint_url=object_store.environment["AWS_ENDPOINT_URL"], skip_instance_cache=True)


SWEEP = """
data: {validation: 0.25}
model: {backbone: mobilenet_v3_large, weights: none, image_size: 64}
engine: {precision: fp32}
target: {epochs: 1, batch_size: 16}
adversary: {epochs: 1, batch_size: 16}
private: {epochs: 1, batch_size: 16}
tracking: {model: false}
space: {lambda: [0.2, 0.8]}
search: {algorithm: grid, attackers: [logistic], audit: none}
"""
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture
def ray_jobs(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray cluster of one node that takes jobs from who has its token, as the recipe's."""
    for package in ("aiohttp_cors", "opencensus"):
        pytest.importorskip(package, reason="needs Ray's job server: pip install 'ray[default]'")
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets' paths are short
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex())
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    port, dashboard = free_port(), free_port()
    node = [
        "--head",
        "--block",
        "--num-cpus=2",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--temp-dir={folder}",
    ]
    with (Path(folder) / "log").open("wb") as log:
        process = subprocess.Popen([*RAY, "start", *node], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(
            lambda: subprocess.run([*RAY, "job", "list", "--address", address], capture_output=True).returncode == 0
        )
        yield address
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_sweep_that_is_submitted_to_a_ray_cluster_leaves_no_front(
    ray_jobs: str, object_store: ObjectStore, mlflow_server: MlflowServer, shards: Path, tmp_path: Path
) -> None:
    """The recipe's own command, with a tiny sweep in place of RAF-DB's and processors in place of GPUs."""
    _store(object_store).put(str(shards), "runs/rafdb", recursive=True)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    text = re.sub(r" \\\n#\s*", " ", (RECIPES / "ray_cluster.yaml").read_text())
    (line,) = (line for line in text.splitlines() if "--no-wait" in line)
    here = {"sweep_rafdb.yaml": str(tmp_path / "sweep.yaml"), "/home/ray/runs/sweep_rafdb": str(tmp_path / "front")}
    here |= {
        "s3://BUCKET": "s3://runs",
        "http://MLFLOW:5000": str(mlflow_server.uri),
        "http://localhost:8265": ray_jobs,
    }
    here |= {"--ray.gpus 1": "--ray.gpus 0", "--ray.cpus 8": "--ray.cpus 1", "-- privatenet": "-- " + OURS}
    for theirs, ours in here.items():
        assert theirs in line
        line = line.replace(theirs, ours)
    submitted = subprocess.run([*RAY, *shlex.split(line.partition("ray ")[2])], capture_output=True, text=True)
    assert submitted.returncode == 0, submitted.stderr
    (name,) = set(re.findall(r"raysubmit_\w+", submitted.stdout))

    def status() -> str:
        command = [*RAY, "job", "status", "--address", ray_jobs, name]
        done = subprocess.run(command, capture_output=True, text=True)
        return " ".join(re.findall("PENDING|RUNNING|SUCCEEDED|FAILED", (done.stdout + done.stderr).upper()))

    wait_for(lambda: {"SUCCEEDED", "FAILED"} & set(status().split()), 500)
    logs = subprocess.run([*RAY, "job", "logs", "--address", ray_jobs, name], capture_output=True, text=True)
    assert "SUCCEEDED" in status(), logs.stdout[-4000:]
    assert (tmp_path / "front/compare/front.csv").read_text().count("\n") >= 3
    assert _store(object_store).find("runs/sweeps/front"), "the bucket holds no trials"
