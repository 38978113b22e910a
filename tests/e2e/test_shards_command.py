"""`privatenet shards` as a person types it."""

import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.data_shards.shards.split import open_split
from privatenet.launch.commands import shards

SCHEMA = """
name: faces
target: mood
attributes:
  mood: {classes: [happy, sad]}
  gender: {classes: {0: male, 1: female}, unsure: 2}
"""
COMMAND = (sys.executable, "-m", "privatenet.launch.commands.shards")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Twelve pictures, two of them of another size, with their table and schema."""
    (tmp_path / "in").mkdir()
    rows = ["path,split,mood,gender,person"]
    for number in range(12):
        stream = io.BytesIO()
        Image.new("RGB", (30, 40 if number > 9 else 30), (20 * number, 90, 160)).save(stream, "JPEG")
        (tmp_path / "in" / f"face{number}.jpg").write_bytes(stream.getvalue())
        split, mood = "test" if number % 4 == 0 else "train", ("happy", "sad")[number % 2]
        rows.append(f"face{number}.jpg,{split},{mood},{number % 3},{'' if number == 2 else f'Oak{number % 5}'}")
    (tmp_path / "in" / "faces.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "in" / "faces.yaml").write_text(SCHEMA)
    return tmp_path / "in" / "faces.csv"


def build_arguments(table: Path, out: Path) -> list[str]:
    schema = str(table.with_suffix(".yaml"))
    return ["build", "table", str(table), "--schema", schema, "--out", str(out), "--size", "32"]


def test_build_says_what_it_made_and_what_to_type_next(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert shards.main([*build_arguments(table, out), "--shard-samples", "4"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Writing shards to {out}\n")
    assert load_manifest(out).fingerprint in printed
    assert "gender (private)" in printed
    assert f"privatenet shards show {out} --sheet faces.png" in printed
    assert len(load_manifest(out).splits["train"]) == 3
    assert len(open_split(out, "train")) == 9

    assert shards.main([*build_arguments(table, out), "--shard-samples", "4"]) == 0
    assert "were there already" in capsys.readouterr().out


def test_verify_tells_whole_shards_from_damaged_ones_by_its_status(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shards.main(build_arguments(table, out))
    capsys.readouterr()
    assert shards.main(["verify", str(out)]) == 0
    assert "is whole: 3 test, 9 train" in capsys.readouterr().out
    (out / "train-000000.tar").write_bytes((out / "train-000000.tar").read_bytes()[:-1024] + b"x" * 1024)
    assert shards.main(["verify", str(out)]) == 1
    assert "train-000000.tar: its bytes are not those that the manifest names" in capsys.readouterr().out

    assert shards.main(build_arguments(table, out)) == 0  # what the message says to do
    assert shards.main(["verify", str(out)]) == 0


def test_faces_without_a_target_are_kept_and_counted(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table.read_text()
    table.write_text(rows.replace("train,happy", "train,", 2))
    out = tmp_path / "out"
    assert shards.main(build_arguments(table, out)) == 0
    assert re.search(r"unsure\W+0\W+0\.0\W+2\W+22\.2", capsys.readouterr().out)
    assert load_manifest(out).class_counts("train")["mood"] == {"happy": 1, "sad": 6, "unsure": 2}
    assert shards.main(["verify", str(out)]) == 0
    table.write_text(rows.replace("test,happy", "test,"))
    with pytest.raises(DataError, match="no sample of split 'test' has a known 'mood', the target"):
        shards.main(build_arguments(table, tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_show_draws_the_split_that_was_asked_for(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "out", tmp_path / "faces.png"
    shards.main(build_arguments(table, out))
    assert shards.main(["show", str(out), "--sheet", str(sheet), "--split", "train"]) == 0
    printed = capsys.readouterr().out
    assert str(sheet) in printed
    assert "people       3 test, 5 train; in several splits: 3; pictures of unknown people: 1\n" in printed
    with Image.open(sheet) as image:
        assert image.format == "PNG"
    with pytest.raises(DataError, match="no split 'val', accepted: test, train"):
        shards.main(["show", str(out), "--sheet", str(sheet), "--split", "val"])


def test_a_mistake_of_the_user_is_a_data_error_and_leaves_nothing_behind(table: Path, tmp_path: Path) -> None:
    (table.parent / "face3.jpg").unlink()
    with pytest.raises(DataError, match=r"face3\.jpg: no such picture"):
        shards.main(build_arguments(table, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="no data set here"):
        shards.main(["show", str(tmp_path)])


def test_a_corrupt_picture_that_is_left_out_is_named(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (table.parent / "face3.jpg").write_bytes(b"not a picture")
    arguments = build_arguments(table, tmp_path / "out")
    with pytest.raises(DataError, match=r"face3\.jpg: is not a picture.*--on-corrupt skip"):
        shards.main(arguments)
    assert shards.main([*arguments, "--on-corrupt", "skip"]) == 0
    assert "left out     face3 (train): face3.jpg: is not a picture" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a process's children are read from /proc")
def test_a_folder_in_use_is_refused_and_what_a_killed_build_left_is_taken_over(table: Path, tmp_path: Path) -> None:
    """Also: processes make the same bytes as one, persons' numbers too, and are spawned from an importable program."""
    out = tmp_path / "two"
    build = [*build_arguments(table, out), "--shard-samples", "3", "--workers", "2"]
    picture = table.parent / "face3.jpg"
    content = picture.read_bytes()
    picture.unlink()
    os.mkfifo(picture)  # its reader waits for ever
    with subprocess.Popen([*COMMAND, *build], stdout=subprocess.DEVNULL) as killed:
        wait_until(lambda: any(out.glob("*.tar.tmp")))
        with pytest.raises(DataError, match=f"two: is in use by process {killed.pid} on {socket.gethostname()} since"):
            shards.main(build)
        children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
        killed.kill()
    assert len(children) >= 2
    wait_until(lambda: not any(Path("/proc", child).exists() for child in children))

    picture.unlink()
    picture.write_bytes(content)
    printed = run(build)
    assert load_manifest(out).fingerprint in printed
    shards.main([*build_arguments(table, tmp_path / "one"), "--shard-samples", "3"])
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert sum(name.endswith(".tar") for name in one) == 4
    assert "is whole" in run(["verify", str(out), "--workers", "2"])


