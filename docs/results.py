"""The figures of results.md: `python docs/results.py add TABLE.csv NETWORK SEED AUDIT.json` adds the rows of an audit,
`python docs/results.py chart TABLE.csv` draws them beside it."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from privatenet.audit.attack.findings import Findings, read_findings
from privatenet.audit.report import style

COLUMNS = (
    "network", "seed", "attribute", "tap", "utility", "utility_low", "utility_high", "majority", "floor", "read", "low",
    "high", "attacker", "sees", "faces", "left", "left_low", "left_high", "certified",
)  # fmt: skip
SENT = {"label": ("label", 1), "release": ("split", 1), "release_x10": ("split", 10)}
"""What is certified, by tap: deployment and number of releases."""
PANELS = {
    "backbone": "enclave: backbone",
    "release": "split: one release",
    "release_x10": "split: ten releases",
    "label": "the label alone",
}
LOOKS = "os^DvP*Xhp<>"
COLOURS = (style.ORANGE, style.BLUE, style.GREEN, style.PURPLE, style.RED, style.INK, "#56B4E9", style.QUIET)


def rows(network: str, seed: str, findings: Findings) -> Iterator[dict[str, str]]:
    """A row for every tap and attribute of an audited network."""
    audited = findings.audited
    bounds = {
        (row.attribute, row.deployment, row.certificate.releases): row.certificate.bound for row in audited.certificates
    }
    for leak in audited.leaks:
        best, floor = leak.headline, findings.floor(leak.attribute)
        figures = {
            "utility": audited.utility.value, "utility_low": audited.utility.low, "utility_high": audited.utility.high,
            "majority": leak.majority, "floor": floor and floor.value,
            "read": best.accuracy.value, "low": best.accuracy.low, "high": best.accuracy.high,
            "left": leak.left and leak.left.value, "left_low": leak.left and leak.left.low,
            "left_high": leak.left and leak.left.high,
            "certified": bounds.get((leak.attribute, *SENT[leak.tap])) if leak.tap in SENT else None,
        }  # fmt: skip
        words = {
            "network": network, "seed": seed, "attribute": leak.attribute, "tap": leak.tap,
            "attacker": best.attacker, "sees": best.representation, "faces": best.faces,
        }  # fmt: skip
        yield words | {name: "" if value is None else f"{value:.4g}" for name, value in figures.items()}


def chart(table: list[dict[str, str]]) -> Figure:
    """Utility against what the best attacker reads, and what is certified, by deployment and attribute."""
    attributes, networks = (list(dict.fromkeys(row[key] for row in table)) for key in ("attribute", "network"))
    figure = Figure(figsize=(2.6 * len(PANELS), 2.4 * len(attributes) + 0.9))
    grid = figure.subplots(len(attributes), len(PANELS), sharey=True, sharex="row", squeeze=False)
    for line, attribute in zip(grid, attributes, strict=True):
        for axes, (tap, title) in zip(line, PANELS.items(), strict=True):
            some = [row for row in table if (row["attribute"], row["tap"]) == (attribute, tap)]
            for row in some:
                _mark(axes, row, networks.index(row["network"]))
            axes.axvline(100 * float(some[0]["floor"]), color=style.QUIET, linestyle=style.DASHES, linewidth=1)
            axes.set_title(f"{attribute}\n{title}" if axes is line[0] else f"\n{title}", fontsize=9)
            axes.grid()
        line[0].set_ylabel("utility, %")
    for axes in grid[-1]:
        axes.set_xlabel("read, or certified, %")
    for place, network in enumerate(networks):
        grid[0][0].plot([], [], LOOKS[place], color=COLOURS[place % len(COLOURS)], label=network)
    grid[0][0].plot([], [], "|", color=style.INK, markersize=9, label="certified: no adversary reads more")
    grid[0][0].plot([], [], color=style.QUIET, linestyle=style.DASHES, label="floor: the true emotion alone")
    figure.legend(loc="outside lower left", ncols=3)
    return figure


def _mark(axes: Axes, row: dict[str, str], place: int) -> None:
    colour, utility = COLOURS[place % len(COLOURS)], 100 * float(row["utility"])
    axes.plot(100 * float(row["read"]), utility, LOOKS[place], color=colour, markersize=5)
    if row["certified"]:
        axes.plot(100 * float(row["certified"]), utility, "|", color=colour, markersize=9)


def main() -> None:
    if sys.argv[1] == "add":
        table, network, seed, audit = sys.argv[2:]
        with Path(table).open("a", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            if not stream.tell():
                writer.writeheader()
            writer.writerows(rows(network, seed, read_findings(Path(audit))))
    else:
        table = Path(sys.argv[2])
        with table.open(newline="") as stream:
            figure = style.rc(chart)(list(csv.DictReader(stream)))
        figure.savefig(table.with_suffix(".png"), dpi=160, facecolor="white")


if __name__ == "__main__":
    main()
