"""`privatenet predict` as a person types it: pictures, photographs and videos held up to a trained network."""

import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audited import findings
from PIL import Image
from support import FINISHED_STATE, encoded, huge_png

from privatenet.audit.attack.findings import write_findings
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.transforms import prepare
from privatenet.data_shards.sources.synthetic import EMOTIONS, SYNTHETIC_SCHEMA, render_face
from privatenet.distributed import checkpoint
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.precision import evaluation_precision
from privatenet.distributed.ranks import ALONE
from privatenet.distributed.stages.trained import load_network
from privatenet.launch import cli
from privatenet.models.network import NetworkSpec, build_network

Predict = Callable[..., list[dict[str, Any]]]

needs_detector = pytest.mark.skipif(not importlib.util.find_spec("facenet_pytorch"), reason="needs the extra `detect`")
needs_video = pytest.mark.skipif(not importlib.util.find_spec("av"), reason="needs the extra `video`")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A network that was never trained, but answers differently for different pictures."""
    torch.manual_seed(0)
    spec = NetworkSpec("resnet18", len(EMOTIONS), 64, "arm")
    network = build_network(spec)
    network.head.linear.weight.data *= 30
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    config = {"engine": asdict(EngineConfig(precision="fp32"))}
    state = {"stage": "private", "spec": asdict(spec), "schema": SYNTHETIC_SCHEMA.to_dict(), "config": config}
    folder = tmp_path_factory.mktemp("run") / "private"
    checkpoint.save(folder / "final", {"model": weights}, FINISHED_STATE | state)
    return checkpoint.load(folder / "final")


@pytest.fixture
def predict(source: Checkpoint, capsys: pytest.CaptureFixture[str]) -> Predict:
    """Run the command on the network; the objects that it prints. Standard error stays in the last one's place."""

    def run(*arguments: object, code: int = 0) -> list[dict[str, Any]]:
        words = [str(word) for word in arguments]
        assert cli.main(["predict", str(source.folder.parent), *words]) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.fixture
def pictures(shards: Path, tmp_path: Path) -> Path:
    """The test split's pictures in a folder, by their rows, the first ten in a folder below it."""
    split = Faces(DataConfig(shards=str(shards)), ALONE).test
    for row in range(len(split)):
        path = tmp_path / "faces" / ("below" if row < 10 else "") / f"{row:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(split.read(row))
    (tmp_path / "faces" / "notes.txt").write_text("no picture")
    return tmp_path / "faces"


def shares(answers: list[dict[str, Any]]) -> np.ndarray:
    """The probabilities, by the pictures' names."""
    rows = sorted(answers, key=lambda answer: Path(answer["path"]).name)
    assert all(list(row["probabilities"]) == list(EMOTIONS) for row in rows)
    return np.array([list(row["probabilities"].values()) for row in rows])


def photograph(angle: float, size: tuple[int, int] = (420, 320), face: Image.Image | None = None) -> Image.Image:
    """A wall with one face on it, turned by `angle` degrees; without one where `face` is None."""
    wall = Image.new("RGB", size, (120, 140, 160))
    if face is None:
        return wall
    wall.paste(face.resize((160, 160), Image.Resampling.BICUBIC), (130, 80))
    return wall.rotate(angle, Image.Resampling.BICUBIC, center=(210, 160), fillcolor=(120, 140, 160))


def rendered(seed: int = 3) -> Image.Image:
    return render_face(3, 0, 2, np.random.default_rng(seed), 160)


