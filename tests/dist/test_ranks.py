"""Several ranks, for real: gloo on this machine."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support import Start

WORKER = str(Path(__file__).parent / "worker.py")


def run(torchrun: Start, ranks: int, case: str, shards: Path, out: Path, zero: int = 0) -> str:
    out.mkdir(exist_ok=True)
    done = torchrun(ranks, WORKER, case, str(shards), str(out), str(zero))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_ten_steps_give_the_same_parameters_and_order_on_1_2_and_4_ranks(
    torchrun: Start, shards: Path, tmp_path: Path
) -> None:
    results = {}
    for ranks in (1, 2, 4):
        run(torchrun, ranks, "steps", shards, tmp_path / str(ranks))
        results[ranks] = load_file(tmp_path / str(ranks) / "steps.safetensors")
    for ranks in (2, 4):
        for name, expected in results[1].items():
            found = results[ranks][name]
            if name == "order":
                assert torch.equal(found, expected), "the plan's order depends on the number of ranks"
            elif not name.endswith("num_batches_tracked"):
                assert torch.allclose(found, expected, atol=1e-4, rtol=0), f"{name} on {ranks} ranks"


@pytest.mark.parametrize("zero", [0, 2])
def test_two_ranks_stopped_in_an_epoch_go_on_as_one_with_the_very_next_sample(
    torchrun: Start, shards: Path, tmp_path: Path, zero: int
) -> None:
    said = run(torchrun, 2, "interrupted", shards, tmp_path / "a", zero)
    assert "rank 0: target stopped at step 7" in said
    assert "rank 1: target stopped at step 7" in said
    run(torchrun, 1, "resumed", shards, tmp_path / "a")
    run(torchrun, 1, "resumed", shards, tmp_path / "b")
    resumed = load_file(tmp_path / "a" / "resumed.safetensors")
    straight = load_file(tmp_path / "b" / "resumed.safetensors")
    assert torch.equal(resumed["order"], straight["order"][7 * 16 :])
    for name, expected in straight.items():
        if name != "order" and not name.endswith("num_batches_tracked"):
            assert torch.allclose(resumed[name], expected, atol=2e-4, rtol=0), name


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
    assert sorted(said.split("\n")[:2]) == ["rank 0: diverged", "rank 1: diverged"]
