"""An audit as a person starts it: what it leaves, what it finds again, what it refuses."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from privatenet.audit.attack.answers import read, write
from privatenet.audit.attack.attackers import ATTACKERS
from privatenet.audit.attack.audit import audit
from privatenet.audit.attack.features import decoded
from privatenet.audit.attack.findings import Findings, read_findings
from privatenet.audit.attack.quick import leak_metrics, quick_audit
from privatenet.audit.attack.samples import attack_folds
from privatenet.audit.errors import AuditError
from privatenet.audit.settings import AuditConfig
from privatenet.data_shards.lock import owned
from privatenet.data_shards.reading.config import DataConfig
from privatenet.distributed import checkpoint
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.place import free_port
from privatenet.distributed.ranks import ALONE
from privatenet.distributed.stages.trained import load_network
from privatenet.launch import cli
from privatenet.models.arm import one_by_one
from privatenet.models.network import NetworkSpec, build_network

QUICK = AuditConfig(
    attackers=["paper", "logistic", "svm", "conv"],
    seeds=1,
    components=8,
    resamples=100,
    references=[],
    faces=["training"],
)
FLAGS = (
    "--attackers",
    "[paper, logistic, svm, conv]",
    "--seeds",
    "1",
    "--components",
    "8",
    "--resamples",
    "100",
    "--faces",
    "[training]",
)


@pytest.fixture(scope="module")
def run(finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished run's folder, to audit in."""
    copy = tmp_path_factory.mktemp("audited") / "run"
    shutil.copytree(finished[0].parent / "run", copy)
    return copy


@pytest.fixture(scope="module")
def audited(run: Path) -> Findings:
    """The private network of that run, audited by four attackers."""
    high = "gender=1,age_group=1"
    assert cli.main(["audit", str(run / "private"), *FLAGS, "--pictures", "2", "--fail-above", high]) == 0
    return read_findings(run / "audit-private" / "report" / "audit.json")


class Again:
    """Audits without a report: of the same network, on the features and answers that are there."""

    def __init__(self, run: Path) -> None:
        self.source = checkpoint.load(run / "private" / "final")
        self.faces = Faces(DataConfig(**self.source.state["config"]["data"]), ALONE)
        self.engine = EngineConfig(**self.source.state["config"]["engine"])
        self.attacks: list[str] = []

    def __call__(self, config: AuditConfig = QUICK) -> Findings:
        """`attacks` then names those that were run."""
        self.attacks.clear()
        return audit(config, self.source, self.faces, self.engine, ALONE, self._progress)

    def _progress(self, what: str, done: int, total: int) -> None:
        self.attacks += [what.removeprefix("audited: ")] if total else []


@pytest.fixture(scope="module")
def again(run: Path, audited: Findings) -> Again:
    return Again(run)


def attacks_of(findings: Findings) -> list[str]:
    """All figures of the audited network but code lengths, as text: NaN is not equal to itself."""
    return [repr([replace(attack, seconds=0) for attack in leak.attacks]) for leak in findings.audited.leaks]


def test_an_audit_judges_every_tap_and_attribute_of_three_networks(audited: Findings) -> None:
    assert [network.role for network in audited.networks] == ["audited", "unprotected", "random"]
    for network in audited.networks:
        assert [(leak.tap, leak.attribute) for leak in network.leaks] == [
            (tap, attribute) for tap in ("backbone", "arm", "logits", "label") for attribute in ("gender", "age_group")
        ]
    for leak in audited.audited.leaks:
        kinds = {(attack.attacker, attack.representation) for attack in leak.attacks}
        if leak.tap == "label":
            assert kinds == {("table", "label")}
            continue
        expected = {("logistic", "raw"), ("logistic", "whitened"), ("svm", "raw"), ("svm", "whitened")}
        maps = {("paper", "map"), ("conv", "map"), ("logistic", "channels"), ("svm", "channels")}
        assert kinds == expected | (maps if leak.tap == "backbone" else {("paper", "vector")})
        assert leak.headline.tuning == min(attack.tuning for attack in leak.attacks)
        assert leak.change is not None
        reference = audited.networks[1].leak(leak.tap, leak.attribute)
        assert reference is not None
        difference = leak.headline.accuracy.value - reference.headline.accuracy.value
        assert leak.change.value == pytest.approx(difference)
        assert leak.robustness == pytest.approx(difference / reference.headline.accuracy.value)
        floors = {
            control.attribute: control.accuracy.value for control in audited.controls if control.kind == "target-label"
        }
        whole = audited.networks[1].leak("backbone", leak.attribute)
        assert whole is not None
        assert leak.above is not None
        assert leak.above.value == pytest.approx(leak.headline.accuracy.value - floors[leak.attribute])
        if leak.left is not None:
            excess, at_most = (one.headline.accuracy.value - floors[leak.attribute] for one in (leak, whole))
            assert leak.left.value == pytest.approx(excess / at_most)


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
    (entry,) = mlflow.search_runs(
        experiment_names=["privatenet"], filter_string="tags.stage = 'audit'", output_format="list"
    )
    leak = audited.audited.leaks[0]
    assert entry.data.metrics["test/backbone-gender/excess"] == pytest.approx(leak.headline.excess.value)
    assert entry.data.tags["checkpoint.sha256"] == audited.audited.sha256
    paths = {item.path for item in mlflow.MlflowClient().list_artifacts(entry.info.run_id, "report")}
    assert {"report/report.html", "report/audit.json", "report/model_card.md"} <= paths


