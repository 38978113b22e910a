"""A reproduction beside the paper's own figures, as tables: in Markdown, and on a terminal of 80 columns."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.paper import published
from privatenet.audit.paper.reproduction import Adversary, PrivateNetwork, Reproduction, robustness
from privatenet.audit.report.tables import Cell, Table, markdown_table
from privatenet.audit.report.text import DASH, interval, markdown, number, percent, points

NONE = Cell(DASH)


def markdown_page(found: Reproduction) -> str:
    """Everything that was found, as one Markdown document; its chart is in figures/ beside it."""
    lines = [
        f"# The paper's tables on {markdown(found.dataset)}",
        "",
        "Li and Cavallaro, *Training privacy-preserving video analytics pipelines by suppressing features that reveal "
        "information about private attributes*, ICASSP 2022. Accuracies are of the test split, in %, with Wilson's "
        "95 % interval; excess is accuracy above the majority class, in points; robustness is the change against the "
        "adversary on the unprotected network, in % of its accuracy.",
        "",
        f"Data set {markdown(found.dataset)}, fingerprint `{found.fingerprint}`; privatenet {found.package}.",
        "",
        "## What stands against a comparison",
        "",
        *(f"- {markdown(note)}" for note in found.notes),
    ]
    for table in tables(found):
        lines += ["", f"## {markdown(table.caption)}", "", markdown_table(table)]
        if table.caption.startswith("Fig. 2"):
            lines += ["", "![utility and adversaries against lambda](figures/lambda.svg)"]
    return "\n".join(lines) + "\n"


def print_tables(found: Reproduction, console: Console | None = None) -> None:
    """Print all tables and notes; they fit 80 columns."""
    console = console or Console(width=max(80, Console().width))
    for table in tables(found, folded=True):
        console.print(_rich(table))
    console.print(Text("excess: over the majority class, in points; robust.: the paper's robustness, in %"))
    for note in found.notes:
        console.print(Text(f"- {note}"))


def tables(found: Reproduction, folded: bool = False) -> tuple[Table, ...]:
    """Tables 1 and 2, Fig. 2 where there is a sweep, and Table 3; `folded`, networks' names go over several rows."""
    shown = [table_1(found), table_2(found, folded)]
    shown += [fig_2(found)] if found.sweep else []
    return (*shown, table_3(found))


def table_1(found: Reproduction) -> Table:
    """Adversaries on the unprotected network and on the picture."""
    rows = [
        (
            Cell(seen.attribute),
            Cell(seen.tap),
            *_adversary(seen),
            _printed(published.ADVERSARIES.get((seen.tap, seen.attribute))),
            _printed(published.MAJORITY.get(seen.attribute)),
        )
        for seen in found.unprotected
    ]
    columns = ("attribute", "tap", "adversary, %", "major.", "excess", "paper", "its major.")
    return Table("Table 1: adversaries on the unprotected network", columns, tuple(rows), headers=2)


def table_2(found: Reproduction, folded: bool = False) -> Table:
    """Private networks: utility, known and unknown adversary, and the paper's own."""
    rows = [(Cell("unprotected"), *_utility(found, found.utility), NONE, NONE)]
    for network in found.networks:
        hidden = network.unknown
        words = (network.objective, hidden.tap, hidden.attribute)
        printed = published.NETWORKS.get(words, published.Row(None, None, None))
        reference = published.ADVERSARIES.get((hidden.tap, hidden.attribute))
        beside = [
            (_printed(printed.utility), NONE),
            *((_printed(value), _change(robustness(value, reference))) for value in (printed.known, printed.unknown)),
        ]
        names = words if folded else (network.name,) * 3
        for name, own, other in zip(names, _three(found, network), beside, strict=True):
            rows.append((Cell(name), *own, *other))
    columns = ("network", "of", "accuracy, %", "major.", "excess", "robust.", "paper", "robust.")
    return Table(f"Table 2: private networks, {found.target}", columns, tuple(rows), headers=2)


def fig_2(found: Reproduction) -> Table:
    """Utility and adversaries by lambda. (The paper's points are in a drawing only.)"""
    rows = []
    for network in found.sweep:
        names = (f"{network.lambda_:g}", "", "")
        rows += [(Cell(name), *own) for name, own in zip(names, _three(found, network), strict=True)]
    hidden = found.sweep[0].unknown
    columns = ("lambda", "of", "accuracy, %", "major.", "excess", "robust.")
    return Table(f"Fig. 2: confusion at {hidden.tap}, {hidden.attribute}, by lambda", columns, tuple(rows), headers=2)


def table_3(found: Reproduction) -> Table:
    """Inference of one picture."""
    rows = []
    for place, timed in enumerate(found.latencies):
        printed = published.LATENCIES["private" if place else "unprotected"]
        cells = (Cell(number(value), figure=value) for value in (timed.mean, timed.deviation))
        rows.append((Cell(timed.network), *cells, Cell(printed)))
    repetitions = found.latencies[0].repetitions
    columns = ("network", "mean, ms", "deviation", "paper (V100)")
    return Table(f"Table 3: one picture, {repetitions} times, {found.timed_on}", columns, tuple(rows))


def _three(found: Reproduction, network: PrivateNetwork) -> tuple[tuple[Cell, ...], ...]:
    """A private network's own figures, in rows: utility, known adversary, unknown adversary."""
    return (
        _utility(found, network.utility),
        (Cell("known"), *_adversary(network.known), _change(network.known_robustness)),
        (Cell("unknown"), *_adversary(network.unknown), _change(network.unknown_robustness)),
    )


def _utility(found: Reproduction, utility: Estimate) -> tuple[Cell, ...]:
    excess = utility.value - found.utility_majority
    return (Cell("utility"), _accuracy(utility), _share(found.utility_majority), _points(excess), NONE)


def _adversary(seen: Adversary) -> tuple[Cell, ...]:
    return (_accuracy(seen.accuracy), _share(seen.majority), _points(seen.excess))


def _accuracy(estimate: Estimate) -> Cell:
    ends = interval(estimate)
    return Cell(percent(estimate.value), "" if ends == DASH else ends, estimate)


def _share(share: float) -> Cell:
    return Cell(percent(share), figure=share)


def _points(share: float) -> Cell:
    return Cell(points(share), figure=share)


def _change(robustness: float | None) -> Cell:
    """Robustness in percent, or a dash."""
    return NONE if robustness is None else _points(robustness)


def _printed(value: float | None) -> Cell:
    """A figure of the paper as it stands there, or a dash."""
    return NONE if value is None else Cell(number(value), figure=value)


def _rich(table: Table) -> RichTable:
    shown = RichTable(
        title=table.caption, title_justify="left", box=SIMPLE_HEAD, padding=0, collapse_padding=True, pad_edge=False
    )
    for index, name in enumerate(table.columns):
        numeric = table.numeric(index)
        shown.add_column(name, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    return shown
