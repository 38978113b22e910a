"""The tables of speed.md: `python docs/speed.py` fills them in from benchmarks/results/*.json."""

import json
import re
from pathlib import Path

from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.report import spread

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """`text` with the table of each result between its marks."""
    return MARKED.sub(lambda match: f"{match[1]}{_table(match[2])}\n{match[3]}", text)


def _table(name: str) -> str:
    bench = json.loads((RESULTS / f"{name}.json").read_text())
    machine = bench["machine"]
    where = ", ".join([*machine.get("gpus", ()), f"{machine['processor']}, {machine['cores']} cores"])
    lines = [f"{where}, torch {machine['torch']}; {bench['privatenet']}.", ""]
    lines += ["| figure | measured | of its limit | limit |", "|---|---:|---:|---|"]
    for figure in map(Figure.from_dict, bench["figures"]):
        share = spread(figure.share) if figure.share else ""
        lines.append(f"| {figure.name} | {spread(figure.value)} {figure.unit} | {share} | {figure.limit} |")
    return "\n".join([*lines, *(f"\n{note}" for note in bench["notes"])])


if __name__ == "__main__":
    page = HERE / "speed.md"
    page.write_text(filled(page.read_text()))
