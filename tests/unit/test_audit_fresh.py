"""Attackers with faces that no stage learnt from, and what a verdict may say of all that an audit looked at."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from audited import findings
from scipy.special import log_softmax
from scipy.stats import norm

from privatenet.audit.attack import networks
from privatenet.audit.attack.controls import target_label_floor
from privatenet.audit.attack.features import Features, Key
from privatenet.audit.attack.findings import Leak
from privatenet.audit.attack.fitting import Answers
from privatenet.audit.attack.fleet import AttackResults, Donor, Fleet, Result, Unit, attack
from privatenet.audit.attack.intervals import Numbers, Resamples, wilson
from privatenet.audit.attack.judging import judge_leaks
from privatenet.audit.attack.measures import SIGNS, judge
from privatenet.audit.attack.samples import attack_folds, training_split
from privatenet.audit.errors import AuditError
from privatenet.audit.report.verdict import verdicts
from privatenet.audit.settings import FACES, FRESH, TRAINING, AuditConfig
from privatenet.data_shards.shards.split import Split
from privatenet.data_shards.sources.schema import Attribute, Schema
from privatenet.distributed.ranks import ALONE
from privatenet.models.adversary import ImageAdversary
from privatenet.models.channel import CENTRE, NO_CHANNEL, ChannelSpec
from privatenet.models.network import NetworkSpec, build_network

Labels = npt.NDArray[np.int64]

EMOTION, GENDER = (Attribute(name, {"a": "a", "b": "b"}) for name in ("emotion", "gender"))
SCHEMA = Schema("faces", "emotion", (EMOTION, GENDER), ("gender",))
CONFIG = AuditConfig(attributes=["gender"], attackers=["logistic", "svm"], seeds=1, resamples=200)


def split_of(name: str, genders: Labels, persons: Labels | None = None) -> Split:
    """Samples of these genders, half of them of one emotion."""
    rows, none = np.arange(len(genders)), np.zeros(0, dtype=np.int64)
    labels = np.stack([rows % 2, genders], axis=1)
    names = [f"{name}{row}" for row in rows]
    return Split(Path(), name, SCHEMA, (8, 8), names, labels, persons, none.astype(np.int32), none, none, ())


def faces_of(train: Split, test: Split, held_out: int) -> Any:
    """A data set whose last `held_out` training samples are for validation."""
    mask = np.arange(len(train)) >= len(train) - held_out
    return SimpleNamespace(train=train, test=test, schema=SCHEMA, held_out=mask, ranks=ALONE)


def leaks_of(
    faces: Any, folder: Path, arrays: dict[str, Numbers], channel: ChannelSpec = NO_CHANNEL,
    taps: tuple[str, ...] = ("tap",), config: AuditConfig = CONFIG,
) -> list[Leak]:  # fmt: skip
    """What the fleet reads of gender at taps whose features are `arrays`, by "split/tap"."""
    for name, array in arrays.items():
        (folder / name).parent.mkdir(exist_ok=True)
        np.save(folder / f"{name}.npy", array.astype(np.float32))
    shape = next(iter(arrays.values())).shape[1:]
    features = Features(Key("0", "0", "fp32", 8), folder, dict.fromkeys(taps, shape), channel)
    attacked = attack(fleet_of(features, faces, config), ALONE, lambda what, done, total: None)
    return [judged.leak for judged in judge_leaks(attacked, ALONE, with_code=False)]


def fleet_of(features: Features, faces: Any, config: AuditConfig) -> Fleet:
    donor = Donor(build_network(NetworkSpec(image_size=64)), "")
    donors = {(kind, "gender"): donor for kind in FACES}
    return Fleet(features, faces, attack_folds(config, faces), donors, config, torch.device("cpu"), features.folder)


@pytest.mark.parametrize("hidden", [0.0, 3.0])
def test_a_leak_that_only_fresh_faces_show_is_missed_or_one_is_made_of_noise(hidden: float, tmp_path: Path) -> None:
    """The network hides gender on the faces that it was trained on and shows it on others, `hidden` deviations off."""
    rng = np.random.default_rng(0)
    genders = {name: rng.integers(0, 2, 400) for name in ("train", "test")}
    arrays = {f"{name}/tap": rng.normal(size=(400, 6)) for name in genders}
    arrays["test/tap"][:, 0] += hidden * (2 * genders["test"] - 1)
    faces = faces_of(split_of("train", genders["train"]), split_of("test", genders["test"]), 0)
    (leak,) = leaks_of(faces, tmp_path, arrays)
    assert leak.attacks[leak.chosen[TRAINING]].excess.value < 0.1
    if hidden:
        assert leak.headline.faces == FRESH
        assert leak.headline.accuracy.low > 0.95
    audit = with_leaks([leak])
    assert (verdicts(audit)[0].status == "leaks") == bool(hidden)


def test_no_test_label_chooses_an_attacker_that_it_judges(tmp_path: Path) -> None:
    """Answers of noise, by twelve attackers: the best of them, chosen by tuning samples, knows nothing of test samples,
    though a fold's tuning samples are other folds' test samples."""
    config = replace(CONFIG, faces=[FRESH])
    features = Features(Key("0", "0", "fp32", 8), tmp_path, {"tap": (1,)}, NO_CHANNEL)
    accuracies = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        train, test = (split_of(name, rng.integers(0, 2, 200)) for name in ("train", "test"))
        fleet = fleet_of(features, faces_of(train, test, 60), config)
        results = []
        for number in range(12):
            guess = rng.normal(size=(400, 1)) * [[0, 1]]
            for fold, split in enumerate(fleet.folds[FRESH]):
                answers = Answers(guess[split.tuning][None], guess[split.testing][None])
                results.append(Result(Unit("tap", "gender", str(number), "raw", FRESH, fold), answers, 1, "", 0))
        (judged,) = judge_leaks(AttackResults(fleet, results), ALONE, with_code=False)
        accuracies.append(judged.leak.headline.accuracy.value)
    assert np.mean(accuracies) == pytest.approx(0.5, abs=0.012)


def test_noise_averaged_over_releases_is_read_as_well_as_the_closed_form_says(tmp_path: Path) -> None:
    """Of centres -a and a and noise of deviation 1, the mean of r releases tells the class with Phi(a sqrt(r))."""
    rng = np.random.default_rng(1)
    genders = {name: rng.integers(0, 2, size) for name, size in (("train", 600), ("test", 4000))}
    arrays = {f"{name}/{CENTRE}": 0.5 * (2.0 * values - 1)[:, None] for name, values in genders.items()}
    faces = faces_of(split_of("train", genders["train"]), split_of("test", genders["test"]), 60)
    channel = ChannelSpec(kind="noise", at="logits", norm=1.0, sigma=1.0)
    config = replace(CONFIG, attackers=["logistic", "noise"], faces=[TRAINING])
    leaks = leaks_of(faces, tmp_path, arrays, channel, ("release", "release_x10"), config)
    for leak, releases in zip(leaks, (1, 10), strict=True):
        assert leak.headline.accuracy.value == pytest.approx(norm.cdf(0.5 * releases**0.5), abs=0.02)


@pytest.mark.parametrize("kind", FACES)
def test_a_label_is_read_as_if_it_were_the_logits(kind: str, tmp_path: Path) -> None:
    """Of the logits the first gives gender away; of the label is read what four in five of each gender share, which the
    predicted one is, but for a class that no attacker has met."""
    rng = np.random.default_rng(4)
    genders = {name: rng.integers(0, 2, 800) for name in ("train", "test")}
    arrays = {}
    for name, values in genders.items():
        label = np.where(rng.random(800) < 0.8, values, 1 - values)
        label[0] = 2 if name == "test" else label[0]
        arrays[f"{name}/logits"] = np.eye(3)[label] + 0.3 * values[:, None] * [1.0, 1.0, 1.0]
    faces = faces_of(split_of("train", genders["train"]), split_of("test", genders["test"]), 0)
    config = replace(CONFIG, attackers=["logistic"], faces=[kind])
    logits, label = leaks_of(faces, tmp_path, arrays, taps=("logits",), config=config)
    assert (logits.tap, label.tap, label.headline.attacker) == ("logits", "label", "table")
    assert logits.headline.accuracy.value > 0.99
    predicted = arrays["test/logits"].argmax(axis=1)
    assert label.headline.accuracy.value == pytest.approx((predicted == genders["test"]).mean(), abs=0.003)


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_a_fresh_face_is_judged_twice_or_by_attackers_that_know_its_person(validation: bool, known: bool) -> None:
    rng = np.random.default_rng(2)
    persons = rng.integers(0, 60, 400) if known else None
    train = split_of("train", rng.integers(0, 2, 600), np.full(600, -1) if known else None)
    if known:
        train.persons[450:] = rng.integers(0, 60, 150)  # type: ignore[index]
    faces = faces_of(train, split_of("test", rng.integers(0, 2, 400), persons), 150)
    splits = attack_folds(CONFIG, faces, validation)[FRESH]
    judged = np.concatenate([split.testing for split in splits])
    assert sorted(judged) == list(range(450, 600) if validation else range(600, 1000))
    everyone = np.concatenate([train.persons, persons]) if known else np.arange(1000)
    for split in splits:
        groups = [set(everyone[rows]) for rows in (split.fitting, split.tuning, split.testing)]
        assert sum(map(len, groups)) == len(set.union(*groups)), "someone is in two of them"
        assert min(split.fitting.min(), split.tuning.min()) >= 450, "a stage has learnt from these"
        assert len(split.tuning) == pytest.approx(len(split.fitting) / 3, rel=0.25)
        assert len(split.testing) == pytest.approx(len(judged) / 5, rel=0.25)


def test_what_the_target_tells_is_said_of_faces_whose_target_is_known() -> None:
    """Of those the target is the gender; the others' gender is any."""
    genders = np.arange(400) // 2 % 2
    splits = [split_of(name, genders) for name in ("train", "test")]
    for split in splits:
        split.labels[:, 0] = np.where(np.arange(400) < 200, genders, -1)
    faces = faces_of(*splits, 0)
    floor = target_label_floor("gender", CONFIG, faces, *training_split(faces))
    assert floor is not None
    assert floor.control.accuracy == wilson(1, 200)
    assert np.isnan(floor.right).tolist() == [False] * 200 + [True] * 200
    splits[1].labels[:, 0] = -1
    assert target_label_floor("gender", CONFIG, faces, *training_split(faces)) is None


