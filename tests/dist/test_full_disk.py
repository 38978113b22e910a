"""A disk that is full, or that may not be written to: one line, what is finished stays, and with room it goes on."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dist_cases as cases
import pytest
import torch
from forks import on_ranks
from safetensors.torch import load_file

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import allocate, replacing, writing
from privatenet.data_shards.shards.verify import verify
from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.synthetic import synthetic_source
from privatenet.distributed import checkpoint
from privatenet.launch.exits import BAD_INPUT, guarded

Mount = Callable[[str], Path]
"""Gives the small disk these options, such as size=1m or ro."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mount]:
    """A disk of one's own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")

    def remount(options: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
        return folder

    yield remount
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_build_goes_on_when_there_is_room_again(disk: Mount) -> None:
    out = disk("size=1m") / "shards"
    source = synthetic_source(700, 20, seed=5)
    with pytest.raises(DataError, match=r"train-00000\d\.tar: cannot be written \(No space left .*make room"):
        build(source, out, samples_per_shard=100)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert finished
    assert not list(out.glob("*.tmp"))
    disk("size=8m")
    build(source, out, samples_per_shard=100)
    assert not verify(out)
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items()), "what was finished is made again"


def test_a_checkpoint_without_room_leaves_the_last_one_and_training_goes_on_from_it(
    disk: Mount, shards: Path, tmp_path: Path
) -> None:
    output = disk("size=70m") / "run"  # room for one checkpoint, and no second beside it
    config = cases.tiny(shards, output)
    with pytest.raises(AssertionError, match=r"DataError: .*step-\d+: cannot be written \(No space left on device\)"):
        on_ranks(1, cases.run_one_stage, "target", config)
    (kept,) = (output / "target/checkpoints").iterdir()
    assert (kept / checkpoint.STATE).is_file()
    disk("size=600m")
    straight = replace(config, output=str(tmp_path / "straight"))
    steps = [on_ranks(1, cases.run_one_stage, "target", each)[0] for each in (config, straight)]
    assert steps[0] == steps[1] - int(kept.name[5:])
    resumed, expected = (load_file(f"{each.output}/target/final/model.safetensors") for each in (config, straight))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in expected.items())


def test_the_room_of_a_memory_map_is_taken_before_it_is_filled(disk: Mount) -> None:
    path = disk("size=1m") / "features.npy"
    with path.open("wb") as stream:
        stream.truncate(2**21)
    with pytest.raises(DataError, match="No space left"), writing(path):
        allocate(path)


def test_where_nothing_may_be_written_a_command_ends_in_one_line(
    disk: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = disk("ro")

    def write_whole() -> int:
        with replacing(folder / "report.html") as stream:
            stream.write(b"")
        return 0

    def write_plainly() -> int:
        return (folder / "config.yaml").write_text("")

    for command, name in ((write_whole, "report.html"), (write_plainly, "config.yaml")):
        assert guarded(command) == BAD_INPUT
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{name}: cannot be written (Read-only file system); name a folder that can be written to" in line
