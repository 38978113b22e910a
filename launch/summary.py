"""Results of a run as tables on the terminal, and where its files are."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config
from privatenet.distributed.tracking.store import MLFLOW
from privatenet.distributed.tracking.tracker import tracking_uri

Scores = Mapping[str, Mapping[str, float]]


def show_stage(checkpoint: Checkpoint) -> None:
    """Print the test scores of one stage, from its final checkpoint."""
    table = Table(title=f"{checkpoint.folder.parent}, test split")
    table.add_column("predicts")
    for heading in ("accuracy", "balanced", "majority", "samples"):
        table.add_column(heading, justify="right")
    for head, score in checkpoint.state["test"].items():
        table.add_row(
            head,
            *(_percent(score[key]) for key in ("accuracy", "balanced_accuracy", "majority")),
            str(score["samples"]),
        )
    Console().print(table)
    warn_of_batches(checkpoint)
    print(f"checkpoint  {checkpoint.folder}")


def show_all(checkpoints: Mapping[str, Checkpoint], config: Config) -> None:
    """Print utility and leakage of a whole run side by side, from its checkpoints by stage, and where its files are."""
    tests: dict[str, Scores] = {name: checkpoint.state["test"] for name, checkpoint in checkpoints.items()}
    target = checkpoints["target"].state["schema"]["target"]
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
    for pair, score in {**tests["unknown"], **tests["known"]}.items():
        cells = [_cell(tests[name].get(pair)) for name in ("known", "private", "unknown")]
        leakage.add_row(pair + (" *" if pair in protected else ""), _percent(score["majority"]), *cells)
    console = Console(width=max(80, Console().width))
    console.print(utility)
    console.print(leakage)
    warn_of_batches(checkpoints["target"])
    output = Path(config.output)
    print(f"models   {output}/target/final  {output}/private/final")
    _show_runs(config)


def show_reproduction(config: Config) -> None:
    """Print where the files of a reproduction of the paper are."""
    output = Path(config.output)
    print(f"models   {output}/*/final  {output}/*/private/final")
    print(f"figures  {output}/reproduction.md  {output}/reproduction.json")
    _show_runs(config)


def _show_runs(config: Config) -> None:
    if MLFLOW:
        uri = tracking_uri(config.tracking, Path(config.output) / "target")
        print(f"runs     {uri}\nto open  mlflow ui --backend-store-uri {uri}")


def warn_of_batches(checkpoint: Checkpoint) -> None:
    """Print a warning where figures depend on which pictures happened to share a batch."""
    if checkpoint.state["spec"]["affinity"] == "batch":
        print("affinity: batch, as in the paper: each picture's answer depends on its batch, and so do these figures")


def _cell(score: Mapping[str, float] | None) -> str:
    return "-" if score is None else f"{_percent(score['accuracy'])} ({_percent(score['balanced_accuracy'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
