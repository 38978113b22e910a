"""A network's certificates: rows from arrays, and what the command certifies, and refuses, of a checkpoint."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from privatenet.audit.certificate.rows import CertificateRow, People, Release, certificate_rows
from privatenet.audit.report.certified import certificate_sentences, certificates_table
from privatenet.audit.report.text import DASH
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.transforms import prepare
from privatenet.data_shards.shards.split import open_split
from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.schema import Schema
from privatenet.data_shards.sources.synthetic import synthetic_source
from privatenet.distributed import checkpoint
from privatenet.distributed.config import Config, EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import ALONE
from privatenet.distributed.stages.trained import load_network
from privatenet.launch import cli
from privatenet.models.channel import CENTRE, NO_CHANNEL, ChannelSpec
from privatenet.models.network import NetworkSpec, build_network

PICTURES = 400
NOISE = ChannelSpec("noise", norm=8, sigma=1)


def crowd() -> People:
    """Two pictures of each of 200 people; the target tells gender of three in four; of 12 is known who smiles."""
    rng, persons = np.random.default_rng(0), np.arange(PICTURES) // 2
    gender = rng.integers(2, size=PICTURES // 2)[persons]
    smile = np.where(persons < 12, 1, -1)
    targets = np.where(persons % 4 < 3, gender, 1 - gender)
    return People({"gender": gender, "smile": smile}, targets, persons, np.ones(PICTURES, dtype=np.bool_))


def rows(people: People, *releases: Release, jointly: bool = False) -> tuple[CertificateRow, ...]:
    return certificate_rows(releases, people, 0.95, 2000, jointly)[0]


def test_each_release_has_a_row_beside_the_floor_and_what_is_too_few_is_said() -> None:
    people = crowd()
    gender = people.labels["gender"]
    split = Release("split", gender[:, None] * 2.0, sigma=1.0)
    certified, missing = certificate_rows(
        [split, replace(split, count=10), Release("label", np.zeros(PICTURES, np.int64))], people, 0.95, 2000
    )
    assert [(row.attribute, row.deployment, row.certificate.releases) for row in certified] == [
        ("gender", "split", 1), ("gender", "split", 10), ("gender", "label", 1)
    ]  # fmt: skip
    assert [row.floor for row in certified] == pytest.approx([0.75] * 3)
    one, ten, label = (row.certificate.estimate for row in certified)
    assert (one, ten) == pytest.approx((0.841, 0.999), abs=0.02)  # Phi(1) and Phi(sqrt(10))
    assert label == pytest.approx(certified[0].certificate.majority)
    (reason,) = missing
    assert reason.startswith("smile: 12 people are too few")
    (sentence,) = certificate_sentences(certified)
    assert "names gender right" in sentence
    assert "one release; 200 people" in sentence


def test_unknown_labels_and_people_whom_the_network_has_learnt_from_are_left_out() -> None:
    people = crowd()
    fresh = np.arange(PICTURES) >= 100
    unknown = np.where(np.arange(PICTURES) < 300, people.labels["gender"], -1)
    (row,) = rows(replace(people, labels={"gender": unknown}, fresh=fresh), Release("label", unknown))
    assert (row.left_out, row.certificate.pictures, row.certificate.people) == (200, 200, 100)


def test_the_floor_is_of_pictures_whose_target_is_known_however_few() -> None:
    people = replace(crowd(), labels={"gender": crowd().labels["gender"]})
    assert people.targets is not None
    label = Release("output", np.zeros(PICTURES, np.int64))
    for known, floor in ((np.arange(PICTURES) % 8 < 6, 1.0), (np.arange(PICTURES) < 24, 0.75)):
        (row,) = rows(replace(people, targets=np.where(known, people.targets, -1)), label)
        assert (row.floor, row.left_out) == (pytest.approx(floor), 0)
    (row,) = rows(replace(people, targets=np.full(PICTURES, -1)), label)
    assert row.floor is None


def test_jointly_the_error_is_shared_by_all_bounds() -> None:
    people = replace(crowd(), labels={"gender": crowd().labels["gender"]}, targets=None)
    label = Release("label", np.zeros(PICTURES, np.int64))
    alone, together = rows(people, label, label), rows(people, label, label, jointly=True)
    assert together[0].certificate.confidence == pytest.approx(1 - 0.05 / 4), "two bounds in each row"
    assert together[0].certificate.bound > alone[0].certificate.bound
    assert together[0].floor is None


@pytest.mark.parametrize(("rare", "text"), [(9, DASH), (10, "100.0")])
def test_the_balanced_bound_is_shown_only_where_every_class_has_ten_people(rare: int, text: str) -> None:
    labels = np.where(np.arange(PICTURES) < rare, 0, 1)
    people = People({"gender": labels}, None, None, np.ones(PICTURES, dtype=np.bool_))
    table = certificates_table(rows(people, Release("label", labels)))
    (cells,) = table.rows
    assert cells[table.columns.index("balanced %")].text == text


def checkpoint_of(folder: Path, shards: Path, channel: ChannelSpec) -> Path:
    """The folder of a private stage whose network was never trained."""
    faces = Faces(DataConfig(str(shards)), ALONE)
    config = Config(data=faces.config, engine=EngineConfig(precision="fp32"))
    torch.manual_seed(0)
    spec = NetworkSpec("resnet18", len(faces.schema.attribute("emotion").classes), 32, "linear", channel=channel)
    state = {
        "stage": "private", "identity": {"fingerprint": faces.fingerprint}, "config": config.to_dict(),
        "schema": faces.schema.to_dict(), "spec": asdict(spec), "test": {},
    }  # fmt: skip
    weights = {f"network.{name}": value for name, value in build_network(spec).state_dict().items()}
    checkpoint.save(folder / "private" / "final", {"model": weights}, state)
    return folder / "private"


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    return checkpoint_of(tmp_path_factory.mktemp("noisy"), shards, NOISE)


def certificate_file(stage: Path) -> list[tuple[str, str, str]]:
    plain = json.loads((stage.parent / "certify-private" / "certificate.json").read_text())
    return [(row["attribute"], row["deployment"], row["certificate"]["channel"]) for row in plain["rows"]]


@pytest.mark.parametrize(
    ("channel", "kinds"),
    [
        (NOISE, ["gaussian", "gaussian", "codes"]),
        (ChannelSpec("codebook", "backbone", codes=4), ["codes", "codes"]),
        (NO_CHANNEL, ["codes"]),
        (ChannelSpec("noise", "layer4"), ["codes"]),
        (ChannelSpec("noise", "layer3", numbers=4), ["gaussian", "gaussian", "codes"]),
        (ChannelSpec("plain"), ["codes"]),
    ],
    ids=["noise", "codebook", "none", "wide", "narrow", "plain"],
)
def test_a_network_is_certified_in_every_deployment_where_it_can_be(
    channel: ChannelSpec, kinds: list[str], tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = checkpoint_of(tmp_path, shards, channel)
    assert cli.main(["certify", str(stage), "--attributes", "[gender]"]) == 0
    printed = capsys.readouterr().out
    deployments = ["split"] * (len(kinds) - 1) + ["label"]
    assert certificate_file(stage) == [("gender", *pair) for pair in zip(deployments, kinds, strict=True)]
    assert "No adversary whatever names gender right" in printed
    assert ("not certified: split: " in printed) == (len(kinds) == 1)
    plain = json.loads((stage.parent / "certify-private" / "certificate.json").read_text())
    assert (plain["version"], plain["precision"]) == (1, "fp32")
    assert ("mean over 20 draws of the noise" in printed) == (plain["draws"] == 20) == (channel.kind == "noise")
    if channel.kind == "noise":
        answers = np.load(next(stage.parent.glob("features/*/test/answers.npy")))
        emotions = open_split(shards, "test").labels[:, 0]
        assert answers.std(axis=1).min() > 0, "one draw is another"
        assert plain["utility"]["value"] == pytest.approx((answers.argmax(axis=2) == emotions[:, None]).mean())
    assert cli.main(["certify", str(stage), "--deployment", "split"]) == (2 if len(kinds) == 1 else 0)


def test_every_vector_of_a_quantised_release_is_a_code(tmp_path: Path, shards: Path) -> None:
    stage = checkpoint_of(tmp_path, shards, ChannelSpec("quantised", step=0.25))
    assert cli.main(["certify", str(stage), "--attributes", "[gender]", "--deployment", "split"]) == 0
    (row,) = json.loads((tmp_path / "certify-private" / "certificate.json").read_text())["rows"]

    faces, network = Faces(DataConfig(str(shards)), ALONE), load_network(checkpoint.load(stage / "final")).eval()
    (batch,) = faces.batches(faces.testing(), 40)
    with torch.no_grad():
        logits = network(prepare(batch.images, 32))[1][CENTRE]
    cells: dict[tuple[float, ...], list[int]] = {}
    for cell, gender in zip((4 * logits).round().tolist(), batch.labels["gender"].tolist(), strict=True):
        cells.setdefault(tuple(cell), []).append(gender)
    assert 1 < len(cells) < 40
    assert row["certificate"]["channel"] == "codes"
    assert row["certificate"]["estimate"] == pytest.approx(
        sum(max(cell.count(0), cell.count(1)) for cell in cells.values()) / 40
    )


@pytest.mark.parametrize(
    ("channel", "attacker"),
    [(ChannelSpec("noise", "layer4", numbers=4), "conv"), (ChannelSpec("plain", "layer4", numbers=4), "noise")],
    ids=["no map is sent", "nothing random is sent"],
)
def test_an_audit_whose_attackers_cannot_look_at_the_release_is_refused(
    channel: ChannelSpec, attacker: str, tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = checkpoint_of(tmp_path, shards, channel)
    assert cli.main(["audit", str(stage), "--taps", "[release]", "--attackers", f"[{attacker}]"]) == 2
    assert f"none of {attacker} can look at release" in capsys.readouterr().err


def test_other_faces_can_stand_in_for_the_test_split(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(synthetic_source(20, 90, seed=4), tmp_path / "more", samples_per_shard=40)
    arguments = ["certify", str(noisy), "--output", str(tmp_path), "--jointly", "true"]
    assert cli.main([*arguments, "--shards", str(tmp_path / "more"), "--deployment", "label"]) == 0
    plain = json.loads((tmp_path / "certificate.json").read_text())
    assert {row["certificate"]["people"] + row["left_out"] for row in plain["rows"]} == {
        len(open_split(tmp_path / "more", "test"))
    }
    assert "each with 98.75 % confidence" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--deployment", "enclave"], "an adversary reads thousands of features"),
        (["--deployment", "cloud"], "'cloud' is unknown; accepted: split, label"),
        (["--attributes", "[hat]"], "'hat' is no private attribute"),
        (["--releases", "[0]"], "releases is [0]"),
        (["--confidence", "2"], "confidence is 2"),
        (["--draws", "10"], "draws is 10"),
        (["--split", "train"], "split"),
        (["--shards", "other"], "has no attribute gender of the classes"),
        (["--shards", "few"], "5 people are too few"),
    ],
)
def test_what_cannot_be_certified_is_refused_in_one_line(
    arguments: list[str], reason: str, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if "--shards" in arguments:
        source = synthetic_source(40, 5, seed=4)
        plain = json.dumps(source.schema.to_dict()).replace("female", "female" if arguments[1] == "few" else "woman")
        renamed = replace(source, schema=Schema.from_dict(json.loads(plain)))
        build(renamed, tmp_path / arguments[1], samples_per_shard=40)
    assert cli.main(["certify", str(noisy), *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("privatenet: error:")
    assert reason in line
