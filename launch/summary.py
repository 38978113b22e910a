"""What was reached, as tables on the terminal, and where it is."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config
from privatenet.distributed.tracking.store import MLFLOW
from privatenet.distributed.tracking.tracker import tracking_uri

Scores = Mapping[str, Mapping[str, float]]


def show_part(part: Checkpoint) -> None:
    """Print the test scores of one part."""
    table = Table(title=f"{part.folder.parent}, test split")
    table.add_column("predicts")
    for heading in ("accuracy", "balanced", "majority", "samples"):
        table.add_column(heading, justify="right")
    for head, score in part.state["test"].items():
        table.add_row(
            head,
            *(_percent(score[key]) for key in ("accuracy", "balanced_accuracy", "majority")),
            str(score["samples"]),
        )
    Console().print(table)
    warn_of_batches(part)
    print(f"checkpoint  {part.folder}")


def show_all(parts: Mapping[str, Checkpoint], config: Config) -> None:
    """Print utility and leakage of a whole run side by side, and where everything is."""
    tests: dict[str, Scores] = {name: part.state["test"] for name, part in parts.items()}
    target = parts["target"].state["schema"]["target"]
    utility = Table(title=f"Utility: {target}, test split, %")
    for heading in ("network", "accuracy", "balanced", "majority"):
        utility.add_column(heading, justify="left" if heading == "network" else "right")
    for name, label in (("target", "unprotected"), ("private", "private")):
        score = tests[name][target]
        utility.add_row(label, *(_percent(score[key]) for key in ("accuracy", "balanced_accuracy", "majority")))
    leakage = Table(
        title="Leakage: accuracy of the adversaries (balanced accuracy), test split, %",
        caption="* protected. On the private network: known, the adversary it was trained against; unknown, a new one.",
    )
    leakage.add_column("tap-attribute", no_wrap=True)
    for heading in ("majority", "unprotected", "known", "unknown"):
        leakage.add_column(heading, justify="right", no_wrap=True)
    protected = config.protect.pairs
    for pair, score in tests["known"].items():
        cells = [_cell(tests[name].get(pair)) for name in ("private", "unknown")]
        leakage.add_row(pair + (" *" if pair in protected else ""), _percent(score["majority"]), _cell(score), *cells)
    console = Console(width=max(80, Console().width))
    console.print(utility)
    console.print(leakage)
    warn_of_batches(parts["target"])
    output = Path(config.output)
    print(f"models   {output}/target/final  {output}/private/final")
    _show_runs(config)


def show_reproduction(config: Config) -> None:
    """Print where a reproduction of the paper has left everything."""
    output = Path(config.output)
    print(f"models   {output}/*/final  {output}/*/private/final")
    print(f"figures  {output}/reproduction.md  {output}/reproduction.json")
    _show_runs(config)


def _show_runs(config: Config) -> None:
    if MLFLOW:
        uri = tracking_uri(config.tracking, Path(config.output) / "target")
        print(f"runs     {uri}\nto open  mlflow ui --backend-store-uri {uri}")


def warn_of_batches(part: Checkpoint) -> None:
    """Say so where figures depend on which pictures happened to share a batch."""
    if part.state["spec"]["affinity"] == "batch":
        print("affinity: batch, as in the paper: each picture's answer depends on its batch, and so do these figures")


def _cell(score: Mapping[str, float] | None) -> str:
    return "-" if score is None else f"{_percent(score['accuracy'])} ({_percent(score['balanced_accuracy'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
