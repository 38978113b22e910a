"""Objectives of a whole batch against small independent ones in NumPy, in lower precision, and where labels lack."""

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privatenet.distributed.adversaries import AdversaryTrainer
from privatenet.distributed.ranks import ALONE
from privatenet.models.adversary import ImageAdversary
from privatenet.models.channel import CENTRE, ChannelSpec
from privatenet.models.errors import ModelError
from privatenet.models.network import NetworkSpec, build_network
from privatenet.models.objectives.maxent_ensemble import MaxentEnsemble, maxent_loss
from privatenet.models.objectives.registry import OBJECTIVES, option_names, parse_terms
from privatenet.models.objectives.rff_ridge import explained_share, fourier_features
from privatenet.models.objectives.term import Term, TermContext
from privatenet.models.tasks import PrivateTask

SHAPE = (8, 2, 2)
LABELS = torch.tensor([0, 1, 2]).repeat(8)
TARGETS = torch.arange(24) // 4
CONDITIONAL = [name for name in OBJECTIVES if "given" in option_names(name)]
TERMS = [{"objective": name} for name in OBJECTIVES] + [{"objective": name, "given": "target"} for name in CONDITIONAL]


def knowing() -> nn.Module:
    """An adversary that reads the label in the first channel."""
    linear = nn.Linear(32, 3)
    weight = F.pad(torch.tensor([-0.25, 0.0, 0.25]).expand(4, 3).T, (0, 28))
    linear.load_state_dict({"weight": weight, "bias": torch.tensor([1.0, 0.0, -1.0])})
    return nn.Sequential(nn.Flatten(), linear)


def shape_of(objective: str) -> tuple[int, ...]:
    """A map, but for objectives that protect a narrow release."""
    return SHAPE[:1] if OBJECTIVES[objective].tap == CENTRE else SHAPE


def build(objective: str, shape: tuple[int, ...] = SHAPE, **options: Any) -> Term:
    torch.manual_seed(0)
    narrow = OBJECTIVES[objective].tap == CENTRE
    (spec,) = parse_terms([{"at": "release-age" if narrow else "backbone-age", "objective": objective, **options}])
    known = None if spec.known is None else image_adversary() if spec.known.tap == "image" else knowing()
    frequencies = torch.tensor([0.5, 0.3, 0.2])
    return spec.build(
        TermContext(shape_of(objective) if narrow else shape, frequencies, known, knowing, 7, ChannelSpec("noise"))
    )


@cache
def image_adversary() -> nn.Module:
    torch.manual_seed(0)
    return ImageAdversary(build_network(NetworkSpec(num_classes=3, image_size=32, head="linear"))).eval()


def pictures_of(labels: Tensor) -> Tensor:
    """Pictures of 32 px whose brightness tells the label, and noise."""
    noise = torch.randn(len(labels), 3, 32, 32, generator=torch.Generator().manual_seed(5))
    return labels[:, None, None, None] + 0.1 * noise


