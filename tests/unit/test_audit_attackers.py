"""The fleet on data whose leak is known: strength, kind and place are chosen by the test."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import norm
from torch import nn

from privatenet.audit.attack.attackers import ATTACKERS, Setting
from privatenet.audit.attack.fleet import KINDS, Result, Unit, answers
from privatenet.audit.attack.measures import Judgement, Resamples, judge
from privatenet.audit.attack.samples import Parts, Representation, representations
from privatenet.audit.attack.together import Member, Recipe, train_together
from privatenet.models.network import NetworkSpec, build_network

Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

CPU = torch.device("cpu")


class Shown:
    """Features in memory, in the form that the fleet reads them in."""

    def __init__(self, train: Vectors, test: Vectors) -> None:
        self.arrays = {"train": train, "test": test}
        self.shapes = {"tap": train.shape[1:]}

    def array(self, split: str, tap: str) -> Vectors:
        return self.arrays[split]


def fleet(
    x: Vectors, y: Labels, samples: int, tried: Sequence[str] = tuple(ATTACKERS), kinds: Sequence[str] = KINDS["vector"]
) -> dict[str, tuple[float, Judgement]]:
    """Attack vectors `x`: a quarter of `samples` to fit and one to tune on, the rest to be judged on.

    By attacker and representation: the tuning accuracy and the judgement.
    """
    quarter = samples // 4
    shown = Shown(x[: 2 * quarter], x[2 * quarter :])
    parts = Parts(np.arange(quarter), np.arange(quarter, 2 * quarter), np.arange(len(x) - 2 * quarter))
    fitting, tuning, testing = y[:quarter], y[quarter : 2 * quarter], y[2 * quarter :]
    classes = int(y.max()) + 1
    network = build_network(NetworkSpec(image_size=64))
    setting = Setting("tap", network, classes, (0,), CPU)
    found = {}
    for seen in representations(shown, "tap", parts, 512, seed=0):  # type: ignore[arg-type]
        for name in tried:
            if seen.kind in ATTACKERS[name].sees and seen.kind in kinds:
                given = ATTACKERS[name].attack(seen, fitting, tuning, setting)
                result = Result(Unit("tap", "s", name, seen.kind), given, 0, "", 0.0)
                ((tuned, log_p),) = answers(result, (fitting, tuning), classes)
                right = float((tuned.argmax(axis=1) == tuning).mean())
                found[f"{name}-{seen.kind}"] = right, judge(log_p, testing, Resamples(len(testing), 200))
    return found


def best(found: dict[str, tuple[float, Judgement]]) -> Judgement:
    return max(found.values(), key=lambda pair: pair[0])[1]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_a_leak_of_chosen_strength_is_estimated_at_its_true_size(strength: float) -> None:
    """Of two Gaussians `2 x strength` apart no attacker tells more than Phi(strength); a good one does as well."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 8000)
    x = rng.normal(size=(8000, 4)).astype(np.float32)
    direction = rng.normal(size=4)
    x += np.outer(2 * y - 1, strength * direction / np.linalg.norm(direction)).astype(np.float32)
    truth = float(norm.cdf(strength))
    found = best(fleet(x, y, 4000, ("logistic", "mlp1", "svm")))
    assert found.accuracy.low <= truth <= found.accuracy.high
    draws = rng.normal(size=200_000) + strength
    posterior = 1 / (1 + np.exp(-2 * strength * draws))
    information = 1 + float(np.log2(posterior).mean())
    assert found.bits.low - 0.02 <= information <= found.bits.high + 0.02
    area = float(norm.cdf(strength * np.sqrt(2)))
    assert found.auc.low <= area <= found.auc.high


def test_pure_noise_is_not_called_a_leak_more_often_than_the_confidence_allows() -> None:
    """A 95 % interval lies above the truth in 2.5 % of cases; 100 seeds, so more than 7 is past chance (p < 0.01)."""
    above = dict.fromkeys(
        ("logistic-whitened", "mlp1-whitened", "svm-whitened", "trees-whitened", "paper-vector", "best"), 0
    )
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(800, 8)).astype(np.float32)
        y = (rng.random(800) < 0.4).astype(np.int64)
        found = fleet(x, y, 800, ("logistic", "mlp1", "svm", "trees", "paper"), ("vector", "whitened"))
        for name in above:
            judged = best(found) if name == "best" else found[name][1]
            above[name] += judged.excess.low > 0
    assert max(above.values()) <= 7, above


