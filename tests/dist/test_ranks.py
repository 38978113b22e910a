"""Several ranks, for real: gloo on this machine."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support import Start

WORKER = str(Path(__file__).parent / "worker.py")


def run(
    torchrun: Start, ranks: int, case: str, shards: Path, out: Path, zero: int = 0, optimizer: str = "sgd"
) -> str:
    out.mkdir(exist_ok=True)
    done = torchrun(ranks, WORKER, case, str(shards), str(out), str(zero), optimizer)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def weights(path: Path) -> torch.Tensor:
    """Every parameter in a file, as one vector."""
    tensors = load_file(path)
    others = ("order", "num_batches_tracked", "running_mean", "running_var", "running_affinity")
    return torch.cat([tensors[key].flatten() for key in sorted(tensors) if not key.endswith(others)])


def order(path: Path) -> torch.Tensor:
    """The samples that a run read, by their places in the sequence."""
    return load_file(path)["order"]


def test_ten_steps_give_the_same_parameters_and_order_on_1_2_and_4_ranks(
    torchrun: Start, shards: Path, tmp_path: Path
) -> None:
    for ranks in (1, 2, 4):
        run(torchrun, ranks, "steps", shards, tmp_path / str(ranks))
    start, one = (weights(tmp_path / "1" / f"{name}.safetensors") for name in ("start", "steps"))
    for ranks in (2, 4):
        path = tmp_path / str(ranks) / "steps.safetensors"
        assert torch.equal(order(path), order(tmp_path / "1" / "steps.safetensors")), "the order depends on the ranks"
        assert (weights(path) - one).abs().max() < 1e-4, f"parameters on {ranks} ranks"
        assert (weights(path) - one).norm() < 0.1 * (one - start).norm(), "too little has moved for that to mean much"


@pytest.mark.parametrize(("zero", "optimizer"), [(0, "sgd"), (2, "sgd")])
def test_two_ranks_stopped_in_an_epoch_go_on_as_one_with_the_very_next_sample(
    torchrun: Start, shards: Path, tmp_path: Path, zero: int, optimizer: str
) -> None:
    said = run(torchrun, 2, "interrupted", shards, tmp_path / "a", zero, optimizer)
    assert "rank 0: target stopped at step 7" in said
    assert "rank 1: target stopped at step 7" in said
    (checkpoint,) = (tmp_path / "a").rglob("model.safetensors")
    stopped = weights(checkpoint)
    run(torchrun, 1, "resumed", shards, tmp_path / "a", 0, optimizer)
    run(torchrun, 1, "resumed", shards, tmp_path / "b", 0, optimizer)
    resumed, straight = (tmp_path / side / "resumed.safetensors" for side in "ab")
    assert torch.equal(order(resumed), order(straight)[7 * 16 :])
    apart, moved = weights(resumed) - weights(straight), weights(straight) - stopped
    assert apart.norm() < 0.2 * moved.norm(), "the optimiser did not go on as it was"


def test_adams_state_survives_every_change_of_zero_stage_exactly(
    torchrun: Start, shards: Path, tmp_path: Path
) -> None:
    said = run(torchrun, 1, "optimizer", shards, tmp_path)
    assert [line for line in said.splitlines() if ": apart" in line] == [
        f"{before} to {after}: apart 0.0" for before in (0, 2) for after in (0, 2)
    ]


def test_what_is_frozen_stays_bit_for_bit_and_statistics_agree_after_averaging(
    torchrun: Start, shards: Path, tmp_path: Path
) -> None:
    said = run(torchrun, 2, "frozen", shards, tmp_path)
    for rank in range(2):
        assert f"rank {rank}: network kept" in said
        assert f"rank {rank}: adversary moved" in said
        assert f"rank {rank}: before 2 after 1" in said


def test_all_ranks_end_when_one_diverges(torchrun: Start, shards: Path, tmp_path: Path) -> None:
    said = run(torchrun, 2, "diverged", shards, tmp_path)
    assert "rank 0: diverged" in said
    assert "rank 1: diverged" in said
