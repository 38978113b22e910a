"""A comparison as a table: on the terminal, and as CSV."""

import csv
import io
import math
from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.report.text import count, interval, percent, points
from privatenet.tune.compare.candidates import UNDEFINED, Candidate
from privatenet.tune.compare.front import LEAKAGE, ORDER, Comparison, Row


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the table, failed runs and how to read them; fits 80 columns."""
    console = console or Console(width=max(80, Console().width))
    test = any(row.test for row in comparison.rows)
    networks = count(len(comparison.rows), "network")
    table = Table(
        title=f"{networks}, {comparison.split} split; leakage: {comparison.leakage_of}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for heading in ("utility, %", "leakage, points", *(["test"] if test else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        cells = [_two_lines(row.utility, percent), _two_lines(row.leakage, points)]
        if row.test:
            utility, leakage = row.test
            cells.append(f"{percent(utility.value)}\n{points(leakage.value)}")
        table.add_row(str(row.number), row.mark, Text(row.candidate.label), *cells)
    console.print(table)
    for candidate in comparison.failed:
        console.print(Text(f"without figures: {candidate.name} ({candidate.label}): {candidate.reason}"))
    console.print(Text(f"* on the front: nothing is as useful and leaks less. K: its knee. {ORDER}"))
    console.print(Text(LEAKAGE))
    for note in comparison.notes:
        console.print(Text(f"- {note}"))


def csv_text(comparison: Comparison) -> str:
    """All candidates, figures as shares of 1 and in full; failed ones at the end, without figures."""
    columns = ("utility", "leakage", "test_utility", "test_leakage")
    heads = [f"{column}{end}" for column in columns for end in ("", "_low", "_high")]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    start = ["index", "run_id", "name", "status", "on_front", "knee"]
    writer.writerow([*start, *comparison.settings, *heads, "split", "checkpoint", "reason"])
    for row in comparison.rows:
        writer.writerow(_csv_row(comparison, row.candidate, row))
    for candidate in comparison.failed:
        writer.writerow(_csv_row(comparison, candidate, None))
    return stream.getvalue()


def _csv_row(comparison: Comparison, candidate: Candidate, row: Row | None) -> list[object]:
    """Cells of a candidate; one that failed has no `row`."""
    nothing = (UNDEFINED, UNDEFINED)
    estimates = (row.utility, row.leakage, *(row.test or nothing)) if row else (*nothing, *nothing)
    settings = [comparison.setting(candidate, name) for name in comparison.settings]
    numbers = [number for e in estimates for number in (e.value, e.low, e.high)]
    return [
        row.number if row else "",
        candidate.run_id,
        candidate.name,
        candidate.status,
        bool(row and row.on_front),
        bool(row and row.knee),
        *(value if isinstance(value, str) else f"{value:.12g}" for value in settings),
        *(number if math.isfinite(number) else "" for number in numbers),
        comparison.split,
        candidate.checkpoint,
        "" if row else candidate.reason,
    ]


def _two_lines(estimate: Estimate, show: Callable[[float], str]) -> str:
    return f"{show(estimate.value)}\n{interval(estimate, show)}"