def test_a_second_audit_finds_features_and_answers_and_says_the_same(
    audited: Findings, run: Path, again: Again
) -> None:
    files = {path: path.stat().st_mtime_ns for name in ("features", "answers") for path in (run / name).rglob("*.np?")}
    findings = again()
    assert not again.attacks
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert attacks_of(findings) == attacks_of(audited)
    code_lengths = [
        [repr(leak.code_length) for leak in network.leaks] for network in (audited.audited, findings.audited)
    ]
    assert code_lengths[0] == code_lengths[1]


def test_an_interrupted_audit_goes_on_with_what_is_missing(audited: Findings, run: Path, again: Again) -> None:
    lost, other, *_ = sorted((run / "answers").glob(f"{audited.audited.sha256[:12]}*/*/logistic*.npz"))
    features = next((run / "features").glob(f"{audited.audited.sha256[:12]}*/train/arm.npy"))
    content, stamp = np.load(features).copy(), other.stat().st_mtime_ns
    lost.unlink()
    features.unlink()
    features.with_name("arm-0.npy.tmp").write_bytes(b"half")
    findings = again()
    assert again.attacks == ["arm age_group logistic raw"]
    assert lost.is_file()
    assert other.stat().st_mtime_ns == stamp
    assert np.array_equal(np.load(features), content)
    assert not features.with_name("arm-0.npy.tmp").exists()
    assert attacks_of(findings) == attacks_of(audited)


