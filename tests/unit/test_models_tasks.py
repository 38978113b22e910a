"""Tasks: which loss moves which weights, and what stays exactly where it was."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privatenet.models.adversary import Pair, build_adversary
from privatenet.models.errors import ModelError
from privatenet.models.freeze import freeze
from privatenet.models.network import Network, NetworkSpec, build_network
from privatenet.models.objectives import OBJECTIVES
from privatenet.models.tasks import AdversaryTask, Known, PrivateTask, TargetTask

PAIRS = (Pair("backbone", "gender"), Pair("arm", "age"))
CLASSES = {"gender": 2, "age": 5}
PRIORS = {"gender": torch.tensor([0.4, 0.6]), "age": torch.full((5,), 0.2)}
WEIGHTS = {"backbone-gender": 1.0, "arm-age": 0.5}
IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
LABELS = {
    "emotion": torch.tensor([0, 3, 6, 2]),
    "gender": torch.tensor([0, 1, 1, 0]),
    "age": torch.tensor([4, 2, 0, 1]),
}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return build_network(NetworkSpec(image_size=64))


def adversaries_of(network: Network, pairs: tuple[Pair, ...] = PAIRS) -> nn.ModuleDict:
    torch.manual_seed(2)
    return nn.ModuleDict(
        {
            pair.name: build_adversary(network.spec, network.tap_shapes, pair.tap, CLASSES[pair.attribute])
            for pair in pairs
        }
    )


def private_task(network: Network, adversaries: nn.ModuleDict, **changes: Any) -> PrivateTask:
    arguments: dict[str, Any] = {
        "pairs": PAIRS,
        "target": "emotion",
        "objective": "confusion",
        "lambda_": 0.5,
        "weights": WEIGHTS,
        "priors": PRIORS,
        "known": "frozen",
    }
    return PrivateTask(network, adversaries, **{**arguments, **changes})


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def gradients_of(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def assert_same(actual: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> None:
    assert actual.keys() == expected.keys()
    for key, tensor in actual.items():
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=0, msg=key)


def test_frozen_module_keeps_its_statistics_while_its_parent_trains(network: Network) -> None:
    parent = nn.Sequential(freeze(network))
    before = state_of(network)
    for training_parent in (parent.train(), deepcopy(parent).train()):
        training_parent.get_submodule("0.backbone").train()
        logits, _ = training_parent(IMAGES)
        assert not logits.requires_grad
        assert_same(training_parent[0].state_dict(), before)


def test_target_task_is_weighted_smoothed_cross_entropy(network: Network) -> None:
    class_weights = torch.arange(1.0, 8.0)
    task = TargetTask(network, "emotion", class_weights, label_smoothing=0.1)
    losses = task(IMAGES, LABELS)
    logits, _ = network(IMAGES)
    expected = F.cross_entropy(logits, LABELS["emotion"], class_weights, label_smoothing=0.1)
    assert losses.keys() == {"loss"}
    torch.testing.assert_close(losses["loss"], expected)
    assert task.trained == {"network": network}


def test_adversary_task_trains_adversaries_and_leaves_the_network_bit_identical(network: Network) -> None:
    pairs = (*PAIRS, Pair("image", "gender"))
    adversaries = adversaries_of(network, pairs)
    task = AdversaryTask(network, adversaries, pairs).train()
    before = state_of(network)
    losses = task(IMAGES, LABELS)
    losses["loss"].backward()
    assert_same(network.state_dict(), before)
    assert set(gradients_of(network).values()) == {None}
    assert all(gradient is not None for gradient in gradients_of(adversaries).values())
    assert losses.keys() == {"loss", *(pair.name for pair in pairs)}
    torch.testing.assert_close(losses["loss"].detach(), sum(losses[pair.name] for pair in pairs))
    assert task.trained == {"adversaries": adversaries}


def test_frozen_adversaries_stay_bit_identical_while_the_network_learns(network: Network) -> None:
    adversaries = adversaries_of(network)
    task = private_task(network, adversaries).train()
    before = state_of(adversaries)
    losses = task(IMAGES, LABELS)
    losses["loss"].backward()
    assert_same(adversaries.state_dict(), before)
    assert all(gradient is not None for gradient in gradients_of(network).values())
    assert set(gradients_of(adversaries).values()) == {None}
    terms = [f"confusion/{pair.name}" for pair in PAIRS]
    assert losses.keys() == {"loss", "cross_entropy", *terms}
    expected = 0.5 * losses["cross_entropy"] + 0.5 * (losses[terms[0]] + 0.5 * losses[terms[1]])
    torch.testing.assert_close(losses["loss"].detach(), expected)
    assert task.trained == {"network": network}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_alternating_routes_each_loss_to_its_own_weights_only(network: Network, objective: str) -> None:
    adversaries = adversaries_of(network)
    reference_network, reference_adversaries = deepcopy(network), deepcopy(adversaries)
    task = private_task(network, adversaries, objective=objective, known="alternating").train()
    losses = task(IMAGES, LABELS)
    losses["loss"].backward()

    logits, taps = reference_network(IMAGES)
    joint = 0.5 * F.cross_entropy(logits, LABELS["emotion"])
    for pair in PAIRS:
        opponent = deepcopy(reference_adversaries[pair.name]).requires_grad_(False)
        term = OBJECTIVES[objective](opponent(taps[pair.tap]), LABELS[pair.attribute], PRIORS[pair.attribute])
        joint = joint + 0.5 * WEIGHTS[pair.name] * term
        learner = reference_adversaries[pair.name]
        F.cross_entropy(learner(taps[pair.tap].detach()), LABELS[pair.attribute]).backward()
    joint.backward()

    for module, reference in ((network, reference_network), (adversaries, reference_adversaries)):
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, reference.get_parameter(name).grad)
        assert_same(dict(module.named_buffers()), dict(reference.named_buffers()))
    names = {f"{kind}/{pair.name}" for kind in (objective, "adversary") for pair in PAIRS}
    assert losses.keys() == {"loss", "cross_entropy", *names}
    assert task.trained == {"network": network, "adversaries": adversaries}


@pytest.mark.parametrize("known", ["frozen", "alternating"])
def test_lambda_zero_is_the_target_task(network: Network, known: Known) -> None:
    unprotected = deepcopy(network)
    private_task(network, adversaries_of(network), lambda_=0.0, known=known)(IMAGES, LABELS)["loss"].backward()
    TargetTask(unprotected, "emotion")(IMAGES, LABELS)["loss"].backward()
    assert_same(gradients_of(network), gradients_of(unprotected))
    assert_same(network.state_dict(), unprotected.state_dict())


def test_one_pictures_prediction_does_not_depend_on_its_neighbours(network: Network) -> None:
    adversaries = adversaries_of(network)
    task = private_task(network, adversaries, known="alternating")
    task(IMAGES, LABELS)
    task.eval()
    with torch.no_grad():
        together, alone = task.predict(IMAGES), task.predict(IMAGES[:1])
    assert together.keys() == {"emotion", "backbone-gender", "arm-age"}
    for name, logits in together.items():
        torch.testing.assert_close(logits[:1], alone[name])


def test_every_task_predicts_what_it_is_judged_by(network: Network) -> None:
    adversaries = adversaries_of(network)
    with torch.no_grad():
        assert TargetTask(network, "emotion").predict(IMAGES)["emotion"].shape == (4, 7)
        predicted = AdversaryTask(network, adversaries, PAIRS).predict(IMAGES)
    assert {name: tuple(logits.shape) for name, logits in predicted.items()} == {
        "backbone-gender": (4, 2),
        "arm-age": (4, 5),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "mixup"}, r"objective 'mixup'.*confusion, adversarial"),
        ({"known": "sometimes"}, r"known 'sometimes'.*frozen, alternating"),
        ({"lambda_": 1.5}, r"lambda 1\.5.*0 to 1"),
        ({"weights": {"arm-age": 1.0}}, r"weights.*\['arm-age'\].*\['arm-age', 'backbone-gender'\]"),
        ({"priors": {"age": PRIORS["age"]}}, r"priors lack 'gender'; given: age"),
        ({"pairs": PAIRS[:1]}, r"adversaries are given for"),
        ({"pairs": ()}, r"pairs is empty"),
        ({"pairs": (Pair("layer9", "age"),)}, r"tap 'layer9'"),
    ],
)
def test_private_tasks_that_cannot_be_are_refused(network: Network, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        private_task(network, adversaries_of(network), **changes)


def test_the_picture_itself_cannot_be_protected(network: Network) -> None:
    pair = Pair("image", "gender")
    adversaries = adversaries_of(network, (pair,))
    with pytest.raises(ModelError, match=r"'image-gender' cannot be protected"):
        private_task(network, adversaries, pairs=(pair,), weights={pair.name: 1.0})
