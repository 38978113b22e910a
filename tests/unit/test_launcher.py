"""Ranks that a command starts: what they are told, what of it others on the machine may list, and how they end."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from privatenet.distributed import place
from privatenet.distributed.place import memory_limit, num_cores
from privatenet.launch import launcher
from privatenet.launch.commands import audit
from privatenet.launch.commands.audit import usual_ranks
from privatenet.launch.launcher import launch

RANK = """
import json, os, sys, time
from pathlib import Path

from privatenet.data_shards.uri import Uri
from privatenet.distributed.place import launched_group, launched_rank

folder, ends, uri = sys.argv[1:]
rank = launched_rank()
(Path(folder) / f"{rank}.json").write_text(json.dumps([launched_group(), sys.argv, Uri(uri).full]))
if ends.split(",")[rank] == "never":
    time.sleep(60)
sys.exit(int(ends.split(",")[rank]))
"""
URL = "https://kim:sesame@host/faces"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "one_rank.py").write_text(RANK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(launcher, "END_S", 1)
    return "one_rank"


def test_every_rank_knows_its_place_and_credentials_that_no_list_of_processes_shows(
    module: str, tmp_path: Path
) -> None:
    assert launch(module, [str(tmp_path), "0,0", URL], 2) == 0
    for rank in range(2):
        group, arguments, full = json.loads((tmp_path / f"{rank}.json").read_text())
        assert group == [2, rank, 2]
        assert "sesame" not in " ".join(arguments)
        assert full == URL


@pytest.mark.parametrize(("ends", "code"), [("0,3", 3), ("never,3", 3), ("2,never", 2), ("130,134", 130)])
def test_a_rank_that_fails_ends_the_others_and_the_first_speaks_for_all(
    ends: str, code: int, module: str, tmp_path: Path
) -> None:
    assert launch(module, [str(tmp_path), ends, URL], 2) == code


@pytest.mark.parametrize(
    ("gpus", "cores", "gib", "ranks"), [(4, 64, 500, 4), (0, 2, 24, 2), (0, 8, 10, 3), (0, 1, 1, 1), (0, 128, 900, 16)]
)
def test_an_audit_takes_the_gpus_or_else_the_cores_that_there_is_memory_for(
    gpus: int, cores: int, gib: int, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(audit, "num_cores", lambda: cores)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=gib * 2**30))
    assert usual_ranks() == ranks


def test_a_container_has_the_cores_and_the_memory_that_its_limits_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert (num_cores(), memory_limit()) == (64, None)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (num_cores(), memory_limit()) == (64, None)
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    (tmp_path / "memory.max").write_text(f"{8 * 2**30}\n")
    assert (num_cores(), memory_limit()) == (2, 8 * 2**30)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert num_cores() == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(audit, "num_cores", lambda: 64)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=500 * 2**30))
    assert usual_ranks() == 2, "a container's limit of 8 GiB"
