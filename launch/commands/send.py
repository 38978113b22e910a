"""`privatenet send`: send MLflow what waits since it was away."""

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
    folders = outbox.find(map(Path, values.folders))
    if not folders:
        raise ConfigError(f"{', '.join(values.folders)}: there is no {outbox.OUTBOX} here or below")
    uri: Uri = values["tracking.uri"]
    stores = {sent.uri for folder in folders if (sent := outbox.read_sent(folder))}
    if uri and uri not in stores:
        raise ConfigError(f"tracking.uri: nothing waits for {uri}: accepted are {', '.join(sorted(stores))}")
    from privatenet.distributed.tracking.sender import deliver

    for folder in folders:
        count = deliver(folder, uri=uri)
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
    help_text = "Address of the server with the name and password for it, which are in no folder."
    built.add_argument("--tracking.uri", "--uri", default=Uri(), type=Uri, help=help_text)
    return built
