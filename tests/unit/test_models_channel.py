"""Channels, and the objective that knows their noise, against values worked out by hand or in another way."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from privatenet.distributed.tracking.served import Logits
from privatenet.models.channel import CENTRE, NO_CHANNEL, RELEASE, ChannelSpec, build_channel
from privatenet.models.erasure import leace, moments
from privatenet.models.errors import ModelError
from privatenet.models.network import NetworkSpec, build_network, with_channel
from privatenet.models.objectives.mixture import mixture_loss
from privatenet.models.objectives.registry import parse_terms
from privatenet.models.objectives.term import TermContext

NOISE = ChannelSpec("noise", norm=3.0, sigma=0.5)
IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_what_is_sent_is_bounded_and_its_noise_has_the_stated_size() -> None:
    channel = build_channel(NOISE, (7,))
    short, long = torch.tensor([[1.0, -1, 0, 0, 0, 0, 0]]), torch.tensor([[9.0, 2, 2, 2, 2, 2, 2]])
    torch.testing.assert_close(channel.bound(short), short)
    assert channel.bound(long).norm().item() == pytest.approx(3)
    assert channel.bound(long).sum().item() == pytest.approx(0, abs=1e-5), "what all logits share tells no class"
    noise = channel(torch.zeros(20_000, 7))
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert channel.bound(long.bfloat16()).dtype == torch.float32


def test_a_served_network_draws_noise_that_no_seed_repeats() -> None:
    zeros = torch.zeros(20_000, 7)
    network = build_network(NetworkSpec(image_size=64, channel=replace(NOISE, sigma=2.0))).eval()

    def answer(served: nn.Module) -> Tensor:
        torch.manual_seed(0)
        logits = served(IMAGES)
        return logits if isinstance(logits, Tensor) else logits[0]

    seeded = answer(network)
    assert torch.equal(answer(network), seeded)
    served = Logits(network)
    first, second = answer(served), answer(served)
    assert not torch.equal(first, seeded)
    assert not torch.equal(first, second)
    noise = network.channel(zeros).flatten() / 2
    assert kstest(noise[:100_000].numpy(), "norm").pvalue > 1e-4
    assert torch.isfinite(noise).all()


@pytest.mark.parametrize(("at", "numbers"), [("layer2", 0), ("layer2", 5), ("arm", 0), ("arm", 5), ("logits", 0)])
@pytest.mark.parametrize("kind", ["noise", "codebook", "plain", "quantised"])
def test_all_that_comes_after_a_channel_sees_only_what_it_sends(kind: str, at: str, numbers: int) -> None:
    channel = ChannelSpec(kind, at=at, norm=3.0, codes=9, numbers=numbers, step=2**-8)  # type: ignore[arg-type]
    plain = build_network(NetworkSpec(image_size=64)).eval()
    network = with_channel(plain, channel).eval()
    logits, taps = network(IMAGES)
    _, before = plain(IMAGES)
    for tap in taps:
        assert taps[tap].shape[1:] == network.tap_shapes[tap]
    assert set(taps) == set(before) | {CENTRE, RELEASE}
    same = [tap for tap in before if torch.equal(before[tap], taps[tap])]
    assert same == list(before)[: list(before).index(at) + 1 if at in before else len(before)]
    assert not numbers or network.tap_shapes[CENTRE] == network.tap_shapes[RELEASE] == (numbers,)
    torch.testing.assert_close(network.answer(taps[RELEASE]), logits)
    if at == "logits":
        assert torch.equal(logits, taps[RELEASE])
    if kind == "codebook":
        assert len({tuple(row.tolist()) for row in taps[RELEASE].flatten(1)}) <= 9
    if kind == "quantised":
        assert torch.equal(taps[RELEASE] * 2**8, (taps[RELEASE] * 2**8).round())
        assert 0 < (taps[RELEASE] - taps[CENTRE]).abs().max() <= 2**-9
    if kind == "plain":
        assert torch.equal(taps[RELEASE], taps[CENTRE])
    (logits * torch.randn(logits.shape)).sum().backward()
    for parameter in (*network.backbone.stem.parameters(), *network.channel.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("numbers", [3, 100])
def test_what_follows_a_narrow_tap_has_its_rank_and_the_size_that_it_expects(numbers: int) -> None:
    """100 are more than the tap's channels, of which half have a mean of their own far from 0."""
    images = (
        torch.randn(150, 64, 6, 4, generator=torch.Generator().manual_seed(0))
        + 50 * (torch.arange(64) % 2)[:, None, None]
    )
    channel = build_channel(ChannelSpec("plain", "layer1", norm=8.0, numbers=numbers), (64, 6, 4))
    bounded = channel.bound(images)
    assert bounded.norm(dim=1).mean().item() == pytest.approx(4, rel=0.15)
    decoded = channel.decode(channel(bounded))
    assert decoded.shape == images.shape
    assert decoded.std().item() == pytest.approx(1, rel=0.15)
    assert torch.linalg.matrix_rank(torch.cov(decoded.flatten(1).T), rtol=1e-5) == numbers


