"""What is to be said to MLflow about one run, in its folder: a file that only grows, and how much of it was sent."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privatenet.data_shards.files import replacing

OUTBOX = "mlflow-outbox.jsonl"
SENT = "mlflow.json"

Message = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """To which store, as which run (empty: there is none yet), and how many messages were sent."""

    uri: str
    run_id: str = ""
    messages: int = 0


def read_sent(folder: Path) -> Sent | None:
    """How far the outbox in `folder` was sent; none if there was never one."""
    path = folder / SENT
    if not path.is_file():
        return None
    values = json.loads(path.read_text())
    return Sent(values["uri"], values["run_id"], values.get("sent", 0))


def write_sent(folder: Path, sent: Sent) -> None:
    with replacing(folder / SENT) as stream:
        stream.write((json.dumps({"run_id": sent.run_id, "uri": sent.uri, "sent": sent.messages}) + "\n").encode())


def append(folder: Path, message: Mapping[str, Any]) -> None:
    with (folder / OUTBOX).open("a") as file:
        file.write(json.dumps(message) + "\n")


def read(folder: Path) -> list[Message]:
    """All messages; a last one that is not whole yet is left out."""
    path = folder / OUTBOX
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def find(folders: Iterable[Path]) -> list[Path]:
    """Folders, at or below those named, that have an outbox; in the order in which these were last written to.

    What was said of a run from outside, at its end, thus comes after what the run had to say itself.
    """
    found = {path.parent for folder in folders for path in folder.rglob(OUTBOX)}
    return sorted(found, key=lambda folder: ((folder / OUTBOX).stat().st_mtime_ns, folder))


def mend(folder: Path) -> None:
    """Cut off a last message that a killed process left half written, before others are appended."""
    path = folder / OUTBOX
    if path.is_file():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def remove(folder: Path) -> None:
    for name in (OUTBOX, SENT):
        (folder / name).unlink(missing_ok=True)
