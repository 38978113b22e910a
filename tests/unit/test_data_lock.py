"""A folder has one owner at a time, known by host and process; a dead one's folder is taken over."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.lock import LOCK, owned

HOLD = """
import sys
from pathlib import Path
from privatenet.data_shards.lock import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `tmp_path`/out until its standard input is closed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_folder_in_use_is_refused_by_host_and_process(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    refusal = rf"out: is in use by process {owner.pid} on {socket.gethostname()} since 2"
    with pytest.raises(DataError, match=refusal), owned(tmp_path / "out"):
        pytest.fail("held twice")
    owner.communicate()
    with owned(tmp_path / "out"):
        assert (tmp_path / "out" / LOCK).read_text().split()[1] == str(os.getpid())
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_owner_left_is_taken_over(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert str(owner.pid) in (tmp_path / "out" / LOCK).read_text()
    with owned(tmp_path / "out"):
        pass


def test_what_an_owner_on_another_host_left_is_refused_with_what_to_remove(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("elsewhere 17 2026-01-02T03:04:05")
    refusal = rf"process 17 on elsewhere since 2026.*remove {tmp_path / LOCK}$"
    with pytest.raises(DataError, match=refusal), owned(tmp_path):
        pytest.fail("taken from another host")
    (tmp_path / LOCK).unlink()
    with owned(tmp_path):
        pass


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    refusal = r"out: cannot be written to \(File exists\); name another folder"
    with pytest.raises(DataError, match=refusal), owned(tmp_path / "out"):
        pass
