"""Two machines that share no folder: each in a working directory of its own, with its own copy of the shards."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from link import ADDRESSES, DEVICE, Link
from support import TINY

from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.distributed.checkpoint import load
from privatenet.distributed.place import free_port

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
    first, second = nodes = _torchrun(machines, ["-m", "privatenet.launch.train", *settings])
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


SHORT_LIMITS = """
import sys
from privatenet.distributed import heartbeat
from privatenet.launch import train

heartbeat.PERIOD_S, heartbeat.SILENT_S = 1.0, 10.0
sys.exit(train.main())
"""


@pytest.fixture
def link() -> Iterator[Link]:
    """Of 100 ms there and back."""
    try:
        made = Link(delay_s=0.05)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine does not let us make hosts: {error}")
    yield made
    made.close()


def test_over_a_slow_link_two_hosts_train_and_when_it_is_cut_the_first_goes_on_alone(
    link: Link, machines: list[Path]
) -> None:
    settings = ["target", "--config", "tiny.yaml", "--tracking.model=false", "--engine.checkpoint_minutes=0.0001"]
    settings += ["--model.backbone=mobilenet_v3_large", "--model.head=linear", "--model.image_size=32"]
    for folder in machines:
        (folder / "train.py").write_text(SHORT_LIMITS)
    first, second = nodes = _torchrun(machines, ["train.py", *settings], link)
    steps = machines[0] / "run/target/checkpoints"
    _wait(lambda: list(steps.glob("step-0000000[2-9]/state.json")), nodes)
    link.cut()
    done = max(int(path.name[5:13]) for path in steps.glob("step-????????"))
    assert first.wait(LIMIT_S) == 0, _output(machines)
    for number, folder in enumerate(machines):
        assert f"privatenet: error: nothing is heard of rank {1 - number} on " in (folder / "output.txt").read_text()
    second.kill()  # its rank is gone; torchrun itself waits until TCP gives up, a quarter of an hour
    second.wait(LIMIT_S)
    assert load(machines[0] / "run/target/final").state["test"]
    assert not (machines[1] / "run/target/final").exists()
    print(f"cut after step {done}")


def _torchrun(
    machines: Sequence[Path], arguments: list[str], link: Link | None = None
) -> list[subprocess.Popen[bytes]]:
    """One rank on each machine; where one is lost, the others start again without it."""
    address, environment = "127.0.0.1", os.environ | {"OMP_NUM_THREADS": "1"}
    if link:
        address, environment = ADDRESSES[0], environment | {"GLOO_SOCKET_IFNAME": DEVICE}
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc_per_node=1", "--max_restarts=3"]
    command += ["--rdzv_backend=c10d", "--rdzv_id=faces", f"--rdzv_endpoint={address}:{free_port()}"]
    nodes = []
    for number, folder in enumerate(machines):
        host = [f"--local_addr={ADDRESSES[number]}"] if link else []
        # The machine that stays is the host; the other one is missed after three intervals.
        meeting = f"--rdzv_conf=last_call_timeout=2,keep_alive_interval=2,is_host={int(number == 0)}"
        whole = [*(link.command[number] if link else []), *command, *host, meeting, *arguments]
        with (folder / "output.txt").open("ab") as stream:
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
