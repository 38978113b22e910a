"""An audit as a person starts it: what it leaves, what it finds again, what it refuses."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import Start

from privatenet.audit.attack.attackers import ATTACKERS
from privatenet.audit.attack.findings import Findings, read_findings
from privatenet.launch import cli

QUICK = ("--attackers", "[paper, logistic, svm, conv]", "--seeds", "1", "--components", "8", "--resamples", "100")
ALONE = ("--references", "[]")


@pytest.fixture(scope="module")
def run(finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished run's folder, to audit in."""
    copy = tmp_path_factory.mktemp("audited") / "run"
    shutil.copytree(finished[0].parent / "run", copy)
    return copy


@pytest.fixture(scope="module")
def audited(run: Path) -> Findings:
    """The private network of that run, audited by four attackers."""
    assert cli.main(["audit", str(run / "private"), *QUICK, "--faces", "2"]) == 0
    return read_findings(run / "audit-private" / "report" / "audit.json")


def test_an_audit_judges_every_tap_and_attribute_of_three_networks(audited: Findings) -> None:
    assert [network.role for network in audited.networks] == ["audited", "unprotected", "random"]
    for network in audited.networks:
        assert [(leak.tap, leak.attribute) for leak in network.leaks] == [
            (tap, attribute) for tap in ("backbone", "arm", "logits") for attribute in ("gender", "age_group")
        ]
    for leak in audited.audited.leaks:
        kinds = {(attack.attacker, attack.representation) for attack in leak.attacks}
        expected = {("logistic", "raw"), ("logistic", "whitened"), ("svm", "raw"), ("svm", "whitened")}
        maps = {("paper", "map"), ("conv", "map"), ("logistic", "channels"), ("svm", "channels")}
        assert kinds == expected | (maps if leak.tap == "backbone" else {("paper", "vector")})
        assert leak.headline.tuning == max(attack.tuning for attack in leak.attacks)
        assert leak.change is not None
        reference = audited.networks[1].leak(leak.tap, leak.attribute)
        assert reference is not None
        difference = leak.headline.accuracy.value - reference.headline.accuracy.value
        assert leak.change.value == pytest.approx(difference)
        assert leak.robustness == pytest.approx(difference / reference.headline.accuracy.value)


def test_the_utility_and_the_known_adversaries_are_those_of_the_run(audited: Findings, run: Path) -> None:
    state = json.loads((run / "private" / "final" / "state.json").read_text())
    assert audited.audited.utility.value == pytest.approx(state["test"]["emotion"]["accuracy"])
    controls = {(control.kind, control.tap, control.attribute): control for control in audited.controls}
    for pair in ("backbone-gender", "arm-age_group"):
        known = controls["known-adversary", *pair.split("-")]
        assert known.accuracy.value == pytest.approx(state["test"][pair]["accuracy"])
    assert ("target-label", "", "gender") in controls
    assert ("unknown-adversary", "arm", "age_group") in controls


