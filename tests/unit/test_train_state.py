"""Decisions of the training loop: what is the best so far, and when to stop."""

import math

import numpy as np
import pytest
import torch

from privatenet.data_shards.reading.plan import DataState, TrainingPlan
from privatenet.distributed.clock import Clock
from privatenet.distributed.config import EngineConfig, FitConfig
from privatenet.distributed.engine import deepspeed_config
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.private import joint_figure
from privatenet.distributed.train_state import TrainState, finished, keep_best
from privatenet.models.network import NetworkSpec, build_network
from privatenet.models.objectives.registry import parse_terms
from privatenet.models.tasks import TargetTask

PLAN = TrainingPlan(np.arange(64), np.zeros(64, np.int32), batch_size=16)  # four steps an epoch


def test_training_ends_after_its_epochs_or_when_patience_is_out() -> None:
    settings = FitConfig(epochs=5, patience=3)
    assert not finished(TrainState(step=19, waited=2), settings, PLAN)
    assert finished(TrainState(step=20), settings, PLAN)
    assert finished(TrainState(step=8, waited=3), settings, PLAN)
    assert not finished(TrainState(step=8, waited=99), FitConfig(epochs=5, patience=0), PLAN)


def test_the_best_epoch_is_kept_and_a_worse_or_undefined_one_only_waits() -> None:
    task = TargetTask(build_network(NetworkSpec(image_size=96)), "emotion")
    bias = task.network.head.linear.bias
    state, best = TrainState(data=DataState(epoch=0)), {}
    for epoch, figure in enumerate((math.nan, 0.7, 0.6, 0.65)):
        with torch.no_grad():
            bias.fill_(epoch)
        state = TrainState(state.step, DataState(epoch), state.best, state.waited)
        state, best = keep_best(state, best, task, {"network": figure})
    assert state.best == {"network": (0.7, 2)}
    assert state.waited == 2
    assert (best["network.head.linear.bias"] == 1).all()
    assert set(best) == set(task.state_dict())


def test_decisions_come_after_about_two_seconds_and_ten_steps_at_most() -> None:
    clock = Clock(batch_size=8, checkpoint_s=0)
    assert clock.decide_after == 1
    for step_s, steps in ((0.01, 10), (0.5, 4), (3.0, 1)):
        clock.decided(step_s)
        assert clock.decide_after == steps
    assert not clock.checkpoint_due


def test_epochs_of_a_private_network_are_compared_by_utility_and_by_what_a_new_probe_reads() -> None:
    specs = parse_terms([{"at": "backbone-gender"}, {"at": "arm-gender", "weight": 0.5}])
    explained = {"confusion/backbone-gender": 0.4, "confusion/arm-gender": 0.2}
    assert joint_figure(2.0, explained, specs, 0.25) == pytest.approx(0.75 * 2.0 + 0.25 * (0.4 + 0.5 * 0.2))


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (2, 1), (4, 2)])
def test_the_engine_is_told_sizes_that_multiply_to_the_batch(ranks: int, accumulation: int) -> None:
    place = Ranks(0, ranks, 0, ranks, torch.device("cpu"))
    told = deepspeed_config(FitConfig(batch_size=64), EngineConfig(accumulation=accumulation, precision="fp16"), place)
    assert told["train_micro_batch_size_per_gpu"] * ranks * accumulation == told["train_batch_size"] == 64
    assert told["torch_autocast"] == {"enabled": True, "dtype": "float16"}
