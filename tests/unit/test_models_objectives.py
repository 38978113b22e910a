"""Objectives against values worked out by hand."""

import math

import pytest
import torch

from privatenet.models.objectives.adversarial import adversarial_loss
from privatenet.models.objectives.confusion import confusion_loss
from privatenet.models.probe import explained_variance, reduce_map

UNIFORM = torch.tensor([0.5, 0.5])
BOTH = torch.tensor([True, True])


def logits_of(*probabilities: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_confusion_is_the_squared_distance_to_the_prior() -> None:
    logits = logits_of((0.8, 0.2), (0.5, 0.5))
    assert confusion_loss(logits, UNIFORM, BOTH).item() == pytest.approx((0.3**2 + 0.3**2 + 0) / 2)
    assert confusion_loss(logits, torch.tensor([0.8, 0.2]), BOTH).item() == pytest.approx((0 + 0.3**2 + 0.3**2) / 2)


def test_confusion_aims_at_one_over_the_number_of_classes() -> None:
    assert confusion_loss(torch.zeros(4, 5), torch.full((5,), 1 / 5), torch.ones(4).bool()).item() == pytest.approx(
        0, abs=1e-12
    )


def test_adversarial_is_minus_the_mean_cross_entropy() -> None:
    logits = logits_of((0.8, 0.2), (0.6, 0.4))
    labels = torch.tensor([0, 1])
    assert adversarial_loss(logits, labels).item() == pytest.approx((math.log(0.8) + math.log(0.4)) / 2)


def test_adversarial_stops_pulling_at_chance() -> None:
    logits = logits_of((0.1, 0.9), (0.3, 0.7)).requires_grad_()
    loss = adversarial_loss(logits, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(-math.log(2))
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros(2, 2))


@pytest.mark.parametrize("name", ["confusion", "adversarial"])
def test_losses_are_float32_and_pull_a_knowing_adversary_towards_ignorance(name: str) -> None:
    logits = logits_of((0.9, 0.1), (0.2, 0.8)).bfloat16().requires_grad_()
    labels = torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        loss = confusion_loss(logits, UNIFORM, labels >= 0) if name == "confusion" else adversarial_loss(logits, labels)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[[0, 1], labels] > 0).all()


def test_a_probe_explains_nothing_of_noise_and_much_of_a_faint_leak() -> None:
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (400,), generator=chance)
    noise = torch.randn(400, 50, generator=chance)
    assert explained_variance(noise, labels, 2) < 0.02
    leak = noise.clone()
    leak[:, 0] = 1e-3 * (labels + 0.1 * noise[:, 0])  # in a direction of low variance
    assert explained_variance(leak, labels, 2) > 0.5
    assert explained_variance(noise, torch.zeros(400, dtype=torch.int64), 2) == 0


def test_maps_are_reduced_to_few_numbers_by_averaging_neighbours() -> None:
    maps = torch.arange(2 * 512 * 7 * 7).view(2, 512, 7, 7)
    assert reduce_map(maps).shape == (2, 2048)
    assert reduce_map(torch.ones(2, 121)).shape == (2, 121)
    torch.testing.assert_close(reduce_map(maps).mean(), maps.float().mean(), rtol=1e-3, atol=0)
