"""Tasks: which loss moves which weights, and what stays exactly where it was."""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privatenet.distributed.statistics import SyncBatchNorm, synchronise_statistics
from privatenet.models.adversary import Pair, build_adversary
from privatenet.models.errors import ModelError
from privatenet.models.freeze import freeze
from privatenet.models.network import Network, NetworkSpec, build_network
from privatenet.models.objectives.adversarial import adversarial_loss
from privatenet.models.objectives.confusion import confusion_loss
from privatenet.models.objectives.registry import option_names, parse_terms
from privatenet.models.objectives.term import Learning, TermContext
from privatenet.models.tasks import AdversaryTask, PrivateTask, TargetTask

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
    return nn.ModuleDict({pair.name: new_adversary(network, pair) for pair in pairs})


def new_adversary(network: Network, pair: Pair) -> nn.Module:
    return build_adversary(network.spec, network.tap_shapes, pair.tap, CLASSES[pair.attribute])


def private_task(
    network: Network,
    adversaries: nn.ModuleDict,
    objective: str = "confusion",
    known: str = "frozen",
    lambda_: float = 0.5,
) -> PrivateTask:
    """Terms at both pairs, with a prior of the classes' frequencies where the objective has one."""
    prior = {"prior": "class"} if "prior" in option_names(objective) else {}
    specs = parse_terms(
        [
            {"at": pair.name, "objective": objective, "weight": WEIGHTS[pair.name], "known": known, **prior}
            for pair in PAIRS
        ]
    )
    terms = {
        spec: spec.build(
            TermContext(
                network.tap_shapes[spec.pair.tap],
                PRIORS[spec.pair.attribute],
                adversaries[spec.pair.name],
                partial(new_adversary, network, spec.pair),
                num_targets=7,
            )
        )
        for spec in specs
    }
    return PrivateTask(network, terms, "emotion", lambda_)


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


def test_frozen_modules_stay_so_where_statistics_are_those_of_all_ranks() -> None:
    frozen, learning = (nn.Sequential(nn.BatchNorm2d(2)) for _ in range(2))
    both = synchronise_statistics(nn.ModuleList([freeze(frozen), learning])).train()
    assert type(frozen[0]) is nn.BatchNorm2d
    assert not frozen[0].training
    assert type(learning[0]) is SyncBatchNorm
    assert both[1].training


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


@pytest.mark.parametrize("objective", ["confusion", "adversarial"])
def test_the_networks_loss_moves_the_network_only_and_leaves_learning_adversaries_as_they_are(
    network: Network, objective: str
) -> None:
    adversaries = adversaries_of(network)
    reference, opponents = deepcopy(network), deepcopy(adversaries).requires_grad_(False)
    task = private_task(network, adversaries, objective, known="alternating").train()
    before = state_of(adversaries)
    losses = task(IMAGES, LABELS)
    losses["loss"].backward()

    logits, taps = reference(IMAGES)
    joint = 0.5 * F.cross_entropy(logits, LABELS["emotion"])
    for pair in PAIRS:
        answers, labels, prior = opponents[pair.name](taps[pair.tap]), LABELS[pair.attribute], PRIORS[pair.attribute]
        term = (
            confusion_loss(answers, prior, labels >= 0)
            if objective == "confusion"
            else adversarial_loss(answers, labels)
        )
        joint = joint + 0.5 * WEIGHTS[pair.name] * term
    joint.backward()

    assert_same(gradients_of(network), gradients_of(reference))
    assert_same(dict(network.named_buffers()), dict(reference.named_buffers()))
    assert_same(adversaries.state_dict(), before)
    assert set(gradients_of(adversaries).values()) == {None}
    assert losses.keys() == {"loss", "cross_entropy", *(f"{objective}/{pair.name}" for pair in PAIRS)}
    assert task.trained == {"network": network, "terms": task.terms}


def test_a_terms_adversary_learns_by_its_cross_entropy_and_begins_again_where_it_is_restarted(network: Network) -> None:
    adversaries = adversaries_of(network)
    task = private_task(network, adversaries, known="alternating").train()
    task(IMAGES, LABELS)
    term = task.terms["confusion/arm-age"]
    adversary, features = adversaries["arm-age"].requires_grad_(True), task.observations["confusion/arm-age"]
    assert not features.requires_grad
    expected = F.cross_entropy(adversary(features), LABELS["age"])
    torch.testing.assert_close(term.adversary_loss(features, LABELS["age"]), expected)
    torch.manual_seed(7)
    fresh = new_adversary(network, Pair("arm", "age"))
    torch.manual_seed(7)
    term.restart()
    assert_same(adversary.state_dict(), fresh.state_dict())


