"""`privatenet send`: send MLflow what waits since it was away."""

import os
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from privatenet.data_shards.uri import Uri
from privatenet.distributed.arguments import parse_arguments
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.tracking import outbox


def main(argv: Sequence[str]) -> int:
    """Send what waits below the folders that `argv` names; returns the exit code."""
    values = parse_arguments(parser(), argv)
    roots = {folder: Path(root) for root in values.folders for folder in outbox.find([Path(root)])}
    if not roots:
        raise ConfigError(f"{', '.join(values.folders)}: there is no {outbox.OUTBOX} here or below")
    uri: Uri = values["tracking.uri"]
    stores = {sent.uri for folder in roots if (sent := outbox.read_sent(folder))}
    if uri and uri not in stores:
        raise ConfigError(f"tracking.uri: nothing waits for {uri}: accepted are {', '.join(sorted(stores))}")
    named = {uri, Uri(os.environ.get("MLFLOW_TRACKING_URI", ""))}
    if unnamed := sorted(store for store in stores - named if outbox.is_server(store)):
        raise ConfigError(
            f"{', '.join(values.folders)}: asks to send to {', '.join(unnamed)}, which you have not named: "
            f"add --uri {unnamed[0]} if that is your server"
        )
    from privatenet.distributed.tracking.sender import deliver

    for folder, root in roots.items():
        count = deliver(folder, uri=uri, root=root)
        print(f"{folder}  {f'sent {count}' if count else 'nothing waits'}")
    return 0


def parser() -> ArgumentParser:
    built = ArgumentParser(
        prog="privatenet send",
        description="Send what runs had to report to MLflow while its server was away: metrics, files, how they ended.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    built.add_argument("folders", nargs="+", metavar="FOLDER", help="Folder of a run, or any folder above runs.")
    help_text = "Address of the server, with the name and password for it, which are in no folder."
    built.add_argument("--tracking.uri", "--uri", default=Uri(), type=Uri, help=help_text)
    return built
