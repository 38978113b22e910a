"""What a person sees of a sweep."""

import io
import math

import pytest
from rich.console import Console

from privatenet.tune.watch import MOST_ROWS, Row, reason_of, seconds_left, table

LONG = "lambda 0.123, confusion, uniform, alternating, backbone+arm, gender+age_group, lr 0.00012"


def test_the_table_fits_eighty_columns_and_counts_what_it_does_not_show() -> None:
    rows = [Row(LONG, "done", 20, 0.8765, -0.0123, 60.0) for _ in range(30)]
    rows += [Row(LONG, "running", 3, 0.71), Row(LONG, "failed", 1), Row(LONG, "waits")]
    console = Console(width=80, file=io.StringIO())
    console.print(table("trials", rows, 48, 754.0))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "30 of 48 done, 1 running, 1 failed; 12:34 left" in text
    assert text.count("87.6") == MOST_ROWS - 2
    assert "epoch" in lines[2]
    assert "leakage" in lines[2]
    assert "running" in lines[4], "what runs comes first"


def test_time_left_is_that_of_the_trials_to_come_at_the_pace_of_those_that_ended() -> None:
    done = [Row("a", "done", seconds=100.0), Row("b", "done", seconds=200.0)]
    assert seconds_left(done, 6, 2) == pytest.approx(4 * 150 / 2)
    assert seconds_left([*done, Row("c", "running", seconds=50.0)], 6, 2) == pytest.approx((4 * 150 - 50) / 2)
    assert seconds_left([*done, Row("c", "failed")], 3, 2) == 0
    assert math.isnan(seconds_left([], 6, 2))


def test_a_reason_is_the_last_line_of_an_error_without_its_module() -> None:
    error = RuntimeError("Traceback\n  somewhere\nprivatenet.distributed.signals.Diverged: the loss is not finite\n\n")
    assert reason_of(error) == "Diverged: the loss is not finite"
    assert reason_of(ValueError()) == "ValueError"
