"""Channels, and the objective that knows their noise, against values worked out by hand or in another way."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from privatenet.models.channel import CENTRE, NO_CHANNEL, RELEASE, ChannelSpec, build_channel
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


@pytest.mark.parametrize("at", ["layer2", "arm", "logits"])
@pytest.mark.parametrize("kind", ["noise", "codebook"])
def test_all_that_comes_after_a_channel_sees_only_what_it_sends(kind: str, at: str) -> None:
    channel = ChannelSpec(kind, at=at, norm=3.0, codes=9)  # type: ignore[arg-type]
    plain = build_network(NetworkSpec(image_size=64)).eval()
    network = with_channel(plain, channel).eval()
    logits, taps = network(IMAGES)
    _, before = plain(IMAGES)
    for tap in taps:
        assert taps[tap].shape[1:] == network.tap_shapes[tap]
    assert set(taps) == set(before) | {CENTRE, RELEASE}
    same = [tap for tap in before if torch.equal(before[tap], taps[tap])]
    assert same == list(before)[: list(before).index(at) + 1 if at in before else len(before)]
    torch.testing.assert_close(network.answer(taps[RELEASE]), logits)
    if at == "logits":
        assert torch.equal(logits, taps[RELEASE])
    if kind == "codebook":
        assert len({tuple(row.tolist()) for row in taps[RELEASE].flatten(1)}) <= 9
        logits.sum().backward()
        assert network.channel.codes.grad is not None
        assert any(parameter.grad is not None for parameter in network.backbone.stem.parameters())


def test_a_specification_survives_as_plain_values() -> None:
    spec = NetworkSpec(channel={"kind": "noise", "norm": 3.0, "sigma": 0.5})  # type: ignore[arg-type]
    assert spec == NetworkSpec(channel=NOISE)
    assert spec.taps[-2:] == (CENTRE, RELEASE)
    assert NetworkSpec().channel == NO_CHANNEL


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "fog"}, "accepted: none, noise, codebook"),
        ({"kind": "noise", "sigma": 0.0}, "accepted: above 0"),
        ({"kind": "noise", "norm": math.nan}, "accepted: above 0"),
        ({"kind": "codebook", "codes": 1}, "accepted: 2 to 4096"),
        ({"kind": "noise", "at": "image"}, "accepted: layer1, .*, arm, logits"),
    ],
)
def test_a_channel_that_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        NetworkSpec(channel=values)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("kind", ["none", "codebook"])
def test_a_mixture_without_noise_is_refused(kind: str) -> None:
    (spec,) = parse_terms([{"at": "release-gender", "objective": "mixture"}])
    with pytest.raises(ModelError, match=r"accepted: at the tap release, with channel\.kind noise"):
        spec.build(context(ChannelSpec(kind)))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="accepted: release-gender"):
        parse_terms([{"at": "backbone-gender", "objective": "mixture"}])
