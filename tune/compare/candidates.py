"""Networks of many runs beside each other: utility against leakage, what nothing dominates, as a table and as files."""

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.paper import published
from privatenet.audit.pareto import front, knee
from privatenet.audit.report.charts import Point, front_chart, save
from privatenet.audit.report.text import count, interval, listed, percent, points
from privatenet.data_shards.files import replacing
from privatenet.distributed.config import ConfigError
from privatenet.distributed.tracking.store import TrackedRun

UNPROTECTED = "unprotected"
PAPER = "paper, RAF-DB (other data and attackers)"
NONE = "-"
"""A setting that does not apply."""

LEAKAGE = (
    "Leakage is how far the best attacker's accuracy on a private attribute lies above always answering its majority "
    "class, in percentage points: 0 is what an answer without looking gets."
)
ORDER = (
    "The front comes first, by utility; then the others, by how much more they leak than the front does at no less "
    "utility."
)

UNDEFINED = Estimate(math.nan, math.nan, math.nan)

_SETTINGS = ("lambda", "objective", "taps", "attributes", "prior", "known", "backbone", "lr", "epochs", "seed")
_CONFIG = r"protect\.(lambda|objective|prior|known|pairs\..+)|model\.backbone|private\.(lr|epochs)|seed"
_PROTECTION = r"(protect|private)\."
_SPEAKING = ("objective", "taps", "attributes", "backbone")
"""Settings whose values need no name beside them."""

_NETWORKS = ("target", "private", "audit")
_FAILED = ("FAILED", "KILLED")


