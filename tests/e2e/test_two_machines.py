"""Two machines that share no folder: each in a working directory of its own, with its own copy of the shards."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from support import TINY

from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.distributed.checkpoint import load
from privatenet.distributed.ranks import free_port

LIMIT_S = 240


@pytest.fixture
def machines(shards: Path, tmp_path: Path) -> list[Path]:
    """Their working directories."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        shutil.copytree(shards, folder / "shards")
        (folder / "tiny.yaml").write_text(TINY.format(shards="shards", output="run"))
    return folders


def test_training_that_dies_on_one_machine_goes_on_without_a_shared_folder(machines: list[Path]) -> None:
    settings = ["run", "--config", "tiny.yaml", "--tracking.model=false", "--engine.checkpoint_minutes=0.0001"]
    settings += ["--model.image_size=64", "--protect.lambda=0.3"]
    first, second = nodes = _torchrun(machines, settings)
    _wait(lambda: list((machines[0] / "run/target/checkpoints").glob("step-????????")), nodes)
    for process in psutil.Process(second.pid).children(recursive=True):
        process.send_signal(signal.SIGKILL)
    assert [node.wait(LIMIT_S) for node in (first, second)] != [0, 0]
    assert not (machines[0] / "run/target/final").exists(), "it was killed too late to show anything"

    nodes = _torchrun(machines, settings)
    assert [node.wait(LIMIT_S) for node in nodes] == [0, 0], _output(machines)
    for stage in ("target", "known", "private", "unknown"):
        state = load(machines[0] / "run" / stage / "final").state
        assert state["test"]
        assert state["identity"]["fingerprint"] == load_manifest(machines[0] / "shards").fingerprint
    assert not (machines[1] / "run").exists(), "the second machine wrote what belongs to the first"


def _torchrun(machines: Sequence[Path], arguments: list[str]) -> list[subprocess.Popen[bytes]]:
    """One rank on each machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    command += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    nodes = []
    for number, folder in enumerate(machines):
        with (folder / "output.txt").open("ab") as stream:
            whole = [*command, f"--node_rank={number}", "-m", "privatenet.launch.train", *arguments]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            nodes.append(subprocess.Popen(whole, cwd=folder, env=environment, stdout=stream, stderr=stream))
    return nodes


def _wait(condition: object, nodes: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        assert all(node.poll() is None for node in nodes)
        time.sleep(0.05)


def _output(machines: Sequence[Path]) -> str:
    return "\n".join((folder / "output.txt").read_text()[-2000:] for folder in machines)
