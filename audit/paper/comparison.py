"""A reproduction beside the paper's own figures, as tables: in Markdown, and on a terminal of 80 columns."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.paper import published
from privatenet.audit.paper.reproduction import Adversary, PrivateNetwork, Reproduction, robustness
from privatenet.audit.report.cells import Cell, Table, markdown_table
from privatenet.audit.report.curves import LambdaMark
from privatenet.audit.report.text import DASH, interval, markdown, number, percent, points

NONE = Cell(DASH)


def markdown_page(reproduction: Reproduction) -> str:
    """The reproduction as one Markdown document; its chart is in figures/ beside it."""
    lines = [
        f"# The paper's tables on {markdown(reproduction.dataset)}",
        "",
        "Li and Cavallaro, *Training privacy-preserving video analytics pipelines by suppressing features that reveal "
        "information about private attributes*, ICASSP 2022. Accuracies are of the test split, in %, with Wilson's "
        "95 % interval; excess is accuracy above the majority class, in points; robustness is the change against the "
        "adversary on the unprotected network, in % of its accuracy.",
        "",
        f"Data set {markdown(reproduction.dataset)}, fingerprint `{reproduction.fingerprint}`; "
        f"privatenet {reproduction.package}.",
        "",
        "## What stands against a comparison",
        "",
        *(f"- {markdown(note)}" for note in reproduction.notes),
    ]
    for table in tables(reproduction):
        lines += ["", f"## {markdown(table.caption)}", "", markdown_table(table)]
        if table.caption.startswith("Fig. 2"):
            lines += ["", "![utility and adversaries against lambda](figures/lambda.svg)"]
    return "\n".join(lines) + "\n"


def print_tables(reproduction: Reproduction, console: Console | None = None) -> None:
    """Print all tables and notes; they fit 80 columns."""
    console = console or Console(width=max(80, Console().width))
    for table in tables(reproduction, folded=True):
        console.print(_rich(table))
    console.print(Text("excess: over the majority class, in points; robust.: the paper's robustness, in %"))
    for note in reproduction.notes:
        console.print(Text(f"- {note}"))


def lambda_marks(reproduction: Reproduction) -> list[LambdaMark]:
    """The sweep over lambda as a curve for a chart."""
    return [LambdaMark(n.lambda_, n.utility, n.known.accuracy, n.unknown.accuracy) for n in reproduction.sweep]


def tables(reproduction: Reproduction, folded: bool = False) -> tuple[Table, ...]:
    """Tables 1 and 2, Fig. 2 where there is a sweep, and Table 3; `folded`, networks' names go over several rows."""
    sweep = (fig_2(reproduction),) if reproduction.sweep else ()
    return (table_1(reproduction), table_2(reproduction, folded), *sweep, table_3(reproduction))


def table_1(reproduction: Reproduction) -> Table:
    """Adversaries on the unprotected network and on the picture."""
    rows = [
        (
            Cell(adversary.attribute),
            Cell(adversary.tap),
            *_adversary(adversary),
            _published(published.ADVERSARIES.get((adversary.tap, adversary.attribute))),
            _published(published.MAJORITY.get(adversary.attribute)),
        )
        for adversary in reproduction.unprotected
    ]
    columns = ("attribute", "tap", "adversary, %", "major.", "excess", "paper", "its major.")
    return Table("Table 1: adversaries on the unprotected network", columns, tuple(rows), headers=2)


def table_2(reproduction: Reproduction, folded: bool = False) -> Table:
    """Private networks: utility, known and unknown adversary, and the paper's own."""
    rows = [(Cell("unprotected"), *_utility(reproduction, reproduction.utility), NONE, NONE)]
    for network in reproduction.networks:
        pair = (network.unknown.tap, network.unknown.attribute)
        paper = published.NETWORKS.get((network.objective, *pair), published.Row(None, None, None))
        reference = published.ADVERSARIES.get(pair)
        beside = [
            (_published(paper.utility), NONE),
            *((_published(value), _change(robustness(value, reference))) for value in (paper.known, paper.unknown)),
        ]
        names = (network.objective, *pair) if folded else (network.name,) * 3
        for name, ours, theirs in zip(names, _three(reproduction, network), beside, strict=True):
            rows.append((Cell(name), *ours, *theirs))
    columns = ("network", "of", "accuracy, %", "major.", "excess", "robust.", "paper", "robust.")
    return Table(f"Table 2: private networks, {reproduction.target}", columns, tuple(rows), headers=2)


def fig_2(reproduction: Reproduction) -> Table:
    """Utility and adversaries by lambda. (The paper's points are in a drawing only.)"""
    rows = []
    for network in reproduction.sweep:
        names = (f"{network.lambda_:g}", "", "")
        rows += [(Cell(name), *cells) for name, cells in zip(names, _three(reproduction, network), strict=True)]
    adversary = reproduction.sweep[0].unknown
    columns = ("lambda", "of", "accuracy, %", "major.", "excess", "robust.")
    return Table(
        f"Fig. 2: confusion at {adversary.tap}, {adversary.attribute}, by lambda", columns, tuple(rows), headers=2
    )


def table_3(reproduction: Reproduction) -> Table:
    """Inference of one picture."""
    rows = []
    for place, latency in enumerate(reproduction.latencies):
        paper = published.LATENCIES["private" if place else "unprotected"]
        cells = (Cell(number(value), value=value) for value in (latency.mean, latency.deviation))
        rows.append((Cell(latency.network), *cells, Cell(paper)))
    repetitions = reproduction.latencies[0].repetitions
    columns = ("network", "mean, ms", "deviation", "paper (V100)")
    return Table(f"Table 3: one picture, {repetitions} times, {reproduction.timed_on}", columns, tuple(rows))


def _three(reproduction: Reproduction, network: PrivateNetwork) -> tuple[tuple[Cell, ...], ...]:
    """Rows of a private network: utility, known adversary, unknown adversary."""
    return (
        _utility(reproduction, network.utility),
        (Cell("known"), *_adversary(network.known), _change(network.known_robustness)),
        (Cell("unknown"), *_adversary(network.unknown), _change(network.unknown_robustness)),
    )


def _utility(reproduction: Reproduction, utility: Estimate) -> tuple[Cell, ...]:
    excess = utility.value - reproduction.utility_majority
    return (Cell("utility"), _accuracy(utility), _share(reproduction.utility_majority), _points(excess), NONE)


def _adversary(adversary: Adversary) -> tuple[Cell, ...]:
    return (_accuracy(adversary.accuracy), _share(adversary.majority), _points(adversary.excess))


def _accuracy(estimate: Estimate) -> Cell:
    ends = interval(estimate)
    return Cell(percent(estimate.value), "" if ends == DASH else ends, estimate)


def _share(share: float) -> Cell:
    return Cell(percent(share), value=share)


def _points(share: float) -> Cell:
    return Cell(points(share), value=share)


def _change(robustness: float | None) -> Cell:
    """Robustness in percent, or a dash."""
    return NONE if robustness is None else _points(robustness)


def _published(value: float | None) -> Cell:
    """A figure of the paper as it stands there, or a dash."""
    return NONE if value is None else Cell(number(value), value=value)


def _rich(table: Table) -> RichTable:
    terminal = RichTable(
        title=table.caption, title_justify="left", box=SIMPLE_HEAD, padding=0, collapse_padding=True, pad_edge=False
    )
    for index, name in enumerate(table.columns):
        numeric = table.numeric(index)
        terminal.add_column(name, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in table.rows:
        terminal.add_row(*(Text(str(cell)) for cell in row))
    return terminal
