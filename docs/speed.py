"""The tables of speed.md: `python docs/speed.py` fills them in from benchmarks/results/*.json."""

import json
import re
from pathlib import Path
from typing import Any

from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.report import number, spread

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
MACHINES = {
    "two cores": "two-cores", "with AMX": "two-cores-amx", "without bf16": "two-cores-without-bf16", "H200": "h200"
}  # fmt: skip
SUMMARY = {
    "the loop of training, 224 px, against bare steps": (r"stage 224 px \w+: loop", 0.98),
    "the same, 72 px": (r"stage 72 px \w+: loop", 0.95),
    "evaluation, 224 px, against bare forward passes": (r"stage 224 px \w+: evaluation", 0.95),
    "arithmetic of a bare step, 224 px, against the best matrix product": (r"step 224 .* bf16: bare.*arithmetic", 0.9),
    "two ranks against one, 64 pictures shared, 112 px": (r"scale strong, 2 ranks: engine, against one rank", 0.97),
    "the same, against torch's data-parallel training": (r"scale strong, 2 ranks: engine", 1.0),
    "reading shards, against bare decoding": (r"loader, one core: streaming", 0.85),
    "two threads against one": (r"loader, two threads: streaming", 1.8),
    "preparing pictures, 224 px, against the paper's pipeline": (r"loader, one core: kept, augmented, 224 px", 4.0),
    "sharding, against bare reading and writing": (r"sharding, one core: build", 0.5),
    "an audit, against the paper's adversaries": (r"audit \d+ px: whole fleet", 40.0),
    "a sweep of eight trials, against eight runs": (r"sweep: 8 trials", 4.0),
}
"""By what is compared: the figure's name, and the goal. How many times as fast as its limit a figure is."""
MARKED = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """`text` with the table of each result, and of the summary of all, between its marks."""
    return MARKED.sub(
        lambda match: f"{match[1]}{_summary() if match[2] == 'all' else _table(match[2])}\n{match[3]}", text
    )


def _summary() -> str:
    figures = {
        machine: [Figure.from_dict(each) for each in _bench(name)["figures"]] for machine, name in MACHINES.items()
    }
    lines = [f"| how many times as fast | goal | {' | '.join(MACHINES)} |", "|---|---:|" + "---:|" * len(MACHINES)]
    for what, (pattern, goal) in SUMMARY.items():
        cells = []
        for machine in MACHINES:
            shares = [each.share for each in figures[machine] if re.fullmatch(pattern, each.name) and each.share]
            cells.append(number(shares[0].median) if shares else "")
        lines.append(f"| {what} | {number(goal)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _bench(name: str) -> dict[str, Any]:
    bench: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return bench


def _table(name: str) -> str:
    bench = _bench(name)
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