def test_a_channel_without_numbers_draws_nothing_and_has_no_layers() -> None:
    networks = []
    for channel in (NO_CHANNEL, NOISE, ChannelSpec("plain", "layer3"), ChannelSpec("plain", "layer3", numbers=4)):
        torch.manual_seed(0)
        networks.append(build_network(NetworkSpec(image_size=64, channel=channel)))
    first, *others, narrow = (network.state_dict() for network in networks)
    assert all(other.keys() == first.keys() for other in others)
    assert {name.split(".")[1] for name in narrow.keys() - first.keys()} == {"encoder", "decoder"}
    for other in (*others, narrow):
        assert all(torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_a_network_that_starts_from_one_with_the_same_channel_keeps_it() -> None:
    network = build_network(NetworkSpec(image_size=64, channel=ChannelSpec("codebook", codes=9)))
    assert with_channel(network, network.spec.channel).channel is network.channel
    other = with_channel(network, ChannelSpec("codebook", codes=8))
    assert other.channel.codes.shape[0] == 8
    assert other.backbone is network.backbone


def test_a_specification_survives_as_plain_values() -> None:
    spec = NetworkSpec(channel={"kind": "noise", "norm": 3.0, "sigma": 0.5})  # type: ignore[arg-type]
    assert spec == NetworkSpec(channel=NOISE)
    assert spec.taps[-2:] == (CENTRE, RELEASE)
    assert NetworkSpec().channel == NO_CHANNEL


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "fog"}, "accepted: none, noise, codebook, plain, quantised"),
        ({"kind": "noise", "sigma": 0.0}, "accepted: above 0"),
        ({"kind": "noise", "norm": math.nan}, "accepted: above 0"),
        ({"kind": "codebook", "codes": 1}, "accepted: 2 to 4096"),
        ({"kind": "noise", "numbers": 513, "at": "arm"}, "numbers 513 is not accepted; accepted: 0 to 512"),
        ({"kind": "noise", "numbers": 4.5, "at": "arm"}, "numbers 4.5 is not accepted"),
        ({"kind": "noise", "numbers": 4}, "numbers 4 is not accepted at logits"),
        (
            {"kind": "noise", "at": "arm", "erase": ["gender"]},
            "erase gender is not accepted .* noise at arm, numbers 0",
        ),
        ({"erase": ["gender"]}, "erase gender is not accepted with channel.kind none"),
        ({"kind": "quantised", "step": 0}, "channel.step 0 is not accepted; accepted: above 0"),
        ({"kind": "noise", "at": "image"}, "accepted: layer1, .*, arm, logits"),
    ],
)
def test_a_channel_that_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        NetworkSpec(channel=values)  # type: ignore[arg-type]


