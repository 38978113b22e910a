"""Candidates in order: those on the front of utility against leakage first, and the knee among the private ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.pareto import front, knee
from privatenet.audit.report.text import count, listed
from privatenet.distributed.config import ConfigError
from privatenet.tune.compare.candidates import Candidate, Setting, setting_order

LEAKAGE = (
    "Leakage is how far the best attacker's accuracy on a private attribute lies above always answering its majority "
    "class, in percentage points: 0 is what an answer without looking gets."
)
ORDER = (
    "The front comes first, by utility; then the others, by how much more they leak than the front does at no less "
    "utility."
)
NO_KNEE = "No private network is on the front, so that it has no knee to choose."
DOES_NOT_APPLY = "-"


@dataclass(frozen=True)
class Row:
    """A candidate by its number in the table, with its figures; `test` is (utility, leakage) there, if measured."""

    number: int
    candidate: Candidate
    utility: Estimate
    leakage: Estimate
    test: tuple[Estimate, Estimate] | None
    on_front: bool
    knee: bool

    @property
    def mark(self) -> str:
        """`*` on the front, `*K` at its knee."""
        return "*" * self.on_front + "K" * self.knee


@dataclass(frozen=True)
class Comparison:
    """Networks in the order of the table. `settings` are the names of all that sets one of them apart.

    `split` is where the figures are from, `leak` the pair that was asked for, or empty for the worst of `pairs`;
    `notes` are what to know before reading it.
    """

    split: str
    leak: str
    pairs: tuple[str, ...]
    settings: tuple[str, ...]
    rows: tuple[Row, ...]
    failed: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def knee(self) -> Row | None:
        return next((row for row in self.rows if row.knee), None)

    @property
    def leakage_of(self) -> str:
        """What leakage is of, in words."""
        pairs = [self.leak] if self.leak else list(self.pairs)
        return f"the worst of {listed(pairs)}" if len(pairs) > 1 else "".join(pairs) or "the worst pair"

    def setting(self, candidate: Candidate, name: str) -> Setting:
        return candidate.settings.get(name, DOES_NOT_APPLY)


def compare_networks(candidates: Sequence[Candidate], leak: str = "") -> Comparison:
    """Compare by validation figures or, where no candidate has any, by test figures.

    `leak` is the tap-attribute pair whose excess is the leakage; empty is the worst. Raises `ConfigError` where nobody
    was attacked at `leak`, or no candidate has figures.
    """
    split = "validation" if any(candidate.validation.trade_off() for candidate in candidates) else "test"
    pairs = tuple(dict.fromkeys(pair for candidate in candidates for pair in candidate.measures(split).pairs))
    if leak and pairs and leak not in pairs:
        raise ConfigError(f"leak: nobody looked at {leak!r}: accepted are {', '.join(pairs)}")
    measured = [candidate for candidate in candidates if candidate.measures(split).trade_off(leak)]
    others = [candidate for candidate in candidates if candidate not in measured]
    failed = tuple(candidate for candidate in others if candidate.reason)
    if not measured:
        raise ConfigError(
            "no network with utility and leakage was found"
            + (f"; {failed[0].name} failed: {failed[0].reason}" if failed else "")
        )
    settings = setting_order(name for candidate in (*measured, *failed) for name in candidate.settings)
    rows = _rows(measured, split, leak)
    notes = _notes(split, leak, measured, others, rows)
    return Comparison(split, leak, pairs, settings, rows, failed, notes)


def pick(comparison: Comparison, choice: str) -> Candidate:
    """The candidate that `choice` names: knee, or its number in the table. Raises `ConfigError`."""
    numbers = f"1 to {len(comparison.rows)}"
    if choice == "knee":
        if comparison.knee is None:
            raise ConfigError(f"pick: {NO_KNEE} Give the number of a network: {numbers}")
        return comparison.knee.candidate
    if choice.isdecimal() and 1 <= int(choice) <= len(comparison.rows):
        return comparison.rows[int(choice) - 1].candidate
    raise ConfigError(f"pick: there is no {choice!r}: accepted are knee and {numbers}")


def _rows(candidates: Sequence[Candidate], split: str, leak: str) -> tuple[Row, ...]:
    estimates = [(candidate, *_trade_off(candidate, split, leak)) for candidate in candidates]
    figures = [(utility.value, leakage.value) for _, utility, leakage in estimates]
    on_front = dict(zip(figures, front(figures), strict=True))
    edge = [figure for figure, good in on_front.items() if good]

    def place(item: tuple[Candidate, Estimate, Estimate]) -> tuple[float, float]:
        utility, leakage = item[1].value, item[2].value
        if on_front[utility, leakage]:
            return -1.0, -utility
        return leakage - min(excess for useful, excess in edge if useful >= utility), -utility

    estimates.sort(key=place)
    figures = [(utility.value, leakage.value) for _, utility, leakage in estimates]
    best = knee(figures, [candidate.private for candidate, _, _ in estimates])
    return tuple(
        Row(
            at + 1,
            candidate,
            utility,
            leakage,
            candidate.test.trade_off(leak) if split != "test" else None,
            on_front[utility.value, leakage.value],
            at == best,
        )
        for at, (candidate, utility, leakage) in enumerate(estimates)
    )


def _trade_off(candidate: Candidate, split: str, leak: str) -> tuple[Estimate, Estimate]:
    estimates = candidate.measures(split).trade_off(leak)
    assert estimates is not None
    return estimates


def _notes(
    split: str, leak: str, measured: Sequence[Candidate], others: Sequence[Candidate], rows: Sequence[Row]
) -> tuple[str, ...]:
    """What a reader should know of how the figures came about."""
    notes = []
    if split == "test":
        notes.append("No run has validation figures: these are of the test split, and choosing by them spends it.")
    tested = sum(candidate.test.trade_off(leak) is not None for candidate in others)
    if tested:
        notes.append(f"{count(tested, 'run')} with test figures only left out, as others have validation figures.")
    if not leak and len({tuple(candidate.measures(split).pairs) for candidate in measured}) > 1:
        notes.append("Not all were attacked at the same taps and attributes: their worst leaks compare badly.")
    running = sum(candidate.status == "RUNNING" and not candidate.reason for candidate in others)
    if running:
        notes.append(f"{count(running, 'run')} still going and not shown.")
    if not any(row.knee for row in rows):
        notes.append(NO_KNEE)
    return tuple(notes)
