"""Several ranks, for real: gloo on this machine."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import dist_cases as cases
import numpy as np
import pytest
import torch
from forks import on_ranks, start
from safetensors.torch import load_file
from support import wait_for

from privatenet.data_shards.reading.plan import validation_mask
from privatenet.data_shards.shards.split import open_split
from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.synthetic import synthetic_source
from privatenet.data_shards.sources.table import table_source
from privatenet.distributed import checkpoint
from privatenet.distributed.config import Config


def test_ten_steps_give_the_same_parameters_and_order_on_1_2_and_4_ranks(shards: Path, tmp_path: Path) -> None:
    one, two, four = (on_ranks(n, cases.ten_steps, shards, tmp_path / str(n))[0] for n in (1, 2, 4))
    for other in (two, four):
        assert other["order"] == one["order"], "the order depends on the ranks"
        apart = other["end"] - one["end"]
        assert np.abs(apart).max() < 1e-4
        moved = np.linalg.norm(one["end"] - one["start"])
        assert np.linalg.norm(apart) < 0.1 * moved, "too little has moved for that to mean much"


def test_every_objective_gives_the_same_gradient_on_1_2_and_4_ranks() -> None:
    one, two, four = (on_ranks(n, cases.learn_by_each_objective)[0] for n in (1, 2, 4))
    for other in (two, four):
        for name, gradients in one.items():
            for gradient, expected in zip(other[name], gradients, strict=True):
                scale = np.abs(expected).max()
                assert scale > 0, name
                np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_gradients_are_means_over_ranks_also_of_what_some_or_all_of_them_did_not_use(micro_batches: int) -> None:
    results = on_ranks(4, cases.exchange_gradients, micro_batches)
    means = [np.mean(each, axis=0) for each in zip(*(result["own"] for result in results), strict=True)]
    for result in results:
        assert result["buckets"] > 1
        assert len(result["exchanged"]) == len(means)
        for gradient, mean in zip(result["exchanged"], means, strict=True):
            np.testing.assert_allclose(gradient, mean, rtol=1e-5, atol=1e-6)
        assert not any(gradient.any() for gradient in result["exchanged"][2:4])


def test_what_is_erased_is_gone_from_the_training_faces_and_the_same_on_1_and_2_ranks(shards: Path) -> None:
    (one,) = on_ranks(1, cases.erase_from_a_network, shards)
    first, second = on_ranks(2, cases.erase_from_a_network, shards)
    assert np.array_equal(first["matrix"], second["matrix"])
    np.testing.assert_allclose(first["matrix"], one["matrix"], atol=1e-3)
    np.testing.assert_allclose(first["after"], one["after"], atol=1e-3)
    gender, size = one["gender"] - one["gender"].mean(), np.abs(one["before"]).max()
    telling = [np.abs(gender @ one[side] / len(gender)).max() for side in ("before", "after")]
    assert telling[0] > 1e-3 * size
    assert telling[1] < 1e-5 * size


def test_training_on_2_then_1_then_4_then_2_ranks_is_one_training(shards: Path, tmp_path: Path) -> None:
    order = []
    for step, (ranks, zero_stage) in zip((3, 6, 9), ((2, 2), (1, 0), (4, 0)), strict=True):
        stopped = on_ranks(ranks, cases.stop_at_third, shards, tmp_path / "a", zero_stage)
        expected = f"a stopped at step {step}; the same command goes on from there"
        assert [each["words"] for each in stopped] == [expected] * ranks
        order += stopped[0]["order"]
    (checkpoint,) = (tmp_path / "a").rglob("model.safetensors")
    before = cases.vector(load_file(checkpoint))
    resumed, straight = (on_ranks(n, cases.go_on, shards, tmp_path / side)[0] for n, side in ((2, "a"), (1, "b")))
    assert order + resumed["order"] == straight["order"]
    apart, moved = resumed["end"] - straight["end"], straight["end"] - before
    assert np.abs(apart).max() < 1e-4
    assert np.linalg.norm(apart) < 0.2 * np.linalg.norm(moved), "the optimiser did not go on as it was"


def test_adams_state_survives_every_change_of_zero_stage_exactly() -> None:
    (apart,) = on_ranks(1, cases.change_zero_stage)
    assert apart == {(before, after): 0.0 for before in (0, 2) for after in (0, 2)}


def test_what_is_frozen_stays_bit_for_bit_and_statistics_agree_after_averaging() -> None:
    first, second = on_ranks(2, cases.freeze_and_average)
    for rank in (first, second):
        assert rank["network kept"]
        assert rank["adversary moved"]
    assert first["apart"] != second["apart"]
    assert first["averaged"] == second["averaged"]


@pytest.mark.parametrize(("precision", "zero_stage"), [("bf16", 1), ("fp16", 2)])
def test_lower_precision_accumulation_and_zero_train_together_to_finite_figures(
    precision: str, zero_stage: int, shards: Path, tmp_path: Path
) -> None:
    config = cases.tiny(shards, tmp_path)
    config = replace(
        config,
        engine=replace(config.engine, precision=precision, zero_stage=zero_stage, accumulation=2),
        target=replace(config.target, epochs=1),
    )
    on_ranks(2, cases.run_one_stage, "target", config)
    epoch, _ = (json.loads(line) for line in (tmp_path / "target" / "metrics.jsonl").read_text().splitlines())
    assert 0.5 < epoch["train/loss"] < 5
    assert (epoch.get("loss_scale", 0) >= 1) == (precision == "fp16")
    state = json.loads((tmp_path / "target" / "final" / "state.json").read_text())
    assert np.isfinite(state["test"]["emotion"]["cross_entropy"])


def test_faces_without_an_emotion_serve_the_private_terms_alone(tmp_path: Path) -> None:
    """Of 48 training faces 16 have no emotion, of these four no age group, and one nothing."""
    source, rows = synthetic_source(48, 16, seed=5), ["path,split,emotion,gender,age_group"]
    for number, record in enumerate(source.records):
        (tmp_path / f"{record.name}.jpg").write_bytes(source.read(record))
        labels = [str(label) for label in record.labels]
        if number % 3 == 0:
            labels[0] = ""
            labels[2] = labels[2] if number % 12 else ""
            labels[1] = labels[1] if number else ""
        rows.append(",".join([f"{record.name}.jpg", record.split, *labels]))
    (tmp_path / "faces.csv").write_text("\n".join(rows))
    (tmp_path / "faces.yaml").write_text(json.dumps(source.schema.to_dict()))
    build(table_source(tmp_path / "faces.csv", tmp_path / "faces.yaml"), tmp_path / "shards")
    config = cases.tiny(tmp_path / "shards", tmp_path / "run")
    terms = [{"at": at, "objective": "hsic"} for at in ("backbone-gender", "arm-age_group")]
    once = {"target": replace(config.target, epochs=1), "private": replace(config.private, epochs=1)}
    config = replace(config, **once, protect=replace(config.protect, terms=terms))
    split = open_split(tmp_path / "shards", "train")
    mask = validation_mask(split.names, split.labels[:, 0], config.data.validation)
    learnt = split.labels[~mask]
    expected = {"target": (learnt[:, 0] >= 0).sum(), "private": (learnt >= 0).any(axis=1).sum()}
    assert 0 < mask.sum() < expected["target"] < expected["private"]
    for stage, samples in expected.items():
        on_ranks(2, cases.run_one_stage, stage, config)
        state = json.loads((tmp_path / "run" / stage / "final" / "state.json").read_text())
        assert (state["training_samples"], state["test"]["emotion"]["samples"]) == (samples, 10)
        epoch, _ = map(json.loads, (tmp_path / "run" / stage / "metrics.jsonl").read_text().splitlines())
        assert epoch["validation/emotion/samples"] == (split.labels[mask, 0] >= 0).sum()
        assert np.isfinite(list(epoch.values())).all()


def test_all_ranks_end_together_on_bad_input_and_the_first_one_says_why(tiny_config: Path) -> None:
    command = ["target", "--config", str(tiny_config), "--target.batch_size=15"]
    (first, error), (second, silence) = on_ranks(2, cases.train_by_command, command)
    assert (first, second) == (2, 2)
    assert "batch_size 15 cannot be cut evenly into 2 ranks" in error
    assert not silence


def test_ranks_draw_differently_where_a_network_itself_draws(shards: Path, tmp_path: Path) -> None:
    first, second = on_ranks(2, cases.draw_after_a_trainer_is_made, shards, tmp_path)
    assert first != second


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_batches_that_leave_no_numbers_are_left_out_and_listed(what: str, shards: Path, tmp_path: Path) -> None:
    config = cases.tiny(shards, tmp_path)
    config = replace(config, target=replace(config.target, ema=0.5))
    on_ranks(2, cases.run_with_bad_steps, [9], what, config)
    (line,) = (tmp_path / "target" / "left-out.jsonl").read_text().splitlines()
    left_out = json.loads(line)
    first, last = left_out["steps"]
    assert first <= 9 <= last
    assert len(left_out["samples"]) == 8 * (last - first + 1)
    assert what == "loss" or first == last == 9, "good steps are left out, or bad ones are not"
    weights = load_file(tmp_path / "target" / "final" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values() if tensor.is_floating_point())


def test_a_loss_that_leaps_is_left_out_and_one_epoch_of_two_is_kept(shards: Path, tmp_path: Path) -> None:
    config = cases.tiny(shards, tmp_path)
    config = replace(
        config,
        target=replace(config.target, batch_size=4),  # fifteen steps an epoch, of which ten make a mean
        engine=replace(config.engine, spike=9.0, keep_every=2),
    )
    on_ranks(2, cases.run_with_bad_steps, [13], "spike", config)
    (line,) = (tmp_path / "target" / "left-out.jsonl").read_text().splitlines()
    first, last = json.loads(line)["steps"]
    assert last - 1 <= first <= 13 <= last
    (kept,) = (tmp_path / "target" / "epochs").iterdir()
    assert (kept.name, checkpoint.load_training(kept).state["data"]["epoch"] + 1) == ("epoch-0002", 2)


def test_training_whose_loss_stays_no_number_is_given_up(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Diverged: the loss is no longer finite"):
        on_ranks(1, cases.run_with_bad_steps, range(9, 99), "weights", cases.tiny(shards, tmp_path))
    lines = (tmp_path / "target" / "left-out.jsonl").read_text().splitlines()
    assert len(lines) == Config().engine.patience


def test_a_rank_takes_as_many_threads_as_a_person_said() -> None:
    assert on_ranks(1, cases.threads) == [int(os.environ["OMP_NUM_THREADS"])]  # forks.py sets it


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sleeps", {0: "rank 1 on HOST stands still", 1: "rank 1 on HOST stands still"}),
        ("stops", {0: "nothing is heard of rank 1 on HOST"}),
        ("all sleep", {0: "every rank stands still", 1: "every rank stands still"}),
    ],
)
def test_a_rank_that_stands_still_is_named(how: str, expected: dict[int, str], shards: Path, tmp_path: Path) -> None:
    work = start(2, cases.stand_still, shards, tmp_path, how)
    try:
        for rank, words in expected.items():
            said = tmp_path / f"rank-{rank}.txt"
            wait_for(said.exists)
            assert said.read_text().startswith(words.replace("HOST", socket.gethostname()) + " since ")
    finally:
        work.kill()


def test_all_ranks_end_when_one_diverges() -> None:
    assert on_ranks(2, cases.decide_with_a_loss_that_is_not_finite) == ["diverged"] * 2


@pytest.mark.parametrize("verb", ["first", "each", "everyone"])
def test_an_error_of_one_rank_is_everyones_and_names_rank_and_machine(verb: str) -> None:
    host = socket.gethostname()
    theirs = f"RankError: rank 0 on {host}: OSError: disk full"
    assert on_ranks(2, cases.fail_on, verb, 0) == ["OSError: disk full", theirs]
    if verb == "first":
        assert on_ranks(2, cases.fail_on, verb, 1) == ["got 0", "got 0"]
    else:
        theirs = f"ConfigError: engine.clip is -1 (rank 1 on {host})"
        assert on_ranks(2, cases.fail_on, verb, 1) == [theirs, "ConfigError: engine.clip is -1"]


def test_a_rank_that_is_free_takes_the_next_job() -> None:
    (first, jobs), (second, others) = on_ranks(2, cases.share_jobs, 8)
    assert first == second == [job**2 for job in range(8)]
    assert sorted(jobs + others) == list(range(8))
    assert min(len(jobs), len(others)) == 1, "who had the long job did others, too"
    outcomes = on_ranks(2, cases.share_jobs, 40, 3)
    assert [outcome for outcome, _ in outcomes] == ["ConfigError"] * 2
    assert sum(len(done) for _, done in outcomes) < 8, "jobs were begun after one had failed"


def test_jobs_are_dealt_where_not_all_ranks_reach_a_store() -> None:
    (first, jobs), (second, others) = on_ranks(2, cases.share_jobs, 5, -1, False)
    assert first == second == [job**2 for job in range(5)]
    assert (jobs, others) == ([0, 2, 4], [1, 3])


def test_results_of_ranks_reach_all_of_them() -> None:
    assert on_ranks(2, cases.fail_on, "everyone", -1) == ["got [0, 1]"] * 2
    assert on_ranks(2, cases.fail_on, "each", -1) == ["got 0", "got 1"]