def test_the_report_is_whole_and_in_mlflow(audited: Findings, run: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    report = run / "audit-private" / "report"
    for name in ("report.html", "report.md", "model_card.md", "audit.json", "figures/face-01.png"):
        assert (report / name).stat().st_size > 100
    # The run was copied, and so was the store: it knows its artifacts by where they were.
    mlflow.set_tracking_uri(f"sqlite:///{run / 'mlflow.db'}")
    (found,) = mlflow.search_runs(
        experiment_names=["privatenet"], filter_string="tags.stage = 'audit'", output_format="list"
    )
    leak = audited.audited.leaks[0]
    assert found.data.metrics["test/backbone-gender/excess"] == pytest.approx(leak.headline.excess.value)
    assert found.data.tags["checkpoint.sha256"] == audited.audited.sha256
    paths = {item.path for item in mlflow.MlflowClient().list_artifacts(found.info.run_id, "report")}
    assert {"report/report.html", "report/audit.json", "report/model_card.md"} <= paths


def test_a_second_audit_finds_features_and_answers_and_says_the_same(
    audited: Findings, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for name in ("features", "answers") for path in (run / name).rglob("*.np?")}
    assert cli.main(["audit", str(run / "private"), *QUICK, *ALONE, "--output", str(tmp_path / "again")]) == 0
    assert "attack" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = read_findings(tmp_path / "again" / "report" / "audit.json")
    assert [repr(leak.attacks) for leak in again.audited.leaks] == [
        repr(leak.attacks) for leak in audited.audited.leaks
    ]


def test_an_interrupted_audit_goes_on_with_what_is_missing(audited: Findings, run: Path, tmp_path: Path) -> None:
    kept = sorted((run / "answers").glob(f"{audited.audited.sha256[:12]}*/*/*.npz"))
    lost, other = kept[0], kept[1]
    features = next((run / "features").glob(f"{audited.audited.sha256[:12]}*/train/arm.npy"))
    content, stamp = np.load(features).copy(), other.stat().st_mtime_ns
    lost.unlink()
    features.unlink()
    features.with_name("arm.npy.tmp").write_bytes(b"half")
    assert cli.main(["audit", str(run / "private"), *QUICK, *ALONE, "--output", str(tmp_path / "again")]) == 0
    assert lost.is_file()
    assert other.stat().st_mtime_ns == stamp
    assert np.array_equal(np.load(features), content)
    assert not features.with_name("arm.npy.tmp").exists()
    again = read_findings(tmp_path / "again" / "report" / "audit.json")
    assert repr(again.networks[0].leaks[0].headline.accuracy) == repr(audited.networks[0].leaks[0].headline.accuracy)


def test_two_ranks_find_what_one_finds(audited: Findings, run: Path, tmp_path: Path, torchrun: Start) -> None:
    arguments = ["audit", str(run / "private"), *QUICK, "--references", "[]", "--output", str(tmp_path / "two")]
    done = torchrun(2, "-m", "privatenet.launch.cli", *arguments, "--cache", str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    two = read_findings(tmp_path / "two" / "report" / "audit.json")
    own = next(path for path in (run / "features").glob("*") if path.name.startswith(audited.audited.sha256[:12]))
    (theirs,) = (tmp_path / "cache" / "features").glob("*")
    for file in own.rglob("*.npy"):
        assert np.allclose(np.load(file), np.load(theirs / file.relative_to(own)), atol=1e-5)
    for mine, other in zip(audited.audited.leaks, two.audited.leaks, strict=True):
        assert len(mine.attacks) == len(other.attacks)
        assert mine.class_counts == other.class_counts
    assert two.audited.utility == audited.audited.utility


def test_a_pictures_features_have_no_neighbours_in_them(run: Path, audited: Findings) -> None:
    """Also with the affinity that mixes a batch: each picture's arm is the one that it has alone."""
    import torch

    from privatenet.models.arm import one_by_one
    from privatenet.models.network import NetworkSpec, build_network

    torch.manual_seed(0)
    network = build_network(NetworkSpec(image_size=96, affinity="batch")).eval()
    pictures = torch.randn(3, 3, 96, 96)
    with torch.inference_mode():
        alone = torch.cat([network(picture[None])[1]["arm"] for picture in pictures])
        together = one_by_one(network)(pictures)[1]["arm"]
        assert torch.allclose(together, alone, atol=1e-5)
        assert not torch.allclose(network(pictures)[1]["arm"], alone, atol=1e-3)


def test_a_release_is_refused_above_its_limit_and_let_through_below(
    audited: Findings, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worst = max(leak.headline.excess.value for leak in audited.audited.leaks if leak.attribute == "gender")
    command = ["audit", str(run / "private"), *QUICK, *ALONE, "--output", str(tmp_path / "again"), "--fail-above"]
    assert cli.main([*command, f"gender={worst - 0.01}"]) == 3
    assert "privatenet: too much leaks: gender at " in capsys.readouterr().err
    beside = str(run / "audit-private" / "report" / "audit.json")
    assert cli.main([*command, f"gender={worst + 0.01},age_group=1", "--beside", f"[{beside}]"]) == 0
    drawn = tmp_path / "again" / "report" / "figures" / "trade-off-00-gender.svg"
    assert "confusion (alternating)" in drawn.read_text(), "the other audit's network is not beside this one"


def test_a_new_attacker_is_one_class(run: Path, audited: Findings, tmp_path: Path) -> None:
    from privatenet.audit.attack.attackers import Answers, attacker

    @attacker
    class Constant:
        name = "constant"
        sees = ("raw",)

        def attack(self, seen, labels, tuning_labels, setting):  # type: ignore[no-untyped-def]
            answer = [np.zeros((1, len(part), setting.num_classes)) for part in (seen.tuning, seen.testing)]
            return Answers(*answer)

    try:
        arguments = ["--attackers", "[constant]", "--references", "[]", "--output", str(tmp_path / "own")]
        assert cli.main(["audit", str(run / "private"), *arguments]) == 0
    finally:
        del ATTACKERS["constant"]
    found = read_findings(tmp_path / "own" / "report" / "audit.json")
    for leak in found.audited.leaks:
        assert leak.headline.bits.value < 0.1
        assert leak.headline.auc.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--taps", "[layer9]"], "tap 'layer9' is unknown; accepted: image, layer1"),
        (["--attributes", "[race]"], "'race' is no private attribute of synthetic: accepted are gender, age_group"),
        (["--attackers", "[oracle]"], "attackers: 'oracle' is unknown: accepted are paper, logistic"),
        (["--attackers", "[conv]"], "attackers: none of conv can look at arm: choose other taps or attackers"),
        (["--seeds", "0"], "seeds is 0: accepted are numbers of at least 1"),
        (["--fail-above", "race=0.1"], "fail-above: 'race' is not audited"),
        (["--fail-above", "gender=much"], "fail_above"),
        (["--shards", "nowhere"], "no data set here"),
        (["--colour", "red"], "colour"),
        (["--beside", "[nowhere.json]"], "nowhere.json: cannot be read"),
    ],
)
def test_what_cannot_be_audited_is_refused_before_anything_is_written(
    arguments: list[str], message: str, run: Path, audited: Findings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    capsys.readouterr()
    assert cli.main(["audit", str(run / "private"), *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert sorted(run.rglob("*")) == before


def test_adversaries_another_data_set_and_strange_features_are_refused(
    run: Path, audited: Findings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert cli.main(["audit", *arguments]) == 2
        return capsys.readouterr().err

    assert "holds adversaries, accepted: a checkpoint of stage target or private" in refused(str(run / "known"))
    assert "holds no complete checkpoint" in refused(str(tmp_path))
    small = tmp_path / "small"
    assert cli.main(["shards", "build", "synthetic", "--train", "40", "--test", "8", "--out", str(small)]) == 0
    assert "was trained on the data set" in refused(str(run / "private"), "--shards", str(small))
    key = next((run / "features").glob(f"{audited.audited.sha256[:12]}*")) / "key.json"
    meant = key.read_text()
    key.write_text(meant.replace(audited.fingerprint, "0" * 64))
    try:
        assert "holds features of something else (fingerprint is 0000" in refused(str(run / "private"), *QUICK)
    finally:
        key.write_text(meant)


def test_too_few_samples_and_a_single_class_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from privatenet.audit.attack.samples import known_parts, split_parts, validation_parts
    from privatenet.audit.errors import AuditError
    from privatenet.data_shards.shards.manifest import open_split

    state = json.loads((run / "private" / "final" / "state.json").read_text())
    shards = Path(state["config"]["data"]["shards"])
    train, test = open_split(shards, "train"), open_split(shards, "test")
    faces: Any = SimpleNamespace(train=train, test=test, schema=train.schema)
    parts = split_parts(train, test)
    assert not set(parts.fitting) & set(parts.tuning)
    assert len(parts.fitting) + len(parts.tuning) == len(train)
    held_out = np.arange(len(train)) % 4 == 0
    chosen = validation_parts(train, held_out)
    assert (chosen.split, set(chosen.testing)) == ("train", set(np.flatnonzero(held_out)))
    assert set(chosen.fitting) == set(parts.fitting) - set(chosen.testing)
    assert set(chosen.tuning) == set(parts.tuning) - set(chosen.testing)
    column = train.schema.names.index("gender")
    test.labels[:, column] = 0
    known_parts(chosen, faces, "gender")  # the test split has no part in it
    with pytest.raises(AuditError, match="gender: all 40 samples for testing are 'male': nothing to tell apart"):
        known_parts(parts, faces, "gender")
    train.labels[parts.fitting[5:], column] = -1
    with pytest.raises(AuditError, match="gender: 5 samples for fitting attackers, accepted: 20 or more"):
        known_parts(parts, faces, "gender")
