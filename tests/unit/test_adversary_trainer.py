"""Adversaries that learn on while the network hides do so by their own recipe, and by nothing else."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privatenet.distributed.adversaries import AdversaryTrainer
from privatenet.distributed.chance import seeded
from privatenet.distributed.ranks import ALONE
from privatenet.models.network import NetworkSpec, build_network
from privatenet.models.objectives.registry import parse_terms
from privatenet.models.objectives.term import TermContext
from privatenet.models.tasks import PrivateTask, TargetTask

NAME = "confusion/backbone-gender"
RECIPE = {"lr": 0.02, "weight_decay": 0.1, "clip": 0.05, "steps": 3}
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = {"emotion": torch.arange(8) % 7, "gender": torch.arange(8) % 2}


def task_with(**known: float) -> tuple[PrivateTask, nn.Module]:
    """A private task with one term whose adversary, which is returned too, learns on by the settings `known`."""
    torch.manual_seed(0)
    network = build_network(NetworkSpec(image_size=32, head="linear"))
    (spec,) = parse_terms([{"at": "backbone-gender", "known": known}])
    shape = network.tap_shapes["backbone"]

    def fresh() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 2))

    adversary = fresh()
    term = spec.build(TermContext(shape, torch.tensor([0.5, 0.5]), adversary, fresh, 7))
    return PrivateTask(network, {spec: term}, "emotion", 0.5), adversary


def forward_in_two_halves(task: PrivateTask, trainer: AdversaryTrainer) -> Tensor:
    """Two micro-batches, seen by the trainer; the features of both."""
    features = []
    for half in (slice(0, 4), slice(4, 8)):
        labels = {name: values[half] for name, values in LABELS.items()}
        task(IMAGES[half], labels)
        trainer.observe(labels)
        features.append(task.observations[NAME])
    return torch.cat(features)


def test_an_adversary_takes_its_own_steps_at_its_own_rate_under_its_own_clip_over_all_micro_batches() -> None:
    task, adversary = task_with(**RECIPE)
    reference = deepcopy(adversary).requires_grad_(True)
    trainer = AdversaryTrainer(task, seed=0, ranks=ALONE)
    features = forward_in_two_halves(task, trainer)
    losses = trainer.step()
    optimizer = torch.optim.AdamW(reference.parameters(), RECIPE["lr"], weight_decay=RECIPE["weight_decay"])
    for _ in range(RECIPE["steps"]):
        loss = F.cross_entropy(reference(features), LABELS["gender"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), RECIPE["clip"])
        optimizer.step()
    for parameter, expected in zip(adversary.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=0)
        assert not parameter.requires_grad
        assert parameter.grad is None
    torch.testing.assert_close(losses, {f"{NAME}/adversary": loss.detach()})
    assert trainer.batches == {NAME: []}


def test_its_optimiser_goes_on_from_a_saved_state() -> None:
    (straight, a), (resumed, b) = task_with(lr=0.01), task_with(lr=0.01)
    first, second = AdversaryTrainer(straight, 0, ALONE), AdversaryTrainer(resumed, 0, ALONE)
    forward_in_two_halves(straight, first)
    first.step()
    resumed.load_state_dict(straight.state_dict())
    second.load_state(first.state())
    for task, trainer in ((straight, first), (resumed, second)):
        task.eval()  # the same features twice
        forward_in_two_halves(task, trainer)
        trainer.step()
    for parameter, expected in zip(b.parameters(), a.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)


@pytest.mark.parametrize(("epoch", "restarted"), [(1, False), (2, True), (3, False)])
def test_it_begins_again_with_new_weights_after_its_epochs(epoch: int, restarted: bool) -> None:
    task, adversary = task_with(restart_epochs=2)
    trainer = AdversaryTrainer(task, 0, ALONE)
    forward_in_two_halves(task, trainer)
    trainer.step()
    before = deepcopy(adversary.state_dict())
    trainer.end_epoch(epoch)
    same = all(torch.equal(tensor, before[name]) for name, tensor in adversary.state_dict().items())
    assert same is not restarted
    assert bool(trainer.state()) is not restarted


def test_tasks_without_such_adversaries_have_nothing_to_train() -> None:
    task = TargetTask(build_network(NetworkSpec(image_size=32, head="linear")), "emotion")
    trainer = AdversaryTrainer(task, 0, ALONE)
    trainer.observe(LABELS)
    assert trainer.step() == {}


def test_chance_by_a_seed_is_the_seeds_and_leaves_all_generators_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    def seed_all(seed: int) -> None:
        raise AssertionError("every rank's own device would draw the same from now on")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seed_all)
    before = torch.random.get_rng_state()
    with seeded(7):
        drawn = torch.randn(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(drawn, torch.randn(3, generator=torch.Generator().manual_seed(7)))