@pytest.mark.parametrize("known", ["frozen", "alternating"])
def test_lambda_zero_is_the_target_task(network: Network, known: str) -> None:
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


def test_tasks_that_cannot_be_are_refused(network: Network) -> None:
    adversaries = adversaries_of(network)
    with pytest.raises(ModelError, match=r"lambda 1\.5.*0 .*to 1"):
        private_task(network, adversaries, lambda_=1.5)
    with pytest.raises(ModelError, match="tap 'layer9'"):
        AdversaryTask(network, adversaries, (Pair("layer9", "age"),))
    with pytest.raises(ModelError, match="there is no adversary"):
        AdversaryTask(network, nn.ModuleDict(), ())


def test_terms_read_as_they_are_written_with_every_setting_spelt_out() -> None:
    first, second = parse_terms(
        [
            {"at": "backbone-gender", "known": {"lr": 0.01, "steps": 3}},
            {"at": "arm-age", "objective": "adversarial", "weight": 2},
        ]
    )
    assert (first.name, first.weight, first.options.prior) == ("confusion/backbone-gender", 1.0, "uniform")
    assert first.options.known == Learning(lr=0.01, steps=3)
    assert second.to_dict() == {"at": "arm-age", "objective": "adversarial", "weight": 2.0, "known": "frozen"}
    assert parse_terms([first.to_dict(), second.to_dict()]) == [first, second]


def test_best_means_the_objective_that_hid_most_of_what_is_sent() -> None:
    (term,) = parse_terms([{"at": "release-gender", "objective": "best"}])
    assert term.to_dict() == {"at": "release-gender", "objective": "mixture", "weight": 1.0, "queue": 1024}


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "there is no term"),
        ([{"objective": "confusion"}], "pair ''.*TAP-ATTRIBUTE"),
        ([{"at": "image-gender"}], "image-gender cannot be protected"),
        ([{"at": "arm-age", "objective": "mixup"}], "objective 'mixup'.*confusion, adversarial"),
        ([{"at": "arm-age", "objective": "best"}], "arm-age: no objective hid.*accepted for best: release-age"),
        ([{"at": "arm-age", "weight": -1}], "weight -1"),
        ([{"at": "arm-age", "known": "sometimes"}], "known 'sometimes'.*'frozen' or 'alternating'"),
        ([{"at": "arm-age", "known": {"lr": -1}}], "known.lr -1 .*greater than 0"),
        ([{"at": "arm-age", "known": {"epochs": 1}}], "known"),
        ([{"at": "arm-age", "prior": "mine"}], "prior 'mine'.*'uniform' or 'class'"),
        ([{"at": "arm-age", "objective": "adversarial", "prior": "class"}], "adversarial has no setting 'prior'"),
        ([{"at": "arm-age"}, {"at": "arm-age", "known": "alternating"}], "confusion/arm-age is there twice"),
    ],
)
def test_terms_that_cannot_be_are_refused(terms: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_terms(terms)


@pytest.mark.parametrize("known", ["frozen", "alternating"])
def test_samples_without_a_label_take_no_part_in_the_losses_that_need_it(network: Network, known: str) -> None:
    task = private_task(network, adversaries_of(network), known=known).eval()
    emotion, gender = torch.tensor([0, -1, 2, -1]), torch.tensor([1, 0, -1, -1])
    losses = task(IMAGES, {**LABELS, "emotion": emotion, "gender": gender})
    expected = task(IMAGES[:2], {name: values[:2] for name, values in LABELS.items()})
    torch.testing.assert_close(losses["confusion/backbone-gender"], expected["confusion/backbone-gender"])
    expected = task(IMAGES[::2], {name: values[::2] for name, values in {**LABELS, "emotion": emotion}.items()})
    torch.testing.assert_close(losses["cross_entropy"], expected["cross_entropy"])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, torch.arange(1.0, 8.0)])
def test_a_batch_without_any_label_costs_nothing_and_gives_no_nan(
    network: Network, label_smoothing: float, class_weights: Tensor | None
) -> None:
    task = private_task(network, adversaries_of(network))
    task.criterion = nn.CrossEntropyLoss(class_weights, ignore_index=-1, label_smoothing=label_smoothing)
    losses = task(IMAGES, {name: torch.full_like(values, -1) for name, values in LABELS.items()})
    losses["loss"].backward()
    assert losses["loss"].item() == 0
    for name, gradient in gradients_of(network).items():
        assert gradient is None or not gradient.any(), name
