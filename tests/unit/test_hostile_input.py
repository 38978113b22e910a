"""Files that somebody meddled with are refused in one line each: no traceback, no hang."""

import io
import pickle
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile import Reader, meddled, outcome, readers

COUNT = 60


def test_a_file_that_was_meddled_with_ends_in_a_traceback(tmp_path: Path) -> None:
    for reader in readers(tmp_path):
        good = reader.path.read_bytes()
        assert outcome(reader, good, good) == "accepted", reader.name
        results = Counter(outcome(reader, content, good) for content in meddled(good, COUNT, seed=0))
        reader.path.write_bytes(good)
        assert set(results) <= {"refused", "accepted"}, (reader.name, results)
        assert results["refused"] > COUNT / 4, (reader.name, results)


class Canary:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return _touch, (str(self.path),)


def _touch(path: str) -> None:
    Path(path).touch()


@pytest.mark.parametrize("kind", ["features", "answers", "tensors", "tar"])
def test_code_in_a_file_is_not_run(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    canary = Canary(tmp_path / "sung")
    pickle.loads(pickle.dumps(canary))
    canary.path.unlink()  # it would sing
    (reader,) = [each for each in readers(folder) if each.name == kind]
    good = reader.path.read_bytes()
    _hide(canary, reader)
    assert outcome(reader, reader.path.read_bytes(), good) == ("accepted" if kind == "tar" else "refused")
    assert not canary.path.exists()


def _hide(canary: Canary, reader: Reader) -> None:
    """Put the canary into a file of the reader's kind."""
    if reader.name == "tensors":
        reader.path.write_bytes(pickle.dumps(canary))
    elif reader.name == "features":
        np.save(reader.path, np.array([canary], dtype=object), allow_pickle=True)
    elif reader.name == "answers":
        np.savez(reader.path, logits=np.array([canary], dtype=object))
    else:  # what webdataset itself would unpickle
        with tarfile.open(reader.path, "a") as tar:
            member = tarfile.TarInfo("first.pyd")
            member.size = len(content := pickle.dumps(canary))
            tar.addfile(member, io.BytesIO(content))