def test_a_leak_that_only_a_nonlinear_attacker_sees_is_found_and_the_papers_misses_it() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4000, 8)).astype(np.float32)
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(np.int64)
    found = fleet(x, y, 4000)
    assert found["paper-vector"][1].accuracy.low < 0.5
    assert best(found).accuracy.low > 0.8


def test_a_leak_in_a_direction_of_low_variance_is_found_and_the_papers_attacker_misses_it() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 4000)
    x = rng.normal(size=(4000, 32))
    x[:, 0] = 1e-3 * (2 * y - 1 + 0.5 * rng.normal(size=4000))
    rotation, _ = np.linalg.qr(rng.normal(size=(32, 32)))
    found = fleet((x @ rotation).astype(np.float32), y, 4000)
    assert found["paper-vector"][1].excess.high < 0.05
    assert best(found).accuracy.low > 0.95


def test_every_attacker_finds_a_plain_leak_in_a_map() -> None:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 1600)
    x = rng.normal(size=(1600, 512, 2, 2)).astype(np.float32)
    x[:, :64] += 0.4 * (2 * y - 1)[:, None, None, None]
    network = build_network(NetworkSpec(image_size=64))
    parts = Parts(np.arange(600), np.arange(600, 1000), np.arange(600))
    setting = Setting("backbone", network, 2, (0, 1), CPU)
    seen = {s.kind: s for s in representations(Shown(x[:1000], x[1000:]), "tap", parts, 64, seed=0)}  # type: ignore[arg-type]
    assert tuple(seen) == KINDS["map"]
    assert "64 principal components of 2,048 numbers" in seen["raw"].note
    for attacker in ATTACKERS.values():
        for kind in set(attacker.sees) & set(seen):
            given = attacker.attack(seen[kind], y[:600], y[600:1000], setting)
            assert given.testing.shape[1:] == (600, 2)
            assert len(given.testing) == len(given.tuning)
            for logits in given.testing:
                right = (logits.argmax(axis=1) == y[1000:]).mean()
                assert right > 0.65, (attacker.name, kind, right)


def test_networks_trained_together_are_those_that_each_would_have_become_alone() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 4, 3, 3)).astype(np.float32)
    y = rng.integers(0, 3, 300)
    seen = Representation("map", x[:200], x[200:250], x[250:], "")

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))

    members = [Member(0, 1e-2, 0.1), Member(0, 1e-3, 1e-4), Member(0, 3e-2, 0.0)]
    together = train_together(build, members, seen, y[:200], y[200:250], Recipe(4, CPU))
    for place, member in enumerate(members):
        alone = train_together(build, [member], seen, y[:200], y[200:250], Recipe(4, CPU))
        assert np.allclose(together.testing[place], alone.testing[0], atol=1e-4)
        assert np.allclose(together.tuning[place], alone.tuning[0], atol=1e-4)
        assert together.epochs[place] == alone.epochs[0]
    assert not np.allclose(together.testing[0], together.testing[1], atol=1e-2), "members share their settings"


def test_the_same_attack_gives_the_same_answers_and_another_seed_others() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = (x[:, 0] + rng.normal(size=400) > 0).astype(np.int64)
    seen = Representation("raw", x[:200], x[200:300], x[300:], "")
    network = build_network(NetworkSpec(image_size=64))
    for name in ("mlp3", "trees", "logistic", "svm"):
        runs = [
            ATTACKERS[name].attack(seen, y[:200], y[200:300], Setting("tap", network, 2, seeds, CPU)).testing
            for seeds in ((0,), (0,), (1,))
        ]
        assert np.array_equal(runs[0], runs[1]), name
        assert np.array_equal(runs[0], runs[2]) == (name in ("logistic", "svm")), name
        torch.rand(1)  # what else draws from the global generator makes no difference


def test_a_class_that_was_never_there_to_learn_from_costs_bits_but_never_infinitely_many() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(800, 6)).astype(np.float32)
    y = rng.integers(0, 2, 800)
    y[700:] = 2
    for tuning, judged in fleet(x, y, 800).values():
        assert np.isfinite([tuning, judged.bits.value, judged.auc.value, judged.balanced_accuracy.value]).all()
        assert judged.confusion[2][2] == 0