def features_of(labels: Tensor, leak: float = 1.0, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> Tensor:
    """Noise, with the labels faintly in its first channel."""
    features = torch.randn(len(labels), *shape, generator=torch.Generator().manual_seed(seed))
    features[:, 0] += leak * labels.view(-1, *[1] * (len(shape) - 1))
    return features


@pytest.mark.parametrize("term", TERMS, ids=lambda term: "-".join(term.values()))
@pytest.mark.parametrize("labels", ["all", "without a class", "of one class", "some", "one", "none"])
def test_every_objective_gives_finite_gradients_whatever_labels_there_are(term: dict[str, str], labels: str) -> None:
    known = {
        "all": LABELS,
        "without a class": LABELS % 2,
        "of one class": torch.zeros_like(LABELS),
        "some": torch.where(TARGETS % 2 == 0, LABELS, -1),
        "one": torch.where(torch.arange(24) == 5, LABELS, -1),
        "none": torch.full_like(LABELS, -1),
    }[labels]
    targets = torch.where(known < 0, -1, TARGETS)  # collapse looks at these
    features, built = features_of(LABELS, shape=shape_of(term["objective"])).requires_grad_(), build(**term)
    for _ in range(2):  # with what the first step leaves behind
        loss = built(features, known, targets, pictures_of(LABELS))["loss"]
    loss.backward()
    addresses = [tensor.data_ptr() for tensor in built.state_dict().values()]
    assert len(set(addresses)) == len(addresses), "a tensor of two names cannot be saved"
    assert loss.dtype == torch.float32
    assert features.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()
    assert not features.grad[known < 0].any()
    if labels in ("one", "none"):
        assert loss.item() == 0
    elif labels == "all":
        assert loss.item() != 0
        assert features.grad.any()


@pytest.mark.parametrize("term", TERMS, ids=lambda term: "-".join(term.values()))
def test_losses_and_gradients_under_autocast_are_close_to_fp32(term: dict[str, str]) -> None:
    labels, targets = LABELS.repeat(4), TARGETS.repeat(4)
    results = []
    for lower in (False, True):
        features = features_of(labels, leak=3.0, shape=shape_of(term["objective"]))
        features = (features.bfloat16() if lower else features).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            built = build(**term)
            torch.manual_seed(1)  # of what a term draws
            loss = built(features, labels, targets, pictures_of(labels))["loss"]
        loss.backward()
        assert features.grad is not None
        results.append((loss.detach(), features.grad.float().flatten()))
    (loss, gradient), (low_loss, low_gradient) = results
    torch.testing.assert_close(low_loss, loss, rtol=0.03, atol=0.01)
    assert F.cosine_similarity(low_gradient, gradient, dim=0) > 0.98


def centring(classes: np.ndarray | None) -> np.ndarray:
    """The matrix that subtracts the mean over all, or over those of the same class."""
    alike = np.ones((24, 24)) if classes is None else (classes[:, None] == classes).astype(float)
    return np.eye(24) - alike / alike.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("given", ["none", "target"])
def test_hsic_is_the_normalised_trace_of_centred_kernels(given: str) -> None:
    features = features_of(LABELS)
    z, labels = features.flatten(1).double().numpy(), LABELS.numpy()
    distances = ((z[:, None] - z) ** 2).sum(axis=2)
    pairs = np.sort(distances[np.triu_indices(24, 1)])
    kernel = np.exp(-distances / pairs[(len(pairs) - 1) // 2])
    alike = (labels[:, None] == labels).astype(float)
    h = centring(TARGETS.numpy() if given == "target" else None)
    hkh, hlh = h @ kernel @ h, h @ alike @ h
    expected = np.trace(hkh @ hlh) / np.linalg.norm(hkh) / np.linalg.norm(hlh)
    loss = build("hsic", given=given)(features, LABELS, TARGETS)["loss"]
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("objective", CONDITIONAL)
def test_a_conditional_form_does_not_mind_what_the_target_itself_tells(objective: str) -> None:
    chance = torch.Generator().manual_seed(2)
    targets = torch.randint(0, 3, (96,), generator=chance)
    labels = torch.where(torch.rand(96, generator=chance) < 0.8, targets, 0)

    def loss(given: str, content: Tensor) -> float:
        features = features_of(content, leak=4.0, shape=(4,))
        return build(objective, shape=(4,), given=given)(features, labels, targets, pictures_of(labels))["loss"].item()

    assert loss("target", targets) < 0.2 * loss("none", targets)
    assert loss("target", labels) > 0.2


@pytest.mark.parametrize("given", ["none", "target"])
def test_distance_correlation_is_that_of_centred_distances_to_the_attribute_networks_embeddings(given: str) -> None:
    features, images = features_of(LABELS), pictures_of(LABELS)
    smaller = images.view(24, 3, 16, 2, 16, 2).mean(dim=(3, 5))
    maps: list[Tensor] = []
    with torch.no_grad():
        image_adversary().network.backbone(smaller, lambda tap, values: maps.append(values) or values)
    z, e = (values.double().numpy() for values in (features.flatten(1), maps[-1].mean(dim=(2, 3))))
    h = centring(TARGETS.numpy() if given == "target" else None)
    a, b = (h @ np.linalg.norm(rows[:, None] - rows, axis=2) @ h for rows in (z, e))
    expected = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
    loss = build("distance_correlation", given=given)(features, LABELS, TARGETS, images)["loss"]
    assert loss.item() == pytest.approx(expected, rel=1e-3)


def test_collapse_is_the_ratio_of_scatters_of_classes_with_two_samples_or_more() -> None:
    features, targets = features_of(LABELS), torch.tensor([0] * 7 + [1] * 2 + [2] + [-1] * 4 + [5] * 10)
    z, classes = features.flatten(1).double().numpy(), targets.numpy()
    frequent = [z[classes == c] for c in (0, 1, 5)]
    mean = np.concatenate(frequent).mean(axis=0)
    within = sum(((rows - rows.mean(axis=0)) ** 2).sum() for rows in frequent)
    between = sum(len(rows) * ((rows.mean(axis=0) - mean) ** 2).sum() for rows in frequent)
    loss = build("collapse")(features, torch.full((24,), -1), targets)["loss"]
    assert loss.item() == pytest.approx(within / between, rel=1e-4)
    assert build("collapse")(features, LABELS, torch.arange(24) % 7 * 0)["loss"].item() == 0


def kernel_ridge_share(kernel: np.ndarray, labels: np.ndarray, first: int, gamma: float) -> float:
    """What kernel ridge regression explains of the samples from `first` on, in two halves; by its dual form."""
    one_hot = np.eye(3)[labels]
    total = residual = 0.0
    for half in (0, 1):
        test = np.arange(first + half, len(kernel), 2)
        fit = np.setdiff1d(np.arange(len(kernel)), test)
        inner = kernel - kernel[:, fit].mean(axis=1, keepdims=True)
        inner -= inner[fit].mean(axis=0)
        mean = one_hot[fit].mean(axis=0)
        dual = np.linalg.solve(inner[np.ix_(fit, fit)] + gamma * np.eye(len(fit)), one_hot[fit] - mean)
        total += ((one_hot[test] - mean) ** 2).sum()
        residual += ((one_hot[test] - mean - inner[np.ix_(test, fit)] @ dual) ** 2).sum()
    return max(0.0, 1 - residual / total)


@pytest.mark.parametrize("queue", [0, 30])
def test_rff_ridge_is_kernel_ridge_regression_on_whitened_features(queue: int) -> None:
    term = build("rff_ridge", shape=(6,), count=2000, queue=queue, gamma=0.5)
    scales = torch.tensor([0.02, 10, 3, 1, 0.3, 0.1])  # what hides in small numbers counts
    batches = [features_of(LABELS, leak=1.5, shape=(6,), seed=seed) * scales for seed in (1, 2, 3)]
    losses = [term(batch, LABELS, TARGETS)["loss"].item() for batch in batches]
    rows = torch.cat(batches)[-24 - queue :].double().numpy()
    centred = rows - rows.mean(axis=0)
    mahalanobis = np.linalg.inv(centred.T @ centred / len(rows))
    apart = rows[:, None] - rows
    kernel = np.exp(-np.einsum("ijk,kl,ijl->ij", apart, mahalanobis, apart) / 2 / 6)
    labels = LABELS.repeat(3)[-24 - queue :].numpy()
    assert losses[-1] == pytest.approx(kernel_ridge_share(kernel, labels, queue, 0.5), abs=0.04)
    assert losses[-1] > 0.2


def test_fourier_features_approach_the_gaussian_kernel_and_are_drawn_anew_by_their_generator() -> None:
    whitened = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    first, again, other = (fourier_features(whitened, 40_000, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    expected = torch.exp(-torch.cdist(whitened, whitened).square() / 8)
    torch.testing.assert_close(first @ first.T, expected, rtol=0, atol=0.03)


def test_ridge_regression_explains_nothing_of_noise_and_leaves_out_classes_it_has_not_met() -> None:
    chance = torch.Generator().manual_seed(0)
    features, labels = torch.randn(400, 30, generator=chance), torch.randint(0, 2, (400,), generator=chance)
    one_hot, ones = F.one_hot(labels, 2).float(), torch.ones(400)
    assert explained_share(features, one_hot, ones[:, None], ones, 200, 1.0).item() < 0.02
    leak = features + one_hot[:, :1]
    share = explained_share(leak, one_hot, ones[:, None], ones, 200, 1.0)
    assert share.item() > 0.5
    groups = F.one_hot((torch.arange(400) == 399).long(), 2).float()  # a class of one test sample
    lonely = leak.index_fill(0, torch.tensor([399]), 1e3)
    torch.testing.assert_close(explained_share(lonely, one_hot, groups, ones, 200, 1.0), share, rtol=0.02, atol=0)


def test_the_queue_of_rff_ridge_goes_on_from_a_saved_state() -> None:
    straight, resumed = build("rff_ridge", queue=40), build("rff_ridge", queue=40)
    for seed in (1, 2):
        straight(features_of(LABELS, seed=seed), LABELS, TARGETS)
    torch.testing.assert_close(straight.queue.values[-24:], features_of(LABELS, seed=2).flatten(1))
    assert straight.queue.labels.tolist() == (LABELS.tolist() * 2)[-40:]
    resumed.load_state_dict(straight.state_dict())
    first, second = (term(features_of(LABELS, seed=3), LABELS, TARGETS)["loss"] for term in (straight, resumed))
    assert torch.equal(first, second)


def test_a_network_that_hides_by_a_closed_form_keeps_its_queue_in_checkpoints() -> None:
    network = build_network(NetworkSpec(image_size=32, head="linear"))
    (spec,) = parse_terms([{"at": "backbone-age", "objective": "rff_ridge"}])
    task = PrivateTask(network, {spec: build("rff_ridge", network.tap_shapes["backbone"])}, "emotion", 0.5)
    assert set(task.trained) == {"network", "terms"}


def test_maxent_is_the_divergence_of_the_member_that_knows_most() -> None:
    logits = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    prior = np.array([0.5, 0.3, 0.2, 0.0])  # the last class occurs nowhere
    answers = np.exp(logits.double().numpy())
    answers /= answers.sum(axis=2, keepdims=True)
    divergences = (prior[:3] * np.log(prior[:3] / answers[..., :3])).sum(axis=2).mean(axis=0)
    assert maxent_loss(logits, torch.tensor(prior).float(), torch.ones(len(logits)).bool()).item() == pytest.approx(
        divergences.max(), rel=1e-5
    )
    assert maxent_loss(torch.zeros(5, 3, 4), torch.full((4,), 0.25), torch.ones(5).bool()).item() == pytest.approx(
        0, abs=1e-6
    )


def test_members_of_mixed_depth_learn_each_by_its_own_loss_and_begin_again_in_turn() -> None:
    network = build_network(NetworkSpec(image_size=32, head="linear"))
    shape = network.tap_shapes["backbone"]
    (spec,) = parse_terms([{"at": "backbone-age", "objective": "maxent_ensemble"}])
    term = build("maxent_ensemble", shape)
    assert isinstance(term, MaxentEnsemble)
    assert term.learning is not None
    assert (term.learning.steps, term.learning.restart_epochs) == (3, 2)
    task = PrivateTask(network, {spec: term}, "emotion", 0.5)
    trainer = AdversaryTrainer(task, 0, ALONE)
    features = features_of(LABELS, shape=shape)
    members = term.ensemble.members
    assert [sum(isinstance(layer, nn.Linear) for layer in member) for member in members] == [1, 2, 3, 4]
    start = term.adversary_loss(features, LABELS)
    reduced = features.flatten(1)
    torch.testing.assert_close(start, sum(F.cross_entropy(member(reduced), LABELS) for member in members))
    for _ in range(5):
        task.observations[spec.name] = features
        trainer.observe({"age": LABELS})
        loss = trainer.step()[f"{spec.name}/adversary"]
    assert loss < 0.7 * start
    before = deepcopy(members.state_dict())
    restarted = []
    for epoch in range(1, 11):
        trainer.end_epoch(epoch)
        after = members.state_dict()
        restarted.append({name[0] for name in after if not torch.equal(after[name], before[name])})
        before = deepcopy(after)
    assert restarted == [set(), {"0"}, set(), {"1"}, set(), {"2"}, set(), {"3"}, set(), {"0"}]


def test_an_ensembles_answer_is_the_mean_of_its_members_probabilities() -> None:
    term = build("maxent_ensemble")
    assert isinstance(term, MaxentEnsemble)
    features = features_of(LABELS)
    probabilities = term.ensemble.answers(features).softmax(dim=2).mean(dim=1)
    torch.testing.assert_close(term.ensemble(features).exp(), probabilities)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"objective": "hsic", "given": "age"}, "given 'age'.*'none' or 'target'"),
        ({"objective": "rff_ridge", "gamma": 0}, "gamma 0 .*greater than 0"),
        ({"objective": "rff_ridge", "queue": -1}, "queue -1"),
        ({"objective": "maxent_ensemble", "members": 0}, "members 0"),
        ({"objective": "maxent_ensemble", "learning": {"epochs": 2}}, "learning.epochs"),
        ({"objective": "collapse", "given": "target"}, "collapse has no setting 'given'"),
    ],
)
def test_settings_that_cannot_be_are_refused(term: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_terms([{"at": "backbone-age", **term}])