def write_video(path: Path, frames: list[Image.Image], turned: int = 0) -> None:
    """Ten frames a second; `turned`: how players shall turn it."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        if turned:
            stream.set_display_rotation(turned)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def test_predictions_are_not_what_the_network_answers_in_evaluation(
    predict: Predict, pictures: Path, shards: Path, source: Checkpoint
) -> None:
    faces, network = Faces(DataConfig(shards=str(shards)), ALONE), load_network(source).eval()
    with evaluation_precision(EngineConfig(precision="fp32"), ALONE.device):
        expected = torch.cat(
            [network(prepare(batch.images, 64))[0].softmax(1) for batch in faces.batches(faces.testing(), 16)]
        ).numpy()
    assert expected.max(axis=1).std() > 0.01, "a network that answers alike for all would prove nothing"
    answers = predict(pictures, "--batch-size", 7)
    assert np.allclose(shares(answers), expected, atol=1e-4)
    for answer in answers:
        assert answer["predicted"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_a_folder_a_pattern_and_a_list_name_other_pictures(
    predict: Predict, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict(pictures)
    assert len(whole) == 40
    assert predict(pictures / "**" / "*.jpg") == whole
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{answer['path']}\n" for answer in whole)))
    assert predict("-") == whole
    assert predict(pictures / "below", pictures / "010.jpg") == [*whole[30:], whole[0]]


def test_a_name_that_means_nothing_is_passed_over(
    source: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for word in ("nothing.jpg", "*.jpg", "empty"):
        assert cli.main(["predict", str(source.folder), str(tmp_path / word)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"privatenet: error: {tmp_path / word}: ")
        assert error.count("\n") == 1


def test_broken_pictures_stop_others_or_are_not_named(
    predict: Predict, source: Checkpoint, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"\x1b[2J.png": b"junk", "cut.jpg": encoded("JPEG", 64)[:300], "bomb.png": huge_png(60_000)}
    for name, data in broken.items():
        (pictures / name).write_bytes(data)
    assert cli.main(["predict", str(source.folder), str(pictures)]) == 1
    printed = capsys.readouterr()
    answers = [json.loads(line) for line in printed.out.splitlines()]
    assert sum(answer["predicted"] is not None for answer in answers) == 40
    assert {Path(answer["path"]).name for answer in answers if "error" in answer} == set(broken)
    assert printed.err.count("\n") == len(broken) + 1
    assert printed.err.endswith("privatenet: 3 could not be read, 40 pictures and frames could\n")
    assert "\x1b" not in printed.out + printed.err
    assert r"\x1b[2J.png: is not a picture" in printed.err


def test_a_picture_on_its_side_is_not_turned_upright(predict: Predict, tmp_path: Path) -> None:
    face, exif = rendered(), Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    face.save(tmp_path / "upright.png")
    face.rotate(90).save(tmp_path / "lying.png", exif=exif)
    upright, lying = predict(tmp_path / "upright.png", tmp_path / "lying.png")
    assert lying["probabilities"] == upright["probabilities"]


def test_a_table_lets_a_name_steer_the_terminal(
    source: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rendered().save(tmp_path / "[red]\x1b[2Jme.png")
    assert cli.main(["predict", str(source.folder), str(tmp_path), "--format", "table"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert r"[red]\x1b[2Jme.png" in printed.replace("\n", "").replace(" ", "")
    assert "emotion" in printed


def test_faces_are_kept_where_nobody_asked(predict: Predict, source: Checkpoint, tmp_path: Path) -> None:
    rendered().save(tmp_path / "face.png")
    before = sorted(tmp_path.rglob("*")), sorted(source.folder.parent.rglob("*"))
    predict(tmp_path)
    assert (sorted(tmp_path.rglob("*")), sorted(source.folder.parent.rglob("*"))) == before
    for wrong in (["--format", "pictures"], ["--out", tmp_path / "copies"]):
        predict(tmp_path, *wrong, code=2)


def test_copies_are_not_made_or_overwrite_what_is_there(
    source: Checkpoint, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pictures.parent / "copies"
    words = ["predict", str(source.folder), str(pictures), "--format", "pictures", "--out", str(out)]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{out / '000000.jpg'}  {pictures / '010.jpg'}"
    copies = sorted(out.iterdir())
    assert [copy.name for copy in copies] == [f"{number:06d}.jpg" for number in range(40)]
    with Image.open(copies[0]) as copy:
        assert copy.width == 240 < copy.height, "words stand below a picture that is one face"
    assert cli.main(words) == 2
    assert "is there and not empty" in capsys.readouterr().err


@needs_detector
def test_a_turned_face_in_a_photograph_is_not_found_and_aligned(predict: Predict, tmp_path: Path) -> None:
    for name, angle in {"level": 0, "turned": 18}.items():
        photograph(angle, face=rendered()).save(tmp_path / f"{name}.png")
    photograph(0).save(tmp_path / "wall.png")
    level, turned, wall = predict(tmp_path, "--detect", "true")
    assert [Path(answer["path"]).stem for answer in (level, turned, wall)] == ["level", "turned", "wall"]
    assert wall == {"path": str(tmp_path / "wall.png"), "predicted": None, "probabilities": None}
    left, top, right, bottom = turned["box"]
    assert 130 < left < right < 290
    assert 80 < top < bottom < 240
    assert np.abs(shares([level]) - shares([turned])).max() < 0.1
    assert np.abs(shares([level]) - shares(predict(tmp_path / "turned.png"))).max() > 0.1, "it makes no difference here"


@needs_detector
@pytest.mark.skipif("PRIVATENET_LFW_RAF" not in os.environ, reason="PRIVATENET_LFW_RAF names no real faces")
def test_real_faces_in_photographs_are_not_found_or_answered_otherwise(predict: Predict, tmp_path: Path) -> None:
    faces = sorted((Path(os.environ["PRIVATENET_LFW_RAF"]) / "Image" / "aligned").glob("test_*.jpg"))[:120:10]
    for number, path in enumerate(faces):
        with Image.open(path) as face:
            for name, angle in {"level": 0, "turned": 15 * (-1) ** number}.items():
                photograph(angle, face=face).save(tmp_path / f"{name}{number:02d}.png")
    level, turned = (predict(tmp_path / f"{name}*.png", "--detect", "true") for name in ("level", "turned"))
    assert len(level) == len(turned) == len(faces)
    assert np.abs(shares(level) - shares(turned)).mean() < 0.03


@needs_video
@needs_detector
def test_frames_of_a_video_are_not_looked_at(predict: Predict, tmp_path: Path) -> None:
    write_video(tmp_path / "talk.mp4", [*[photograph(0, face=rendered())] * 6, *[photograph(0)] * 6])
    (tmp_path / "junk.mp4").write_bytes(b"junk")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\ntalk.mp4\n")  # FFmpeg would follow it
    answers = predict(tmp_path, "--detect", "true", "--every", 4, code=1)
    assert ["error" in answer for answer in answers] == [True, True, False, False, False]
    frames = answers[2:]
    assert [(frame["frame"], frame["seconds"]) for frame in frames] == [(0, 0.0), (4, 0.4), (8, 0.8)]
    assert [frame["predicted"] is None for frame in frames] == [False, False, True]
    photograph(0, face=rendered()).save(tmp_path / "still.png")
    (still,) = predict(tmp_path / "still.png", "--detect", "true")
    assert np.abs(shares([still]) - shares(frames[:1])).max() < 0.1


@needs_video
def test_a_video_on_its_side_is_not_turned_upright(predict: Predict, tmp_path: Path) -> None:
    face = rendered()
    write_video(tmp_path / "upright.mp4", [face])
    write_video(tmp_path / "lying.mp4", [face.rotate(90)], turned=-90)
    lying, upright = predict(tmp_path)
    assert np.abs(shares([lying]) - shares([upright])).max() < 0.05


@pytest.mark.parametrize(
    ("library", "extra", "words"),
    [("facenet_pytorch", "detect", ["face.png", "--detect", "true"]), ("av", "video", ["talk.mp4"])],
)
def test_a_missing_extra_is_not_named(
    library: str, extra: str, words: list[str], source: Checkpoint, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.chdir(tmp_path)
    Path(words[0]).write_bytes(encoded("PNG", 64))
    assert cli.main(["predict", str(source.folder), *words]) == 2
    assert f"pip install 'privatenet[{extra}]'" in capsys.readouterr().err


def test_a_leak_is_told_of_other_weights_or_an_older_audit(
    source: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rendered().save(tmp_path / "face.png")
    words = ["predict", str(source.folder.parent), str(tmp_path / "face.png"), "--show-leak"]
    assert cli.main(words) == 0
    assert f"privatenet audit {source.folder} makes one" in capsys.readouterr().err

    audits = {"private": ("2026-01-01", source.hash, 0.41), "later": ("2026-02-01", source.hash, 0.42)}
    audits["other"] = ("2026-03-01", "0" * 64, 0.43)
    for name, (created, sha256, majority) in audits.items():
        audit = replace(findings(), created=created)
        leaks = tuple(replace(leak, majority=majority) for leak in audit.audited.leaks)
        network = replace(audit.audited, sha256=sha256, leaks=leaks)
        report = source.folder.parent.parent / f"audit-{name}" / "report"
        report.mkdir(parents=True)
        write_findings(replace(audit, networks=(network, *audit.networks[1:])), report / "audit.json")
    report = source.folder.parent.parent / "audit-damaged" / "report"
    report.mkdir(parents=True)
    (report / "audit.json").write_text("{}")
    assert cli.main(words) == 0
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.err.splitlines() if line.strip().startswith(("gender", "age_group"))]
    best = next(
        leak for leak in findings().audited.leaks if (leak.tap, leak.attribute) == ("layer4", "gender")
    ).headline
    figures = [f"{100 * value:.1f}" for value in (best.accuracy.value, best.accuracy.low, best.accuracy.high)]
    assert rows[0] == ["gender", "enclave,", "layer4", *figures[:2], "to", figures[2], "63.9", "42.0"]
    assert [row[:2] for row in rows[1:]] == [
        ["gender", "output"], ["gender", "label"], ["age_group", "enclave,"], ["age_group", "output"]
    ]  # fmt: skip
    (line,) = printed.out.splitlines()
    assert set(json.loads(line)) == {"path", "predicted", "probabilities"}
    assert not any(word in printed.out + printed.err for word in ("male", "female", "20-39"))
