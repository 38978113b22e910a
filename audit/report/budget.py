"""What a trusted budget buys, as a chart and as a table."""

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from privatenet.audit.certificate.words import at_most
from privatenet.audit.export.budget import BudgetRow
from privatenet.audit.report import style
from privatenet.audit.report.text import DASH, percent, with_interval

COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.RED, style.INK)
MARKERS = {"enclave": "o", "split": "D", "whole": "s"}


@style.rc
def budget_chart(rows: Sequence[BudgetRow]) -> Figure:
    """Memory of the trusted part against what is read, a panel for each attribute: a budget is a vertical line."""
    attributes = list(dict.fromkeys(row.attribute for row in rows if row.attribute))
    networks = list(dict.fromkeys(row.network for row in rows if row.attribute))
    figure = Figure(figsize=(style.WIDTH, 0.9 + 2.4 * len(attributes)))
    panels = figure.subplots(len(attributes), 1, squeeze=False, sharex=True)[:, 0]
    for axes, attribute in zip(panels, attributes, strict=True):
        for colour, network in zip(COLOURS * len(networks), networks, strict=False):
            _draw(axes, [row for row in rows if (row.network, row.attribute) == (network, attribute)], colour)
            axes.plot([], [], color=colour, label=network)
        for floor in {row.floor for row in rows if row.attribute == attribute and row.floor is not None}:
            axes.axhline(100 * floor, color=style.INK, linewidth=1, linestyle=style.DOTS)
        axes.set_xscale("log")
        axes.margins(x=0.15)  # room for names
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.set_ylabel(f"{style.shorten(attribute)} read, %")
        axes.grid()
    panels[-1].set_xlabel("memory of the trusted part in int8, MB")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4)
    return figure


def budget_tables(rows: Sequence[BudgetRow]) -> Iterator[Table]:
    """A table for each network: its cuts, the smallest trusted part first."""
    for network in dict.fromkeys(row.network for row in rows):
        own = sorted((row for row in rows if row.network == network), key=lambda row: row.int8_mb)
        utility = f", utility {percent(own[0].utility.value)} %" if own[0].utility else ""
        table = Table(box=SIMPLE_HEAD, show_edge=False, title=Text(f"{network}{utility}"), title_justify="left")
        for place, heading in enumerate(("sees", "fp32, MB", "int8, MB", "attribute", "read", "at most")):
            table.add_column(heading, justify="right" if place in (1, 2) else "left", no_wrap=True)
        for row in own:
            table.add_row(*(Text(cell) for cell in _cells(row)))
        yield table


def _cells(row: BudgetRow) -> Iterator[str]:
    yield from (row.tap, f"{row.fp32_mb:.2f}", f"{row.int8_mb:.2f}", row.attribute or DASH)
    yield with_interval(row.read, percent, " %") if row.read else DASH
    yield at_most(row.certified) if row.certified is not None else DASH


def _draw(axes: Axes, rows: Sequence[BudgetRow], colour: str) -> None:
    read = [row for row in rows if row.read]
    for row in read:
        assert row.read
        axes.errorbar(
            [row.int8_mb], [100 * row.read.value], style.error_bar(row.read), fmt=MARKERS[row.deployment], color=colour
        )
        place = (row.int8_mb, 100 * row.read.value)
        axes.annotate(row.tap, place, (4, 4), textcoords="offset points", fontsize=7).set_in_layout(False)
    for row in rows:
        if row.certified is not None:
            axes.plot([row.int8_mb], [100 * row.certified], "_", markersize=12, color=colour)
