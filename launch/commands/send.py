"""`privatenet send`: tell MLflow what it was not told while it was away."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from privatenet.distributed.config import ConfigError
from privatenet.distributed.tracking.outbox import OUTBOX, find


def main(argv: Sequence[str]) -> int:
    """Send what waits below the folders that `argv` names; returns the exit code."""
    try:
        folders = [Path(name) for name in parser().parse_args(argv).folders]
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    found = find(folders)
    if not found:
        raise ConfigError(f"{', '.join(map(str, folders))}: there is no {OUTBOX} here or below")
    from privatenet.distributed.tracking.tracker import deliver

    for folder in found:
        count = deliver(folder)
        print(f"{folder}  {f'sent {count}' if count else 'nothing waits'}")
    return 0


def parser() -> ArgumentParser:
    built = ArgumentParser(
        prog="privatenet send",
        description="Send what runs had to say to MLflow while its server was away: figures, files, how they ended.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    built.add_argument("folders", nargs="+", metavar="FOLDER", help="Folder of a run, or any folder above runs.")
    return built
