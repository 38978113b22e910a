"""`privatenet compare`: networks of many runs by utility and leakage, and the one to keep as a registered model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from privatenet.data_shards.uri import Uri
from privatenet.distributed.arguments import parse_arguments
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.tracking.outbox import read_sent

if TYPE_CHECKING:
    from privatenet.distributed.tracking.store import TrackedRun


def main(argv: Sequence[str]) -> int:
    """Compare the runs that `argv` names and, if asked, register one; returns the exit code."""
    values = parse_arguments(parser(), argv)
    if values.pick != "knee" and not values.register:
        raise ConfigError("pick: is for a model to register: give --register NAME, too")
    folder = Path(values.output)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: {folder} is no folder")
    # Torch and matplotlib take seconds to import: not before the arguments are known to be good.
    from privatenet.distributed.tracking.store import find_runs
    from privatenet.tune.compare.front import pick
    from privatenet.tune.compare.report import compare
    from privatenet.tune.compare.tracked import candidates

    uri, runs, stores = values["tracking.uri"], {}, {}
    for name in values.runs:
        receipt = read_sent(Path(name))
        for run in find_runs(uri, [name]):
            runs[run.run_id], stores[run.run_id] = run, receipt.uri if receipt and receipt.uri != uri else uri
    networks = candidates(list(runs.values()))
    comparison = compare(networks, folder, values.leak, ", ".join(dict.fromkeys(stores.values())))
    print(f"page     {folder / 'compare.html'}\ntable    {folder / 'front.csv'}\nchart    {folder / 'front.png'}")
    if values.register:
        run_id = pick(comparison, values.pick).run_id
        _register(stores[run_id], runs[run_id], values.register, values.alias)
    return 0


def parser() -> ArgumentParser:
    arguments = ArgumentParser(
        prog="privatenet compare",
        description="Set networks beside each other by utility and leakage: which are worth choosing from, where the "
        "trade-off turns, and which settings matter. Leaves a page, a table and a picture.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    arguments.add_argument(
        "runs", nargs="+", metavar="RUN", help="MLflow experiments, ids of runs, or folders of runs or sweeps."
    )
    arguments.add_argument(
        "--tracking.uri",
        "--uri",
        default=Uri(),
        type=Uri,
        help="MLflow server or store; a folder brings its own, but not the name and password for it.",
    )
    arguments.add_argument("--output", default="compare", type=str, help="Folder of what is written.")
    arguments.add_argument(
        "--leak",
        default="",
        type=str,
        help="Tap-attribute pair to judge by, such as backbone-gender; empty: the worst.",
    )
    arguments.add_argument(
        "--register", default="", type=str, help="Name of the MLflow model to register one network as."
    )
    arguments.add_argument(
        "--pick", default="knee", type=str, help="Which one: knee, which is private, or its number in the table."
    )
    arguments.add_argument("--alias", default="chosen", type=str, help="Alias of the registered version.")
    return arguments


def _register(uri: Uri, run: "TrackedRun", name: str, alias: str) -> None:
    """Register the network of a run, whose checkpoint is on this machine, and say how to load it."""
    from privatenet.distributed import checkpoint
    from privatenet.distributed.stages.trained import load_network
    from privatenet.distributed.tracking.registry import register

    folder = run.tags.get("checkpoint")
    if not folder:
        raise ConfigError(f"register: run {run.run_id} ({run.name}) says nothing of a checkpoint")
    network = load_network(checkpoint.load(Path(folder)))
    version = register(uri, run, name, alias, network, network.spec.image_size)
    print(f"model    {name}, version {version}, alias {alias}: {run.name}")
    print(f"store    {uri}")
    print(f'load it  mlflow.pytorch.load_model("models:/{name}@{alias}")')
