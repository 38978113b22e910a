"""Shards by URL: fetched once per machine, whole, and of the content that the manifest names."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.reading.batches import training_batches
from privatenet.data_shards.reading.cache import StreamedPictures
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.plan import DataState, TrainingPlan
from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.data_shards.shards.remote import local_copy, passing_copy
from privatenet.data_shards.shards.split import Split, open_split
from privatenet.data_shards.shards.verify import verify
from privatenet.data_shards.uri import Uri
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import ALONE
from privatenet.launch import cli

BOTH = """
import sys
from pathlib import Path
import numpy as np, torch
from privatenet.data_shards.reading import cache, decode
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.shards.split import open_split
from privatenet.data_shards.shards.remote import local_copy
url, folder, original = sys.argv[1], sys.argv[2], decode.decode
def counted(split, rows):
    print(len(rows))
    return original(split, rows)
decode.decode = counted
split = open_split(local_copy(url, folder), "train")
cache.open_pictures(split, np.arange(len(split)), torch.device("cpu"), DataConfig(cache=folder))
"""


class Site:
    """A web server over a folder; `asked` are the paths of the requests it was sent, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()
        self.manifest_readers = Barrier(1)
        site = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path.rpartition("/")[2])
                if self.path.endswith("manifest.json"):
                    site.manifest_readers.wait(60)
                super().do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/tiny"


@pytest.fixture
def site(shards: Path, tmp_path: Path) -> Iterator[Site]:
    shutil.copytree(shards, tmp_path / "site" / "tiny")
    site = Site(tmp_path / "site")
    thread = Thread(target=site.server.serve_forever, args=(0.02,))
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()
    thread.join()


def content(folder: Path) -> dict[str, bytes]:
    """The files that belong to the data set: not what the builder notes for itself, nor locks."""
    return {path.name: path.read_bytes() for path in folder.glob("[mt]*") if path.suffix in (".tar", ".json")}


def test_a_folder_is_read_where_it_lies(shards: Path, tmp_path: Path) -> None:
    assert local_copy(str(shards), str(tmp_path)) == shards
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_file_url_is_copied_whole(shards: Path, tmp_path: Path, ending: str) -> None:
    folder = local_copy(f"file://{shards}{ending}", str(tmp_path))
    assert folder == tmp_path / load_manifest(shards).fingerprint[:16]
    assert content(folder) == content(shards)
    assert verify(folder) == []


def test_a_second_call_asks_for_the_manifest_and_nothing_else(site: Site, shards: Path, tmp_path: Path) -> None:
    folder = local_copy(site.url, str(tmp_path / "cache"))
    assert content(folder) == content(shards)
    assert sorted(site.asked) == sorted(content(shards))
    site.asked.clear()
    assert local_copy(site.url, str(tmp_path / "cache")) == folder
    assert site.asked == ["manifest.json"]