def test_too_few_fresh_faces_are_attacked_or_left_out_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    genders = np.arange(200) // 2 % 2
    faces = faces_of(split_of("train", genders), split_of("test", genders[:40]), 0)
    assert list(attack_folds(CONFIG, faces)) == [TRAINING]
    reason = "gender: 8 samples for tuning attackers on fresh faces, accepted: 20 or more"
    assert capsys.readouterr().err == f"privatenet: attackers do without fresh faces: {reason}\n"
    with pytest.raises(AuditError, match=reason):
        attack_folds(replace(CONFIG, faces=[FRESH]), faces)
    few = faces_of(split_of("train", genders), split_of("test", genders, np.arange(200) // 67), 0)
    with pytest.raises(AuditError, match="fresh faces"):
        attack_folds(replace(CONFIG, faces=[FRESH]), few)


def test_fine_tuning_starts_from_an_adversary_that_has_learnt_the_tuning_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build_network(NetworkSpec(image_size=64))
    known: Any = SimpleNamespace(hash="known", state={"identity": {"pairs": ["image-gender", "arm-gender"]}})
    adversary = ImageAdversary(build_network(NetworkSpec(image_size=64)))
    monkeypatch.setattr(networks, "load_adversaries", lambda *args: {"image-gender": adversary})
    donors = networks._donors(network, "itself", known, ["gender"], ALONE)
    assert {kind: donor.sha256 for (kind, _), donor in donors.items()} == {TRAINING: "itself", FRESH: "known"}


def test_noise_at_many_taps_is_called_a_leak_more_often_than_the_confidence_allows() -> None:
    """In at most 5 % of audits of twelve rows (six taps, two kinds of faces) that tell nothing (10 of 100: p < 0.02).
    By each row's own 95 % interval it would be a third of them."""
    rng = np.random.default_rng(3)
    samples, audits, example = 200, 100, findings().audited.leaks[0]
    called = {"bound": 0, "low": 0}
    resamples = Resamples(np.arange(samples), 60, bounds=len(SIGNS) * 12)
    for _ in range(audits):
        labels = rng.permutation(samples) % 2
        leaks = []
        for tap in range(6):
            answers = log_softmax(0.2 * rng.normal(size=(2, samples, 2)), axis=2)
            attacks = tuple(
                replace(example.headline, faces=kind, **vars(judge(log_p, labels, resamples)))
                for kind, log_p in zip(FACES, answers, strict=True)
            )
            best = int(attacks[1].excess.value > attacks[0].excess.value)
            leaks.append(replace(example, tap=str(tap), class_counts=(100, 100), attacks=attacks, best=best))
        called["bound"] += verdicts(with_leaks(leaks))[0].status == "leaks"
        called["low"] += any(
            attacks.excess.low > 0 or attacks.bits.low > 0 or attacks.balanced_accuracy.low > 0.5
            for leak in leaks
            for attacks in leak.attacks
        )
    assert called["bound"] <= 10
    assert called["low"] > 20


def with_leaks(leaks: list[Leak]) -> Any:
    """An audit of one network with these leaks."""
    example = findings()
    return replace(example, networks=(replace(example.audited, leaks=tuple(leaks)),), controls=())