def test_an_erasure_that_is_not_fitted_changes_nothing_and_one_that_is_not_asked_for_is_not_there() -> None:
    spec = NetworkSpec(image_size=64, channel=ChannelSpec("plain", "layer3", numbers=4))
    plain = build_network(spec).eval()
    erasing = with_channel(plain, ChannelSpec("plain", "layer3", numbers=4, erase=["gender"])).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(IMAGES)[0], erasing(IMAGES)[0])
    added = erasing.state_dict().keys() - plain.state_dict().keys()
    assert added == {"channel.erasure.matrix", "channel.erasure.offset"}


def test_leace_is_its_papers_projection_and_leaves_nothing_to_linear_regression() -> None:
    """Of mean-free numbers, as logits are, in batches; a third of one attribute's labels is unknown."""
    rng, classes = np.random.default_rng(0), (2, 3)
    labels = [rng.integers(count, size=500) for count in classes]
    labels[1][::3] = -1
    numbers = rng.standard_normal((500, 9)) @ rng.standard_normal((9, 9)) + 5
    numbers[:, 0] += 3 * labels[0]
    numbers[:, 1] -= 2 * labels[1]
    numbers -= numbers.mean(axis=1, keepdims=True)
    batches = zip(np.split(numbers, 5), *(np.split(each, 5) for each in labels), strict=True)
    total = sum(moments(torch.tensor(x), [torch.tensor(each) for each in rest], classes) for x, *rest in batches)
    assert isinstance(total, Tensor)
    matrix, offset = (each.numpy() for each in leace(total, classes))

    values, vectors = np.linalg.eigh(np.cov(numbers.T, bias=True))
    values[0], scales = 1, np.sqrt(np.abs(values)) * (np.arange(9) > 0)
    whiten, restore = (
        (vectors * np.divide(1, scales, where=scales > 0, out=scales.copy())) @ vectors.T,
        (vectors * scales) @ vectors.T,
    )
    one_hot = [np.eye(count)[each[each >= 0]] for each, count in zip(labels, classes, strict=True)]
    known = [numbers[each >= 0] for each in labels]
    shared = np.hstack([(x - x.mean(0)).T @ (z - z.mean(0)) / len(x) for x, z in zip(known, one_hot, strict=True)])
    left, sizes, _ = np.linalg.svd(whiten @ shared)
    left = left[:, : (sizes > 1e-9).sum()]
    assert left.shape[1] == 1 + 2
    expected = np.eye(9) - restore @ left @ left.T @ whiten
    np.testing.assert_allclose(matrix, expected, atol=1e-9)
    np.testing.assert_allclose(numbers.mean(0) @ matrix.T + offset, numbers.mean(0), atol=1e-9)

    def explained(x: np.ndarray, z: np.ndarray) -> float:
        x, z = x - x.mean(0), z - z.mean(0)
        return float(1 - ((z - x @ np.linalg.lstsq(x, z, rcond=1e-6)[0]) ** 2).sum() / (z**2).sum())

    for x, z in zip(known, one_hot, strict=True):
        assert explained(x, z) > 0.1
        assert abs(explained(x @ matrix.T + offset, z)) < 1e-9


def by_hand(releases: Tensor, centres: Tensor, labels: Tensor, sigma: float, classes: int) -> float:
    """KL(p(s|u) || prior) by sums over centres, one at a time."""
    total = 0.0
    for i, u in enumerate(releases.double().numpy()):
        weights = np.ones(classes)
        densities: list[list[float]] = [[] for _ in range(classes)]
        for j, (mu, label) in enumerate(zip(centres.double().numpy(), labels.tolist(), strict=True)):
            if j != i + len(centres) - len(releases) and label >= 0:
                weights[label] += 1
                densities[label].append(math.exp(-((u - mu) ** 2).sum() / (2 * sigma**2)))
        prior = weights / weights.sum()
        joint = prior * np.array([np.mean(values) if values else 0.0 for values in densities])
        posterior = joint / joint.sum()
        total += sum(p * math.log(p / q) for p, q in zip(posterior, prior, strict=True) if p > 0)
    return total / len(releases)