def run(arguments: list[str]) -> str:
    """What the command prints, having printed nothing on its standard error."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=300, check=True)
    assert done.stderr == ""
    return done.stdout


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_verify_and_show_need_no_torch(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shards.main(build_arguments(table, out))
    program = f"""
import sys
from privatenet.launch.commands import shards
assert shards.main(["verify", {str(out)!r}]) == 0
assert shards.main(["show", {str(out)!r}, "--sheet", {str(tmp_path / "faces.png")!r}]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("command", [[], ["build"], ["build", "rafdb"], ["build", "table"], ["verify"], ["show"]])
def test_help_is_there_for_every_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        shards.main([*command, "--help"])
    assert capsys.readouterr().out.startswith("usage: privatenet shards")


def test_real_faces_make_shards_that_others_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = os.environ.get("PRIVATENET_LFW_RAF")
    if root is None:
        pytest.skip("PRIVATENET_LFW_RAF does not name a folder of faces laid out as RAF-DB's")
    out = tmp_path / "out"
    assert shards.main(["build", "rafdb", root, "--out", str(out), "--workers", "2"]) == 0
    manifest = load_manifest(out)
    assert manifest.image_size == (100, 100)
    assert list(manifest.class_counts("train")["emotion"].values()) == [283, 9, 10, 2735, 97, 177, 1654]
    assert list(manifest.class_counts("train")["gender"].values()) == [3058, 1903, 4]
    assert list(manifest.class_counts("test")["emotion"].values()) == [67, 3, 2, 684, 24, 49, 410]
    assert list(manifest.class_counts("test")["age_group"].values()) == [0, 16, 465, 657, 101]
    assert shards.main(["verify", str(out), "--workers", "2"]) == 0
    split = open_split(out, "test")
    picture = Path(root) / "Image" / "aligned" / f"{split.names[17]}_aligned.jpg"
    assert split.read(17) == picture.read_bytes()
    assert len(set(split.persons)) == 640  # type: ignore[arg-type]
    assert "people       2,508 train, 640 test; in several splits: 0\n" in capsys.readouterr().out
