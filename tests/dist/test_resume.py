"""Training that is killed at any moment and started again ends exactly where it would have ended: bit for bit."""

import random
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dist_cases as cases
import pytest
import torch
from forks import on_ranks, start
from safetensors.torch import load_file
from support import wait_for

from privatenet.distributed.config import Config

KILLS = 2
LEARNING = {"lr": 1e-2, "steps": 2, "restart_epochs": 1}
CASES: dict[str, tuple[int, str, dict[str, dict[str, Any]]]] = {
    # name: ranks, stage, changes of the tiny configuration
    "target with an average, patience and streamed pictures": (
        1, "target", {"target": {"ema": 0.9, "patience": 9}, "data": {"mode": "streaming"}},
    ),
    "target by SGD in two micro-batches": (1, "target", {"target": {"optimizer": "sgd"}, "engine": {"accumulation": 2}}),
    "target in fp16 with its loss scale": (
        1, "target", {"engine": {"precision": "fp16"}, "model": {"head": "linear", "image_size": 32}, "data": {"validation": 0.5}},
    ),
    "a network that draws": (
        1, "target", {"model": {"backbone": "efficientnet_b0", "head": "linear", "image_size": 32}},
    ),
    "adversaries": (1, "adversary", {}),
    "private against frozen adversaries": (1, "private", {}),
    "private of a few numbers at a tap in the open": (
        1, "private", {
            "channel": {"kind": "quantised", "at": "layer3", "numbers": 4, "step": 0.5, "erase": ["gender"]},
            "protect": {"terms": [{"at": "release-gender", "objective": "mixture"}]},
        },
    ),
    "private against adversaries that learn on, on two ranks": (
        2, "private", {"protect": {"terms": [{"at": "backbone-gender", "known": LEARNING}]}, "private": {"ema": 0.9}},
    ),
    "target on two ranks with ZeRO 1": (
        2, "target", {"engine": {"zero_stage": 1, "accumulation": 2}, "target": {"ema": 0.9}},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def parents(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An unprotected network and its adversaries, which the other stages start from."""
    config = cases.tiny(shards, tmp_path_factory.mktemp("parents"))
    for stage in ("target", "adversary"):
        on_ranks(1, cases.run_one_stage, stage, config)
    return {name: f"{config.output}/{name}/final" for name in ("target", "known")}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_stage_ends_as_if_it_had_never_been_killed(
    name: str, shards: Path, tmp_path: Path, parents: dict[str, str]
) -> None:
    ranks, stage, changes = CASES[name]
    straight, killed = (_config(shards, tmp_path / side, changes, parents) for side in ("straight", "killed"))
    on_ranks(ranks, cases.run_one_stage, stage, straight)
    chance, steps = random.Random(name), [0]
    for _ in range(KILLS):
        work = start(ranks, cases.run_one_stage, stage, killed)
        _wait_for_step(Path(killed.output), steps[-1] + chance.randint(1, 3))
        time.sleep(chance.uniform(0, 0.1))
        work.kill()
        steps.append(_newest_step(Path(killed.output)))
    on_ranks(ranks, cases.run_one_stage, stage, killed)
    print(f"{name}: killed after steps {steps[1:]}")
    (left,), (right,) = (Path(config.output).glob("*/final/model.safetensors") for config in (straight, killed))
    expected, resumed = load_file(left), load_file(right)
    assert expected.keys() == resumed.keys()
    if "channel" in changes:
        assert torch.linalg.matrix_rank(expected["network.channel.erasure.matrix"], rtol=1e-4) == 3, "nothing is erased"
    different = [key for key, tensor in expected.items() if not torch.equal(tensor, resumed[key])]
    assert not different, f"{len(different)} of {len(expected)} tensors, killed after steps {steps[1:]}"


def test_a_second_run_in_the_same_folder_is_refused_by_name_of_host_and_process(shards: Path, tmp_path: Path) -> None:
    config = cases.tiny(shards, tmp_path)
    config = replace(config, target=replace(config.target, epochs=500))
    work = start(1, cases.run_one_stage, "target", config)
    wait_for(lambda: list(tmp_path.glob("target/checkpoints/step-*")))
    with pytest.raises(AssertionError, match=f"in use by process {work.processes[0].pid} on {socket.gethostname()}"):
        on_ranks(1, cases.run_one_stage, "target", config)
    work.kill()
    short = replace(config, target=replace(config.target, epochs=1), output=str(tmp_path / "other"))
    on_ranks(1, cases.run_one_stage, "target", short)  # what a dead one held is free


def _wait_for_step(output: Path, step: int) -> None:
    """Until there is a checkpoint of `step` or a later one."""
    deadline = time.monotonic() + 120
    while _newest_step(output) < step:
        assert time.monotonic() < deadline
        assert not list(output.glob("*/final")), "it has ended before it could be killed"
        time.sleep(0.005)


def _newest_step(output: Path) -> int:
    return max((int(path.name[5:13]) for path in output.glob("*/checkpoints/step-????????")), default=0)


def _config(shards: Path, output: Path, changes: dict[str, dict[str, Any]], parents: dict[str, str]) -> Config:
    config = cases.tiny(shards, output)
    config = replace(
        config,
        attack=replace(config.attack, network=parents["target"]),
        protect=replace(config.protect, start=parents["target"], adversaries=parents["known"]),
    )
    sections = {name: replace(getattr(config, name), **values) for name, values in changes.items()}
    return replace(config, **sections)
