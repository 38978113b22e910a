"""Files that somebody meddled with are refused in one line each: no traceback, no hang."""

from collections import Counter
from pathlib import Path

from hostile import meddled, outcome, readers

COUNT = 60


def test_a_file_that_was_meddled_with_ends_in_a_traceback(tmp_path: Path) -> None:
    for reader in readers(tmp_path):
        good = reader.path.read_bytes()
        assert outcome(reader, good, good) == "accepted", reader.name
        results = Counter(outcome(reader, content, good) for content in meddled(good, COUNT, seed=0))
        reader.path.write_bytes(good)
        assert set(results) <= {"refused", "accepted"}, (reader.name, results)
        assert results["refused"] > COUNT / 4, (reader.name, results)
