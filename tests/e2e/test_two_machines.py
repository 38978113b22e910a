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


def test_training_goes_on_without_the_machine_that_is_lost_and_without_a_shared_folder(
    machines: list[Path], tmp_path: Path
) -> None:
    settings = ["run", "--config", "tiny.yaml", "--tracking.model=false", "--engine.checkpoint_minutes=0.0001"]
    settings += ["--model.image_size=64", "--protect.lambda=0.3", f"--mirror={tmp_path / 'mirror'}"]
    first, second = nodes = _torchrun(machines, settings)
    _wait(lambda: list((tmp_path / "mirror/target/checkpoints").glob("step-????????/state.json")), nodes)
    for process in (*psutil.Process(second.pid).children(recursive=True), second):
        process.send_signal(signal.SIGKILL)
    second.wait(LIMIT_S)
    assert not (tmp_path / "mirror/target/final").exists(), "it was killed too late to show anything"
    assert first.wait(LIMIT_S) == 0, _output(machines)
    for stage in ("target", "known", "private", "unknown"):
        state = load(machines[0] / "run" / stage / "final").state
        assert state["test"]
        assert state["identity"]["fingerprint"] == load_manifest(machines[0] / "shards").fingerprint
        assert load(tmp_path / "mirror" / stage / "final").state == state
    assert not (machines[1] / "run/target/final").exists(), "the second machine wrote what belongs to the first"


def _torchrun(machines: Sequence[Path], arguments: list[str]) -> list[subprocess.Popen[bytes]]:
    """One rank on each machine; where one is lost, the others start again without it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc_per_node=1", "--max_restarts=3"]
    command += ["--rdzv_backend=c10d", "--rdzv_id=faces", f"--rdzv_endpoint=127.0.0.1:{free_port()}"]
    nodes = []
    for number, folder in enumerate(machines):
        with (folder / "output.txt").open("ab") as stream:
            meeting = f"--rdzv_conf=last_call_timeout=5,is_host={int(number == 0)}"  # on the machine that stays
            whole = [*command, meeting, "-m", "privatenet.launch.train", *arguments]
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
