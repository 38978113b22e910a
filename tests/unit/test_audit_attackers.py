"""The fleet on data whose leak is known: strength, kind and place are chosen by the test."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import norm
from torch import nn

from privatenet.audit.attack import answers, fleet, representations
from privatenet.audit.attack.attackers import ATTACKERS
from privatenet.audit.attack.features import Features, Key
from privatenet.audit.attack.fitting import AttackContext
from privatenet.audit.attack.fleet import Donor, Fleet, Result, Unit
from privatenet.audit.attack.intervals import Numbers, Resamples
from privatenet.audit.attack.judging import log_probabilities
from privatenet.audit.attack.measures import Judgement, judge
from privatenet.audit.attack.representations import KINDS, Representation, represent
from privatenet.audit.attack.samples import AttackLabels, AttackSplit
from privatenet.audit.attack.together import Member, Recipe, train_together
from privatenet.audit.settings import AuditConfig
from privatenet.models.channel import NO_CHANNEL
from privatenet.models.network import Network, NetworkSpec, build_network

Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

CPU = torch.device("cpu")


class InMemory:
    """Features in memory, in the form that representations read them in."""

    def __init__(self, train: Vectors, test: Vectors) -> None:
        self.arrays = {"train": train, "test": test}
        self.shapes = {"tap": train.shape[1:]}

    def stored(self, split: str, tap: str) -> Vectors:
        return self.arrays[split]

    def sigma(self, tap: str) -> float:
        return 0.0


@cache
def donor() -> Network:
    return build_network(NetworkSpec(image_size=64))


def attacked(
    x: Vectors,
    y: Labels,
    samples: int,
    attackers: Sequence[str] = tuple(ATTACKERS),
    kinds: Sequence[str] = KINDS["vector"],
) -> dict[str, tuple[float, Numbers]]:
    """Attack vectors `x`: a quarter of `samples` to fit and one to tune on, the rest to be judged on.

    By attacker and representation: the tuning cross-entropy and the log-probabilities of the testing samples.
    """
    quarter = samples // 4
    features = InMemory(x[: 2 * quarter], x[2 * quarter :])
    split = AttackSplit(np.arange(quarter), np.arange(quarter, 2 * quarter), np.arange(2 * quarter, len(x)))
    labels = AttackLabels(y[:quarter], y[quarter : 2 * quarter], y[2 * quarter :])
    classes = int(y.max()) + 1
    context = AttackContext(labels.fitting, labels.tuning, classes, "tap", donor(), (0,), CPU)
    out = {}
    for kind in set(kinds) - {"centres"}:
        representation = represent(features, "tap", split, kind, 512)  # type: ignore[arg-type]
        for name in attackers:
            if kind in ATTACKERS[name].kinds:
                unit = Unit("tap", "s", name, representation.kind)
                result = Result(unit, ATTACKERS[name].attack(representation, context), 0, "", 0.0)
                ((tuning, testing),) = log_probabilities(result, labels, classes)
                loss = float(-tuning[np.arange(quarter), labels.tuning].mean())
                out[f"{name}-{representation.kind}"] = loss, testing
    return out


def judged(
    x: Vectors, y: Labels, samples: int, attackers: Sequence[str] = tuple(ATTACKERS)
) -> dict[str, tuple[float, Judgement]]:
    """The same with judgements."""
    testing = y[2 * (samples // 4) :]
    resamples = Resamples(np.arange(len(testing)), 200)
    return {
        name: (loss, judge(log_p, testing, resamples))
        for name, (loss, log_p) in attacked(x, y, samples, attackers).items()
    }


def best(judgements: dict[str, tuple[float, Judgement]]) -> Judgement:
    return min(judgements.values(), key=lambda pair: pair[0])[1]


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
    judgement = best(judged(x, y, 4000, ("logistic", "mlp1", "svm")))
    assert judgement.accuracy.low <= truth <= judgement.accuracy.high
    draws = rng.normal(size=200_000) + strength
    posterior = 1 / (1 + np.exp(-2 * strength * draws))
    information = 1 + float(np.log2(posterior).mean())
    assert judgement.bits.low - 0.02 <= information <= judgement.bits.high + 0.02
    area = float(norm.cdf(strength * np.sqrt(2)))
    assert judgement.auc.low - 0.005 <= area <= judgement.auc.high + 0.005


def test_pure_noise_is_not_called_a_leak_more_often_than_the_confidence_allows() -> None:
    """A 95 % interval lies above the truth in 2.5 % of cases: of 100 blocks of test samples that no attacker can have
    learnt anything about, more than 7 are past chance (p < 0.01), whatever it answers. The AUC's truth is 0.5 then; the
    excess, whose majority class is that of the test samples, is below its own more often than that."""
    attackers = ("logistic", "mlp1", "svm", "trees", "paper")
    resamples = Resamples(np.arange(400), 200)
    above: dict[str, int] = {}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(4400, 8)).astype(np.float32)
        y = (rng.random(4400) < 0.4).astype(np.int64)
        fleet_answers = attacked(x, y, 800, attackers, ("vector", "whitened"))
        winner = min(fleet_answers, key=lambda name: fleet_answers[name][0])
        for block in np.split(np.arange(4000), 10):
            for name, (_, log_p) in fleet_answers.items():
                judgement = judge(log_p[block], y[400:][block], resamples)
                for key in (name, "best") if name == winner else (name,):
                    above[f"{key} auc"] = above.get(f"{key} auc", 0) + (judgement.auc.low > 0.5)
                    above[f"{key} excess"] = above.get(f"{key} excess", 0) + (judgement.excess.low > 0)
    assert len(above) == 12
    assert max(above.values()) <= 7, above


def test_a_leak_that_only_a_nonlinear_attacker_sees_is_found_and_the_papers_misses_it() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4000, 8)).astype(np.float32)
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(np.int64)
    judgements = judged(x, y, 4000)
    assert judgements["paper-vector"][1].accuracy.low < 0.5
    assert best(judgements).accuracy.low > 0.8


def test_a_leak_in_a_direction_of_low_variance_is_found_and_the_papers_attacker_misses_it() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 4000)
    x = rng.normal(size=(4000, 32))
    x[:, 0] = 1e-3 * (2 * y - 1 + 0.5 * rng.normal(size=4000))
    rotation, _ = np.linalg.qr(rng.normal(size=(32, 32)))
    judgements = judged((x @ rotation).astype(np.float32), y, 4000)
    assert judgements["paper-vector"][1].excess.high < 0.05
    assert judgements["logistic-raw"][1].excess.high < 0.1
    assert judgements["logistic-whitened"][1].accuracy.low > 0.95
    assert best(judgements).accuracy.low > 0.95


def test_a_leak_of_fine_grain_is_missed_by_all_kernels() -> None:
    rng = np.random.default_rng(8)
    x = rng.random((2400, 2)).astype(np.float32)
    y = np.floor(6 * x).sum(axis=1).astype(np.int64) % 2
    judgements = judged(x, y, 3200, ("svm", "mlp1"))
    assert judgements["mlp1-raw"][1].accuracy.high < 0.7
    assert best(judgements).accuracy.low > 0.8


def test_every_attacker_finds_a_plain_leak_in_a_map() -> None:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 1600)
    x = rng.normal(size=(1600, 512, 2, 2)).astype(np.float32)
    x[:, :64] += 0.4 * (2 * y - 1)[:, None, None, None]
    split = AttackSplit(np.arange(600), np.arange(600, 1000), np.arange(1000, 1600))
    context = AttackContext(y[:600], y[600:1000], 2, "backbone", donor(), (0, 1), CPU)
    features: Any = InMemory(x[:1000], x[1000:])
    by_kind = {kind: represent(features, "tap", split, kind, 64) for kind in KINDS["map"]}
    assert "64 principal components of 2,048 numbers" in by_kind["raw"].note
    for attacker in ATTACKERS.values():
        for kind in set(attacker.kinds) & set(by_kind):
            logits = attacker.attack(by_kind[kind], context)
            assert logits.testing.shape[1:] == (600, 2)
            assert len(logits.testing) == len(logits.tuning)
            for seed in logits.testing:
                right = (seed.argmax(axis=1) == y[1000:]).mean()
                assert right > 0.65, (attacker.name, kind, right)


def test_principal_components_are_computed_again_or_are_those_of_other_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(9)
    features: Any = InMemory(rng.normal(size=(60, 6, 2, 2)).astype(np.float32), rng.normal(size=(20, 6, 2, 2)))
    split = AttackSplit(np.arange(40), np.arange(40, 60), np.arange(60, 80))

    def looks(split: AttackSplit, kept: Path | None = tmp_path) -> list[Representation]:
        return [represent(features, "tap", split, kind, 4, kept=kept) for kind in KINDS["map"]]

    first = looks(split)
    monkeypatch.setattr(representations.PCA, "fit", None)
    for before, after in zip(first, looks(split), strict=True):
        assert (after.kind, after.note) == (before.kind, before.note)
        assert np.array_equal(before.testing, after.testing)
    with pytest.raises(TypeError):
        looks(replace(split, fitting=np.arange(39)))


def test_networks_trained_together_are_those_that_each_would_have_become_alone() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 4, 3, 3)).astype(np.float32)
    y = rng.integers(0, 3, 300)
    representation = Representation("map", x[:200], x[200:250], x[250:], "")

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(8, 3)
        )

    members = [Member(0, 1e-2, 0.1), Member(0, 1e-3, 1e-4), Member(0, 3e-2, 0.0)]
    together = train_together(build, members, representation, y[:200], y[200:250], Recipe(4, CPU))
    for place, member in enumerate(members):
        alone = train_together(build, [member], representation, y[:200], y[200:250], Recipe(4, CPU))
        assert np.allclose(together.testing[place], alone.testing[0], atol=1e-4)
        assert np.allclose(together.tuning[place], alone.tuning[0], atol=1e-4)
        assert together.epochs[place] == alone.epochs[0]
    assert not np.allclose(together.testing[0], together.testing[1], atol=1e-2), "members share their settings"


def test_the_same_attack_gives_the_same_answers_and_another_seed_others() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = (x[:, 0] + rng.normal(size=400) > 0).astype(np.int64)
    representation = Representation("raw", x[:200], x[200:300], x[300:], "")
    context = AttackContext(y[:200], y[200:300], 2, "tap", donor(), (0,), CPU)
    for name in ("mlp3", "trees", "logistic", "svm"):
        runs = [
            ATTACKERS[name].attack(representation, replace(context, seeds=seeds)).testing
            for seeds in ((0,), (0,), (1,))
        ]
        assert np.array_equal(runs[0], runs[1]), name
        assert np.array_equal(runs[0], runs[2]) == (name in ("logistic", "svm")), name
        torch.rand(1)  # what else draws from the global generator makes no difference


def test_an_answer_that_is_sure_is_the_logarithm_of_zero() -> None:
    """Warnings are errors."""
    sides = np.float32([[-1], [1]] * 30)
    labels = np.arange(60) % 2
    context = AttackContext(labels, labels, 2, "tap", donor(), (0,), CPU)
    for name in ("logistic", "svm", "kernel", "trees"):
        answers = ATTACKERS[name].attack(Representation("raw", sides, sides, 1e6 * sides, ""), context)
        assert np.isfinite(answers.testing).all(), name


@pytest.mark.parametrize("name", ["trees", "logistic", "svm", "mlp1", "kernel"])
def test_a_class_of_one_sample_ends_no_attack(name: str) -> None:
    features = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    labels = np.append(np.arange(39) % 2, 2)
    context = AttackContext(labels, labels, 3, "tap", donor(), (0,), CPU)
    answers = ATTACKERS[name].attack(Representation("whitened", features, features, features, ""), context)
    assert answers.testing.shape == (1, 40, 3)


def test_a_class_that_was_never_there_to_learn_from_costs_bits_but_never_infinitely_many() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(800, 6)).astype(np.float32)
    y = rng.integers(0, 2, 800)
    y[700:] = 2
    for tuning, judgement in judged(x, y, 800).values():
        assert np.isfinite([tuning, judgement.bits.value, judgement.auc.value, judgement.balanced_accuracy.value]).all()
        assert judgement.confusion[2][2] == 0


def test_answers_are_found_by_all_that_they_depend_on_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = Unit("arm", "gender", "logistic", "raw")
    rows = np.arange(40)
    attackers = Fleet(
        Features(Key("9c1f" * 16, "5d41" * 16, "fp32", 64), tmp_path, {"arm": (8,)}, NO_CHANNEL),
        None,  # type: ignore[arg-type]
        {"training": (AttackSplit(rows[:10], rows[10:20], rows[20:]),)},
        {("training", "gender"): Donor(donor(), "a" * 64)},
        AuditConfig(attributes=["gender"], attackers=["logistic"]),
        CPU,
        tmp_path,
    )
    path = attackers.file(unit)
    assert path.parent == tmp_path / "arm-gender"
    config, split, key = attackers.config, attackers.split(unit), attackers.features.key
    same = (
        replace(attackers, config=replace(config, attackers=["svm"], attributes=["race"], confidence=0.9)),
        replace(attackers, folder=tmp_path, folds={"training": (replace(split, fitting=rows[:10].copy()),)}),
    )
    other = (
        replace(attackers, config=replace(config, seeds=4)),
        replace(attackers, config=replace(config, components=9)),
        replace(attackers, donors={("training", "gender"): Donor(donor(), "b" * 64)}),
        replace(attackers, folds={"training": (replace(split, tuning=rows[11:20]),)}),
        replace(attackers, folds={"training": (replace(split, testing=rows[21:]),)}),
        replace(attackers, features=replace(attackers.features, key=replace(key, image_size=96))),
    )
    assert {f.file(unit) for f in same} == {path}
    names = {f.file(unit) for f in other} | {path, attackers.file(unit, code=[answers])}
    monkeypatch.setattr(fleet, "library_versions", lambda: {"torch": "99"})
    names.add(attackers.file(unit))
    monkeypatch.undo()
    monkeypatch.setattr(fleet, "CODE", fleet.CODE[1:])
    assert attackers.file(unit) == path, "an attacker's own module was not among those that count"
    monkeypatch.setattr(fleet, "CODE", ())
    names.add(attackers.file(unit))
    assert len(names) == len(other) + 4


@pytest.mark.parametrize("change", ["one number", "a note", "half of it", "something else"])
def test_answers_that_were_not_written_here_are_not_read(
    tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "logistic-raw.npz"
    assert answers.read(path) is None
    assert not capsys.readouterr().err
    content = answers.Stored({"tuning": np.eye(3, dtype=np.float32)}, {"seconds": 1.5})
    answers.write(path, content)
    stored = answers.read(path)
    assert stored is not None
    assert (stored.arrays["tuning"] == np.eye(3)).all()
    assert stored.notes == {"seconds": 1.5}
    with np.load(path) as file:
        arrays = dict(file)
    if change == "one number":
        np.savez(path, **{**arrays, "tuning": 2 * arrays["tuning"]})
    elif change == "a note":
        np.savez(path, **{**arrays, "notes": np.array('{"seconds": 0}')})
    else:
        path.write_bytes(path.read_bytes()[:200] if change == "half of it" else b"something else")
    assert answers.read(path) is None
    assert "is not the file that was written, computed again" in capsys.readouterr().err