def test_an_audit_believes_no_file_that_it_did_not_write(
    audited: Findings, run: Path, again: Again, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features in which the label stands, answers that are all right, and half a file: none makes it into a figure."""
    features = next((run / "features").glob(f"{audited.audited.sha256[:12]}*/test/arm.npy"))
    answers = next((run / "answers").glob(f"{audited.audited.sha256[:12]}*/arm-gender/svm-raw-*.npz"))
    code = next((run / "answers").glob(f"{audited.audited.sha256[:12]}*/arm-gender/code-*.npz"))
    genuine = np.load(features).copy()
    labels = again.faces.test.labels[:, again.faces.schema.names.index("gender")]
    np.save(features, np.repeat(labels[:, None], genuine.shape[1], axis=1).astype(np.float32))
    with np.load(answers) as file:
        forged = {**file, "testing": np.eye(2, dtype=np.float32)[labels][None] * 9}
    np.savez(answers, **forged)
    code.write_bytes(code.read_bytes()[:-30])
    findings = again()
    assert again.attacks == ["arm gender svm raw"]
    assert np.array_equal(np.load(features), genuine)
    assert attacks_of(findings) == attacks_of(audited)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"privatenet: {path}: is not the file that was written, computed again" for path in (features, answers, code)
    ]
    stored = read(answers)
    assert stored is not None
    assert not np.array_equal(stored.arrays["testing"], forged["testing"])
    write(answers, replace(stored, arrays={"tuning": np.zeros((1, 2, 2), np.float32)}))
    assert attacks_of(again()) == attacks_of(audited)
    assert again.attacks == ["arm gender svm raw"]
    assert "holds other answers than were asked for, computed again" in capsys.readouterr().err


def test_a_changed_attacker_is_run_again_and_no_other_one(
    again: Again, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # or a version would be taken for one of the same second
    source = """
import numpy as np
from privatenet.audit.attack.attackers import attacker
from privatenet.audit.attack.fitting import Answers

@attacker
class First:
    name = "first"
    kinds = ("raw",)

    def attack(self, representation, context):
        logits = np.float32([1, -1]) * SIGN
        return Answers(*(logits * x[None, :, :1] for x in (representation.tuning, representation.testing)))
"""
    path = tmp_path / "first.py"
    config = replace(QUICK, attributes=["gender"], attackers=["first", "logistic"])

    def auc(text: str) -> float:
        """Of the attacker, after it has been written anew."""
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("first", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["first"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        attack = again(config).audited.leaks[0].attacks[0]
        assert attack.attacker == "first"
        return attack.auc.value

    runs = [f"{tap} gender first raw" for tap in ("backbone", "arm", "logits")]
    try:
        before = auc(source.replace("SIGN", "1"))
        assert again.attacks == runs
        assert before != pytest.approx(0.5)
        assert auc(source.replace("SIGN", "-1")) == pytest.approx(1 - before)
        assert again.attacks == runs
        assert auc(source.replace("SIGN", "1")) == before
        assert again.attacks == [], "what the first version answered is still there"
    finally:
        del ATTACKERS["first"], sys.modules["first"]


def test_ranks_on_two_machines_that_share_no_folder_find_what_one_finds(
    audited: Findings, run: Path, tmp_path: Path
) -> None:
    """Two ranks on the first machine, one on the second; each machine has the checkpoints, and a cache of its own."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "RANK"))}
    machines = []
    for node, ranks in enumerate((2, 1)):
        folder = tmp_path / str(node)
        for stage in ("target", "known", "private", "unknown"):
            shutil.copytree(run / stage / "final", folder / "run" / stage / "final")
        launcher = ["-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={node}", f"--nproc_per_node={ranks}"]
        launcher += ["--master_addr=127.0.0.1", f"--master_port={port}", "-m", "privatenet.launch.cli"]
        arguments = ["audit", "run/private", *FLAGS, "--references", "[]"]
        machines.append(
            subprocess.Popen(
                [sys.executable, *launcher, *arguments],
                cwd=folder,
                env=inherited,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    try:
        outputs = [machine.communicate(timeout=240) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], [errors[-3000:] for _, errors in outputs]
    expected = next(path for path in (run / "features").glob("*") if path.name.startswith(audited.audited.sha256[:12]))
    for node in "01":
        for file in expected.rglob("*.npy"):
            copy = tmp_path / node / "run" / "features" / file.relative_to(run / "features")
            ours, theirs = (decoded(np.load(path)) for path in (file, copy))
            assert np.allclose(ours, theirs, atol=1e-5 * np.abs(ours).max())  # batches are others, and so are roundings
    findings = read_findings(tmp_path / "0" / "run" / "audit-private" / "report" / "audit.json")
    assert findings.audited.utility == audited.audited.utility
    for leak, other in zip(audited.audited.leaks, findings.audited.leaks, strict=True):
        assert [attack.attacker for attack in leak.attacks] == [attack.attacker for attack in other.attacks]
        assert leak.class_counts == other.class_counts
    second = {path.name for path in (tmp_path / "1" / "run").iterdir()}
    assert second == {"target", "known", "private", "unknown", "features"}, "only the first rank writes more"


def test_a_pictures_features_have_no_neighbours_in_them() -> None:
    """Also with the affinity that mixes a batch: each picture's arm is the one that it has alone."""
    torch.manual_seed(0)
    network = build_network(NetworkSpec(image_size=96, affinity="batch")).eval()
    pictures = torch.randn(3, 3, 96, 96)
    with torch.inference_mode():
        alone = torch.cat([network(picture[None])[1]["arm"] for picture in pictures])
        together = one_by_one(network)(pictures)[1]["arm"]
        assert torch.allclose(together, alone, atol=1e-5)
        assert not torch.allclose(network(pictures)[1]["arm"], alone, atol=1e-3)


def test_a_release_is_refused_above_its_limit(
    audited: Findings, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is below its limit is let through: see the fixture."""
    worst = max(leak.headline.excess.value for leak in audited.audited.leaks if leak.attribute == "gender")
    beside = str(run / "audit-private" / "report" / "audit.json")
    command = ["audit", str(run / "private"), *FLAGS, "--references", "[]", "--output", str(tmp_path / "again")]
    assert cli.main([*command, "--fail-above", f"gender={worst - 0.01}", "--beside", f"[{beside}]"]) == 3
    assert "privatenet: too much leaks: gender at " in capsys.readouterr().err
    chart = tmp_path / "again" / "report" / "figures" / "trade-off-00-gender.svg"
    assert "confusion (alternating)" in chart.read_text(), "the other audit's network is not beside this one"
    assert not (tmp_path / "again" / ".lock").exists()


def test_a_quick_audit_looks_at_no_test_data(again: Again, tmp_path: Path) -> None:
    faces = Faces(replace(again.faces.config, validation=0.4), ALONE)
    config = replace(QUICK, taps=["arm"], attributes=["gender"])
    network = load_network(again.source)
    findings = quick_audit(network, "epoch-1", config, faces, again.engine, ALONE, tmp_path)
    assert {path.parent.name for path in tmp_path.rglob("features/*/*/*.npy")} == {"train"}
    (leak,) = findings.leaks
    assert (leak.tap, leak.samples) == ("arm", int(faces.held_out.sum()))
    assert findings.leakage == leak.headline.excess
    rows, column = np.flatnonzero(faces.held_out), faces.schema.names.index("gender")
    assert leak.majority == max(np.bincount(faces.train.labels[rows, column])) / len(rows)
    by_emotion = leak_metrics(findings.utility, findings.leaks, "validation")["validation/gender/floor"] + leak.majority
    assert by_emotion * len(rows) == pytest.approx(round(by_emotion * len(rows)))
    assert by_emotion > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--taps", "[layer9]"], "tap 'layer9' is unknown; accepted: image, layer1"),
        (["--attributes", "[race]"], "'race' is no private attribute of synthetic: accepted are gender, age_group"),
        (["--attackers", "[oracle]"], "attackers: 'oracle' is unknown: accepted are paper, logistic"),
        (["--attackers", "[conv]"], "attackers: none of conv can look at arm: choose other taps or attackers"),
        (["--faces", "[old]"], "faces: 'old' is unknown: accepted are training, fresh"),
        (["--faces", "[fresh]"], "on fresh faces, accepted: 20 or more"),
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
    files = sorted(run.rglob("*"))
    capsys.readouterr()
    assert cli.main(["audit", str(run / "private"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert sorted(run.rglob("*")) == files


def test_a_second_audit_in_the_same_output_is_refused_while_the_first_one_runs(
    run: Path, audited: Findings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["audit", str(run / "private"), *FLAGS, "--references", "[]", "--output", str(tmp_path)]
    with owned(tmp_path):
        assert cli.main(command) == 2
    assert f"{tmp_path}: is in use by process {os.getpid()} on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_audit_from_another_folder_names_the_flag_for_the_data_set(
    run: Path, audited: Findings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "private" / "final"
    shutil.copytree(run / "private" / "final", copy)
    state = json.loads((copy / "state.json").read_text())
    shards = state["config"]["data"]["shards"]
    state["config"]["data"]["shards"] = "shards/tiny"
    (copy / "state.json").write_text(json.dumps(state))
    monkeypatch.chdir(tmp_path)
    command = ["audit", str(copy.parent), "--seeds", "0"]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert "was trained on shards/tiny" in error
    assert "say where the data set is by --shards DIR" in error
    assert cli.main([*command, "--shards", shards]) == 2
    assert "seeds is 0" in capsys.readouterr().err, "the data set was not opened"


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
    index = next((run / "features").glob(f"{audited.audited.sha256[:12]}*")) / "index.json"
    content = index.read_text()
    index.write_text(content.replace(audited.fingerprint, "0" * 64))
    try:
        assert "holds features of something else (fingerprint is 0000" in refused(str(run / "private"), *FLAGS)
    finally:
        index.write_text(content)


def test_too_few_samples_and_a_single_class_are_refused(again: Again, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = again.faces.train, again.faces.test
    faces: Any = SimpleNamespace(
        train=train, test=test, schema=train.schema, held_out=np.arange(len(train)) % 4 == 0, ranks=ALONE
    )
    config = replace(QUICK, attributes=["gender"], faces=[])
    (split,) = attack_folds(config, faces)["training"]
    assert not set(split.fitting) & set(split.tuning)
    assert len(split.fitting) + len(split.tuning) == len(train)
    (validation,) = attack_folds(config, faces, validation=True)["training"]
    assert set(validation.testing) == set(np.flatnonzero(faces.held_out))
    assert set(validation.fitting) == set(split.fitting) - set(validation.testing)
    assert set(validation.tuning) == set(split.tuning) - set(validation.testing)
    column = train.schema.names.index("gender")
    genders = train.labels.copy(), test.labels.copy()
    try:
        test.labels[:, column] = 0
        attack_folds(config, faces, validation=True)  # the test split has no part in it
        with pytest.raises(
            AuditError, match="gender: all 40 samples for testing attackers on training faces are 'male'"
        ):
            attack_folds(config, faces)
        train.labels[split.fitting[5:], column] = -1
        with pytest.raises(AuditError, match="gender: 5 samples for fitting attackers on training faces, accepted: 20"):
            attack_folds(config, faces)
    finally:
        train.labels[:], test.labels[:] = genders