@dataclass(frozen=True)
class Candidate:
    """One network to choose, from its run. `tested` is (utility, leakage) on the test split, where it was looked at.

    `group` is its objective, or unprotected; `pairs` are the tap-attribute pairs it was attacked at. With a `reason` it
    failed, and its figures are undefined. `checkpoint` may be empty, or of another machine.
    """

    run_id: str
    name: str
    status: str
    parent: str
    group: str
    settings: dict[str, str | float]
    utility: Estimate
    leakage: Estimate
    tested: tuple[Estimate, Estimate] | None
    pairs: tuple[str, ...]
    checkpoint: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Candidates in the order of the table; `best` says which are on the front, `knee` which of them is its knee.

    `split` is where the figures are from, `leak` the pair that was asked for, or empty for the worst of `pairs`;
    `notes` are what to know before reading it.
    """

    split: str
    leak: str
    pairs: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    best: tuple[bool, ...]
    knee: int
    failed: tuple[Candidate, ...]
    notes: tuple[str, ...]

    def mark(self, place: int) -> str:
        """`*` on the front, `*K` at its knee."""
        return ("*" if self.best[place] else "") + ("K" if place == self.knee else "")

    @property
    def what(self) -> str:
        """What leakage is of, in words."""
        pairs = [self.leak] if self.leak else list(self.pairs)
        return f"the worst of {listed(pairs)}" if len(pairs) > 1 else "".join(pairs) or "the worst pair"


def compare(
    runs: Sequence[TrackedRun], folder: Path, leak: str = "", uri: str = "", console: Console | None = None
) -> Comparison:
    """Print how the networks of `runs` compare and write front.csv, front.png, front.svg and compare.html to `folder`.

    `leak` is a tap-attribute pair, empty for the worst one; `uri` is where the runs are, for the page. Raises
    `ConfigError` where no run has figures.
    """
    found = comparison(runs, leak)
    print_comparison(found, console)
    write(found, folder, uri)
    return found


def comparison(runs: Sequence[TrackedRun], leak: str = "") -> Comparison:
    """The candidates among `runs` in order, with front and knee. Raises `ConfigError` where none has figures."""
    split = _split(runs)
    watched = tuple(dict.fromkeys(pair for run in runs for pair in _pairs(run, split)))
    if leak and watched and leak not in watched:
        raise ConfigError(f"leak: nobody looked at {leak!r}: accepted are {', '.join(watched)}")
    found = candidates(runs, leak)
    failed = tuple(candidate for candidate in found if candidate.reason)
    finished = [candidate for candidate in found if not candidate.reason]
    if not finished:
        raise ConfigError(
            f"no run with utility and leakage among the {len(runs)} found"
            + (f"; {failed[0].name} failed: {failed[0].reason}" if failed else "")
        )
    figures = [(candidate.utility.value, candidate.leakage.value) for candidate in finished]
    good = dict(zip(figures, front(figures), strict=True))
    edge = [figure for figure, on_it in good.items() if on_it]

    def place(candidate: Candidate) -> tuple[float, float]:
        utility, leakage = candidate.utility.value, candidate.leakage.value
        if good[utility, leakage]:
            return -1.0, -utility
        return leakage - min(excess for useful, excess in edge if useful >= utility), -utility

    shown = sorted(finished, key=place)
    ordered = [(candidate.utility.value, candidate.leakage.value) for candidate in shown]
    chosen = knee(ordered)
    assert chosen is not None
    notes = _notes(runs, split, shown, leak)
    marks = tuple(good[figure] for figure in ordered)
    return Comparison(split, leak, watched, tuple(shown), marks, chosen, failed, notes)


def candidates(runs: Sequence[TrackedRun], leak: str = "") -> list[Candidate]:
    """Runs with utility and leakage, on the validation split or, where none was looked at, on the test split.

    Runs of networks that failed before they had figures follow, with the reason; others are left out. `leak` is the
    tap-attribute pair whose excess is the leakage; empty is the worst.
    """
    split = _split(runs)
    unique = {run.run_id: run for run in runs}.values()
    finished = {run.run_id: figures for run in unique if (figures := _figures(run, split, leak))}
    known = [run for run in unique if run.run_id in finished]
    failed = [run for run in unique if run.run_id not in finished and _has_failed(run)]
    names = _names([*known, *failed])
    shown = [_candidate(run, names, split, finished[run.run_id], _figures(run, "test", leak)) for run in known]
    reasons = [run.tags.get("failure") or f"the run is {run.status}" for run in failed]
    nothing = (UNDEFINED, UNDEFINED)
    return shown + [_candidate(run, names, split, nothing, None, why) for run, why in zip(failed, reasons, strict=True)]


def pick(found: Comparison, chosen: str) -> Candidate:
    """The candidate that `chosen` names: knee, or its number in the table. Raises `ConfigError`."""
    if chosen == "knee":
        return found.candidates[found.knee]
    if chosen.isdecimal() and 1 <= int(chosen) <= len(found.candidates):
        return found.candidates[int(chosen) - 1]
    raise ConfigError(f"pick: there is no {chosen!r}: accepted are knee and 1 to {len(found.candidates)}")


def described(candidate: Candidate) -> str:
    """What sets a candidate apart: `lambda 0.5, confusion, backbone+arm`; its name where no setting does."""
    given = {name: value for name, value in candidate.settings.items() if value != NONE}
    words = [shown(value) if name in _SPEAKING else f"{name} {shown(value)}" for name, value in given.items()]
    return ", ".join([UNPROTECTED, *words] if candidate.group == UNPROTECTED else words) or candidate.name


def shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def chart_points(found: Comparison) -> list[Point]:
    """The candidates for a chart, labelled by their number in the table."""
    return [
        Point(str(place), candidate.group, None, candidate.utility, candidate.leakage)
        for place, candidate in enumerate(found.candidates, 1)
    ]


def references(found: Comparison) -> list[Point]:
    """The paper's private networks, where it hides an attribute that is looked at here: unknown adversary's excess."""
    attributes = {pair.partition("-")[2] for pair in ([found.leak] if found.leak else found.pairs)}
    return [
        Point(f"{objective} at {tap}, {attribute}", PAPER, None, _printed(row.utility), _printed(excess), attribute)
        for (objective, tap, attribute), row in published.NETWORKS.items()
        if attribute in attributes and row.utility is not None and row.unknown is not None
        for excess in (row.unknown - published.MAJORITY[attribute],)
    ]


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """Print the table, failed runs and how to read them; fits 80 columns."""
    console = console or Console(width=max(80, Console().width))
    tested = any(candidate.tested for candidate in found.candidates)
    table = RichTable(
        title=f"{count(len(found.candidates), 'network')}, {found.split} split; leakage: {found.what}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for heading in ("utility, %", "leakage, points", *(["test"] if tested else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for place, candidate in enumerate(found.candidates):
        figures = [_two_lines(candidate.utility, percent), _two_lines(candidate.leakage, points)]
        if candidate.tested:
            utility, leakage = candidate.tested
            figures.append(f"{percent(utility.value)}\n{points(leakage.value)}")
        table.add_row(str(place + 1), found.mark(place), Text(described(candidate)), *figures)
    console.print(table)
    for candidate in found.failed:
        console.print(Text(f"without figures: {candidate.name} ({described(candidate)}): {candidate.reason}"))
    console.print(Text(f"* on the front: nothing is as useful and leaks less. K: its knee. {ORDER}"))
    console.print(Text(LEAKAGE))
    for note in found.notes:
        console.print(Text(f"- {note}"))


def write(found: Comparison, folder: Path, uri: str = "") -> None:
    """Write front.csv, front.png, front.svg and compare.html into `folder`, which is made where it is missing."""
    from privatenet.tune.compare.charts import write_page  # which takes the candidates from here

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "front.csv") as stream:
        stream.write(csv_text(found).encode())
    chart = front_chart(chart_points(found), "target", f"Leakage: {found.what}", references(found))
    title = f"Utility against leakage, {found.split} split"
    save(chart, folder, "front", title, describe(found))
    write_page(found, folder / "compare.html", uri)


def describe(found: Comparison) -> str:
    """The front in words."""
    parts = [
        f"{place} ({described(candidate)}) {percent(candidate.utility.value)} % and "
        f"{points(candidate.leakage.value)} points"
        for place, (candidate, good) in enumerate(zip(found.candidates, found.best, strict=True), 1)
        if good
    ]
    return f"Utility and leakage of what nothing dominates, by number in the table: {'; '.join(parts)}."


def csv_text(found: Comparison) -> str:
    """All candidates, figures as shares of 1 and in full; failed ones at the end, without figures."""
    everyone = (*found.candidates, *found.failed)
    names = list(everyone[0].settings)
    figures = ("utility", "leakage", "test_utility", "test_leakage")
    heads = [f"{figure}{end}" for figure in figures for end in ("", "_low", "_high")]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["index", "run_id", "name", "status", "on_front", "knee", *names, *heads, "split", "checkpoint", "reason"]
    )
    for place, candidate in enumerate(everyone):
        own = "" if candidate.reason else place + 1
        good = not candidate.reason and found.best[place]
        estimates = (candidate.utility, candidate.leakage, *(candidate.tested or (UNDEFINED, UNDEFINED)))
        numbers = [number for e in estimates for number in (e.value, e.low, e.high)]
        writer.writerow(
            [own, candidate.run_id, candidate.name, candidate.status, good, own != "" and place == found.knee]
            + [value if isinstance(value, str) else f"{value:.12g}" for value in candidate.settings.values()]
            + [number if math.isfinite(number) else "" for number in numbers]
            + [found.split, candidate.checkpoint, candidate.reason]
        )
    return stream.getvalue()


def _candidate(
    run: TrackedRun,
    names: dict[str, str],
    split: str,
    figures: tuple[Estimate, Estimate],
    tested: tuple[Estimate, Estimate] | None,
    reason: str = "",
) -> Candidate:
    unprotected = run.tags.get("trial") == UNPROTECTED or run.tags.get("stage") == "target"
    objective = run.params.get("space.objective", run.params.get("protect.objective", "network"))
    apply = {key: text for key, text in run.params.items() if not (unprotected and re.match(_PROTECTION, key))}
    settings = {name: _value(apply.get(key, NONE)) for key, name in names.items()}
    return Candidate(
        run.run_id, run.name, run.status, run.parent, UNPROTECTED if unprotected else objective, settings, *figures,
        tested if split != "test" else None, _pairs(run, split), run.tags.get("checkpoint", ""), reason,
    )  # fmt: skip


def _has_failed(run: TrackedRun) -> bool:
    """Whether a run of a network, not of what was shared, ended before its time."""
    network = run.tags.get("stage") in _NETWORKS or "trial" in run.tags
    return network and (run.status in _FAILED or "failure" in run.tags)


def _names(runs: Sequence[TrackedRun]) -> dict[str, str]:
    """The settings to show, by param: those that a sweep varies, else what differs between the runs."""
    keys = sorted({key for run in runs for key in run.params})
    swept = {key: key.removeprefix("space.") for key in keys if key.startswith("space.")}
    if not swept:
        own = [run for run in runs if run.tags.get("stage") == "private"]
        differing = [key for key in keys if len({run.params.get(key) for run in own}) > 1]
        swept = {key: re.sub(r"^(protect\.(pairs\.)?|model\.|private\.)", "", key)
                 for key in differing if re.fullmatch(_CONFIG, key)}  # fmt: skip
    order = {name: place for place, name in enumerate(_SETTINGS)}
    return dict(sorted(swept.items(), key=lambda item: (order.get(item[1], len(order)), item[1])))


def _split(runs: Sequence[TrackedRun]) -> str:
    """Where the figures are from: validation, or test where no run has it."""
    return "validation" if any(_figures(run, "validation", "") for run in runs) else "test"


def _figures(run: TrackedRun, split: str, leak: str) -> tuple[Estimate, Estimate] | None:
    """Utility and leakage of a run; None where one is missing or undefined."""
    keys = (f"{split}/utility", f"{split}/{leak}/excess" if leak else f"{split}/leakage")
    utility, leakage = (
        Estimate(*(run.metrics.get(f"{key}{end}", math.nan) for end in ("", "_low", "_high"))) for key in keys
    )
    return (utility, leakage) if math.isfinite(utility.value + leakage.value) else None


def _pairs(run: TrackedRun, split: str) -> tuple[str, ...]:
    """The tap-attribute pairs that a run was attacked at."""
    found = (re.fullmatch(rf"{split}/(.+)/excess", key) for key in run.metrics)
    return tuple(sorted(match[1] for match in found if match))


def _notes(runs: Sequence[TrackedRun], split: str, finished: Sequence[Candidate], leak: str) -> tuple[str, ...]:
    """What a reader should know of how the figures came about."""
    notes = []
    if split == "test":
        notes.append("No run has validation figures: these are of the test split, and choosing by them spends it.")
    known = {candidate.run_id for candidate in finished}
    others = {run.run_id for run in runs if run.run_id not in known and _figures(run, "test", leak)}
    if others:
        notes.append(f"{count(len(others), 'run')} with test figures only left out, as others have validation figures.")
    if not leak and len({candidate.pairs for candidate in finished}) > 1:
        notes.append("Not all were attacked at the same taps and attributes: their worst leaks compare badly.")
    running = {run.run_id for run in runs if run.status == "RUNNING" and run.tags.get("stage") == "private"} - known
    if running:
        notes.append(f"{count(len(running), 'run')} still going and not shown.")
    return tuple(notes)


def _value(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _printed(percentage: float) -> Estimate:
    """A figure of the paper, which prints no interval."""
    return Estimate(percentage / 100, math.nan, math.nan)


def _two_lines(estimate: Estimate, show: Callable[[float], str]) -> str:
    return f"{show(estimate.value)}\n{interval(estimate, show)}"
