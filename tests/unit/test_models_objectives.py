"""Objectives against values worked out by hand."""

import math

import pytest
import torch

from privatenet.models.errors import ModelError
from privatenet.models.objectives import OBJECTIVES, adversarial_loss, confusion_loss, joint_loss

UNIFORM = torch.tensor([0.5, 0.5])


def logits_of(*probabilities: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_confusion_is_the_squared_distance_to_the_prior() -> None:
    logits = logits_of((0.8, 0.2), (0.5, 0.5))
    assert confusion_loss(logits, UNIFORM).item() == pytest.approx((0.3**2 + 0.3**2 + 0) / 2)
    assert confusion_loss(logits, torch.tensor([0.8, 0.2])).item() == pytest.approx((0 + 0.3**2 + 0.3**2) / 2)


def test_confusion_aims_at_one_over_the_number_of_classes() -> None:
    assert confusion_loss(torch.zeros(4, 5), torch.full((5,), 1 / 5)).item() == pytest.approx(0, abs=1e-12)


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


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_float32_and_pulls_a_knowing_adversary_towards_ignorance(name: str) -> None:
    logits = logits_of((0.9, 0.1), (0.2, 0.8)).bfloat16().requires_grad_()
    labels = torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        loss = OBJECTIVES[name](logits, labels, UNIFORM)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[[0, 1], labels] > 0).all()


def test_joint_loss_weighs_utility_against_the_sum_of_terms() -> None:
    terms = {"backbone-gender": torch.tensor(3.0), "arm-age": torch.tensor(5.0)}
    weights = {"backbone-gender": 1.0, "arm-age": 0.5}
    for lambda_, expected in {0: 2.0, 0.25: 0.75 * 2 + 0.25 * 5.5, 1: 5.5}.items():
        assert joint_loss(torch.tensor(2.0), terms, weights, lambda_).item() == pytest.approx(expected)


@pytest.mark.parametrize("lambda_", [-0.1, 1.1, math.nan])
def test_lambda_outside_its_range_is_refused(lambda_: float) -> None:
    with pytest.raises(ModelError, match=rf"lambda {lambda_}.*0 .*to 1"):
        joint_loss(torch.tensor(2.0), {"arm-age": torch.tensor(1.0)}, {"arm-age": 1.0}, lambda_)