def test_two_processes_at_once_fetch_and_decode_once(site: Site, shards: Path, tmp_path: Path) -> None:
    site.manifest_readers = Barrier(2)  # neither goes on before the other has come
    command = [sys.executable, "-c", BOTH, site.url, str(tmp_path / "cache")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sorted(site.asked) == sorted([*content(shards), "manifest.json"])
    assert sum(map(int, "".join(printed).split())) == load_manifest(shards).num_samples("train")


def test_a_changed_tar_is_refused_and_an_interrupted_fetch_goes_on(site: Site, shards: Path, tmp_path: Path) -> None:
    tar = site.folder / "tiny" / "train-000002.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-1] + b"x")
    with pytest.raises(DataError, match=r"train-000002\.tar: is not the file that manifest\.json names"):
        local_copy(site.url, str(tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").iterdir()
    fetched = set(content(folder))
    assert not {"train-000002.tar", "manifest.json"} & fetched
    assert not list(folder.glob("*.tmp"))

    tar.write_bytes(whole)
    site.asked.clear()
    assert content(local_copy(site.url, str(tmp_path / "cache"))) == content(shards)
    assert sorted(site.asked) == sorted(set(content(shards)) - fetched)


@pytest.mark.parametrize("name", ["train-000001.tar", "test-000000.json"])
def test_a_fetched_file_that_was_lost_is_told(shards: Path, tmp_path: Path, name: str) -> None:
    folder = local_copy(f"file://{shards}", str(tmp_path))
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"remove {folder}, it will be fetched again"):
        local_copy(f"file://{shards}", str(tmp_path))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:9/faces", r"cannot be fetched \(Cannot connect to host .*check the address"),
        ("file:///nowhere/faces", r"nowhere/faces/manifest\.json: cannot be fetched \(no such file\)"),
        ("gs://bucket/faces", "needs a package that is not installed here: Please install gcsfs"),
        ("pipe://cat /etc/passwd", "accepted: a folder, or a URL of abfs"),
        ("simplecache::http://127.0.0.1/faces", "accepted: a folder, or a URL of abfs"),
        ("file://faces::http://127.0.0.1/faces", "accepted: a folder, or a URL of abfs"),
    ],
)
def test_a_url_that_leads_nowhere_is_told_in_one_line(url: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told) as caught:
        local_copy(url, str(tmp_path))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be made .*data\.cache"):
        local_copy(f"file://{shards}", str(tmp_path / "file"))


def test_without_a_cache_a_url_goes_to_the_users_own(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert local_copy(f"file://{shards}").parent == tmp_path / "xdg" / "privatenet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert local_copy(f"file://{shards}").parent == tmp_path / "home" / ".cache" / "privatenet"


@pytest.mark.parametrize("command", ["run", "reproduce"])
def test_a_url_that_lacks_a_shard_is_refused_in_one_line(
    command: str, site: Site, tiny_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (site.folder / "tiny" / "test-000001.tar").unlink()
    settings = ["--config", str(tiny_config), "--data.shards", site.url, "--data.cache", str(tmp_path / "cache")]
    assert cli.main([command, *settings]) == 2
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"{site.url}/test-000001.tar: cannot be fetched (no such file)" in told[0]


def tars_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.tar")}


def test_more_data_than_there_is_room_for_passes_through(site: Site, shards: Path, tmp_path: Path) -> None:
    manifest, cache = load_manifest(shards), str(tmp_path / "cache")
    room = 2 * max(shard.bytes for shard in manifest.shards("train"))
    folder, tars = passing_copy(site.url, cache, room)
    assert not tars_in(folder)
    here, passing = open_split(shards, "train"), open_split(folder, "train", tars)
    for row in range(len(here)):
        assert passing.read(row) == here.read(row)
        assert sum(path.stat().st_size for path in folder.glob("*.tar")) <= room
    assert len(tars_in(folder)) == 2
    asked = [name for name in site.asked if name.startswith("train") and name.endswith(".tar")]
    assert asked == [shard.name for shard in manifest.shards("train")], "each is fetched once, when it is due"
    again, _ = passing_copy(site.url, cache, room)
    assert again == folder


def test_batches_of_passing_shards_are_those_of_shards_that_stay(site: Site, shards: Path, tmp_path: Path) -> None:
    room = 2 * max(shard.bytes for shard in load_manifest(shards).shards("train"))
    folder, tars = passing_copy(site.url, str(tmp_path / "cache"), room)
    cpu = torch.device("cpu")

    def images(split: Split) -> torch.Tensor:
        plan = TrainingPlan(np.arange(len(split)), split.shard, 8, window=1)
        batches = training_batches(split, StreamedPictures(split, cpu), plan, DataState(), DataConfig(workers=2))
        return torch.cat([batch.images for batch, _ in islice(batches, 2 * plan.steps_per_epoch)])

    assert torch.equal(images(open_split(folder, "train", tars)), images(open_split(shards, "train")))
    tars.pool.shutdown()
    assert len(tars_in(folder)) <= 2
    assert len([name for name in site.asked if name.endswith(".tar")]) > 5, "some came more than once"


def test_a_tar_that_is_removed_while_it_is_read_is_read_to_its_end(site: Site, shards: Path, tmp_path: Path) -> None:
    folder, tars = passing_copy(site.url, str(tmp_path / "cache"), 1)
    split = open_split(folder, "train", tars)
    first, content = split.open_tar(0), (shards / split.paths[0].name).read_bytes()
    os.close(split.open_tar(1))
    assert tars_in(folder) == {split.paths[1].name}
    assert os.pread(first, len(content), 0) == content
    os.close(first)


def test_a_passing_tar_of_another_content_is_refused(site: Site, tmp_path: Path) -> None:
    folder, tars = passing_copy(site.url, str(tmp_path / "cache"), 2**30)
    tar = site.folder / "tiny" / "train-000001.tar"
    tar.write_bytes(b"x" + tar.read_bytes()[1:])
    with pytest.raises(DataError, match=r"train-000001\.tar: is not the file that manifest\.json names"):
        open_split(folder, "train", tars).open_tar(1)


def test_what_a_killed_process_began_to_fetch_takes_no_room(site: Site, shards: Path, tmp_path: Path) -> None:
    room = max(shard.bytes for shard in load_manifest(shards).shards("train"))
    folder, tars = passing_copy(site.url, str(tmp_path / "cache"), room)
    (folder / "train-000003.tar.tmp").write_bytes(b"half")
    _, tars = passing_copy(site.url, str(tmp_path / "cache"), room)
    os.close(tars.open("train-000000.tar"))
    assert tars_in(folder) == {"train-000000.tar"}
    assert not list(folder.glob("*.tmp"))


@pytest.mark.parametrize("mode", ["streaming", "cached"])
def test_a_run_reads_a_data_set_that_passes_through(site: Site, shards: Path, tmp_path: Path, mode: str) -> None:
    gib = 3 * max(shard.bytes for split in load_manifest(shards).splits.values() for shard in split) / 2**30
    config = DataConfig(Uri(site.url), mode, cache=str(tmp_path / "cache"), disk_gib=gib, window=1)  # type: ignore[arg-type]
    passing, here = Faces(config, ALONE), Faces(DataConfig(Uri(str(shards)), mode), ALONE)  # type: ignore[arg-type]
    for subset in ("training", "validation"):
        ours, theirs = (getattr(faces, subset)(["gender"]) for faces in (passing, here))
        assert np.array_equal(ours.rows, theirs.rows)
        assert torch.equal(ours.pictures.fetch(ours.rows), theirs.pictures.fetch(theirs.rows))


def test_room_for_less_than_two_windows_is_refused(site: Site, shards: Path, tmp_path: Path) -> None:
    room = 3 * max(shard.bytes for split in load_manifest(shards).splits.values() for shard in split)
    _, tars = passing_copy(site.url, str(tmp_path / "cache"), room)
    tars.check(1)
    with pytest.raises(DataError, match=r"too small for two windows of 2 shards: accepted are 0 \(keep all\)"):
        tars.check(2)