def test_the_mixture_is_the_posterior_of_all_other_pictures() -> None:
    chance = torch.Generator().manual_seed(2)
    centres = torch.randn(30, 3, generator=chance)
    labels = torch.randint(0, 2, (30,), generator=chance)
    labels[[4, 25]] = -1
    releases = (centres[20:] + 0.7 * torch.randn(10, 3, generator=chance)).requires_grad_()
    for classes in (2, 3):  # the third has no picture at all
        loss = mixture_loss(releases, centres, labels, 0.7, classes)
        assert loss.item() == pytest.approx(by_hand(releases.detach(), centres, labels, 0.7, classes), rel=1e-4)
        (gradient,) = torch.autograd.grad(loss, releases)
        assert gradient.isfinite().all()


def test_far_away_classes_give_all_away_and_finite_gradients() -> None:
    centres = torch.tensor([[500.0], [-500.0]]).repeat(20, 1).requires_grad_()
    labels = torch.tensor([0, 1]).repeat(20)
    loss = mixture_loss(centres + 0.1, centres, labels, 1.0, 2)
    assert loss.item() == pytest.approx(-math.log(20 / 41)), "19 others of its class and 20 of the other, and one each"
    loss.backward()
    assert centres.grad is not None
    assert centres.grad.isfinite().all()


def test_hiding_from_the_mixture_moves_classes_together() -> None:
    chance = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 2, (64,), generator=chance)
    centres = (torch.randn(64, 2, generator=chance) + 4 * labels[:, None]).requires_grad_()
    optimizer = torch.optim.Adam([centres], lr=0.2)
    distances, losses = [], []
    for _ in range(4):
        for _ in range(15):
            loss = mixture_loss(centres + torch.randn(64, 2, generator=chance), centres, labels, 1.0, 2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        means = [centres[labels == label].mean(dim=0) for label in (0, 1)]
        distances.append((means[0] - means[1]).norm().item())
        losses.append(loss.item())
    assert distances[-1] < distances[0] / 4
    assert losses[-1] < losses[0] / 4


def context(channel: ChannelSpec, shape: tuple[int, ...] = (7,)) -> TermContext:
    return TermContext(shape, torch.tensor([0.4, 0.6]), None, lambda: torch.nn.Identity(), 7, channel)


def test_a_queue_holds_the_newest_pictures_of_training_only() -> None:
    (spec,) = parse_terms([{"at": "release-gender", "objective": "mixture", "queue": 6}])
    term = spec.build(context(NOISE))
    batches = [torch.full((4, 7), float(number)) for number in (1, 2, 3)]
    labels = torch.tensor([0, 1, 0, 1])
    for batch in batches:
        losses = term(batch.bfloat16(), labels, labels)
        assert losses["loss"].dtype == torch.float32
    assert term.queue.values[:, 0].tolist() == [2, 2, 3, 3, 3, 3]
    assert term.queue.labels.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("kind", "shape", "accepted"),
    [
        ("noise", (7,), True), ("plain", (16,), True), ("quantised", (7,), True), ("plain", (17,), False),
        ("plain", (4, 2, 2), False), ("none", (7,), False), ("codebook", (7,), False),
    ],
)  # fmt: skip
def test_a_mixture_is_of_few_numbers_that_are_no_codes(kind: str, shape: tuple[int, ...], accepted: bool) -> None:
    (spec,) = parse_terms([{"at": "release-gender", "objective": "mixture"}])
    channel = ChannelSpec(kind)  # type: ignore[arg-type]
    if accepted:
        spec.build(context(channel, shape))
    else:
        with pytest.raises(ModelError, match=r"accepted: at the tap release, with channel\.kind noise, plain, quantis"):
            spec.build(context(channel, shape))
    with pytest.raises(ModelError, match="accepted: release-gender"):
        parse_terms([{"at": "backbone-gender", "objective": "mixture"}])
