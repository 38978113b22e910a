"""Candidates in order: those on the front of utility against leakage first, and the knee among the private ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.pareto import front, knee
from privatenet.audit.report.text import count, in_words, points
from privatenet.distributed.errors import ConfigError
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
        return f"the worst of {in_words(pairs)}" if len(pairs) > 1 else "".join(pairs) or "the worst pair"

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
        raise ConfigError(f"leak: no network was attacked at {leak!r}: accepted are {', '.join(pairs)}")
    metrics = {candidate.run_id: candidate.measures(split).trade_off(leak) for candidate in candidates}
    measured = [(candidate, *estimates) for candidate in candidates if (estimates := metrics[candidate.run_id])]
    others = [candidate for candidate in candidates if not metrics[candidate.run_id]]
    failed = tuple(candidate for candidate in others if candidate.reason)
    if not measured:
        raise ConfigError(
            "no network with utility and leakage was found"
            + (f"; {failed[0].name} failed: {failed[0].reason}" if failed else "")
        )
    rows = _rows(measured, split, leak)
    table = (*(row.candidate for row in rows), *failed)
    settings = setting_order(name for candidate in table for name in candidate.settings)
    return Comparison(split, leak, pairs, settings, rows, failed, _notes(split, leak, rows, others))


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


def _rows(networks: list[tuple[Candidate, Estimate, Estimate]], split: str, leak: str) -> tuple[Row, ...]:
    """Candidates with utility and leakage, put in order."""
    trade_offs = [(utility.value, leakage.value) for _, utility, leakage in networks]
    on_front = dict(zip(trade_offs, front(trade_offs), strict=True))
    edge = [trade_off for trade_off, good in on_front.items() if good]

    def rank(network: tuple[Candidate, Estimate, Estimate]) -> tuple[float, float]:
        utility, leakage = network[1].value, network[2].value
        if on_front[utility, leakage]:
            return -1.0, -utility
        return leakage - min(excess for useful, excess in edge if useful >= utility), -utility

    networks = sorted(networks, key=rank)
    choices = [candidate.private for candidate, _, _ in networks]
    best = knee([(utility.value, leakage.value) for _, utility, leakage in networks], choices)
    return tuple(
        Row(
            number=place + 1,
            candidate=candidate,
            utility=utility,
            leakage=leakage,
            test=candidate.test.trade_off(leak) if split != "test" else None,
            on_front=on_front[utility.value, leakage.value],
            knee=place == best,
        )
        for place, (candidate, utility, leakage) in enumerate(networks)
    )


def _notes(split: str, leak: str, rows: Sequence[Row], others: Sequence[Candidate]) -> tuple[str, ...]:
    """What a reader should know of how the figures came about."""
    notes = []
    floors = {name: floor for row in rows for name, floor in row.candidate.measures(split).floors.items()}
    if floors:
        told = in_words([f"{name} {points(floor)}" for name, floor in floors.items()])
        notes.append(f"The floor, what the true target label alone gives away, in points: {told}.")
    if split == "test":
        notes.append("No run has validation figures: these are of the test split, and choosing by them spends it.")
    tested = sum(candidate.test.trade_off(leak) is not None for candidate in others)
    if tested:
        notes.append(f"{count(tested, 'run')} with test figures only left out, as others have validation figures.")
    if not leak and len({tuple(row.candidate.measures(split).pairs) for row in rows}) > 1:
        notes.append("Not all were attacked at the same taps and attributes: their worst leaks compare badly.")
    running = sum(candidate.status == "RUNNING" and not candidate.reason for candidate in others)
    if running:
        notes.append(f"{count(running, 'run')} still going and not shown.")
    if not any(row.knee for row in rows):
        notes.append(NO_KNEE)
    return tuple(notes)
