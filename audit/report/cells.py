"""One form of a table, written as Markdown, or by a page as HTML.

`where` of a cell is the place of its value in a JSON file, in audit.json for example `networks.0.leaks.2.majority`.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.report.text import DASH, interval, markdown, percent


@dataclass(frozen=True)
class Cell:
    """A cell: its text, the text of its interval, and its value in full with the value's place (`where`)."""

    text: str
    interval: str = ""
    value: Estimate | float | None = None
    where: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first `headers` cells of a row say what the row is about, the others are values or notes."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    headers: int = 1

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, which are set to the right."""
        return any(row[column].value is not None for row in self.rows)


def markdown_table(table: Table) -> str:
    """A Markdown table without its caption."""
    rule = ["---:" if table.numeric(index) else "---" for index in range(len(table.columns))]
    lines = [list(map(markdown, table.columns)), rule, *([markdown(str(cell)) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


DASH_CELL = Cell(DASH)


def share_cell(share: float, where: str, show: Callable[[float], str] = percent) -> Cell:
    return Cell(show(share), value=share, where=where)


def estimate_cell(estimate: Estimate, where: str, show: Callable[[float], str] = percent) -> Cell:
    ends = interval(estimate, show)
    return Cell(show(estimate.value), "" if ends == DASH else ends, estimate, where)


def without_empty(table: Table) -> Table:
    """Without columns whose cells are all empty."""
    columns = [
        index
        for index in range(len(table.columns))
        if not table.rows or any(row[index].text not in ("", DASH) for row in table.rows)
    ]
    rows = tuple(tuple(row[index] for index in columns) for row in table.rows)
    return dataclasses.replace(table, columns=tuple(table.columns[index] for index in columns), rows=rows)
