"""What a run reports to MLflow, in its folder: a file of messages that only grows, and how many of them were sent.

<run>/mlflow-outbox.jsonl    one message a line
<run>/mlflow.json            the store, without credentials, the run's id there, and the number of messages sent
"""

import fcntl
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from privatenet.data_shards import records
from privatenet.data_shards.uri import Uri, scrub
from privatenet.distributed.errors import ConfigError

OUTBOX = "mlflow-outbox.jsonl"
SENT = "mlflow.json"
WAIT_S = 30.0
"""For another process that sends the same outbox."""


@dataclass(frozen=True)
class CreateRun:
    """Make the run.

    A trial's run is found again, by its parent and the tags that `identity` names, and set to running if `reopen`.
    `artifacts` is the URI under which a new experiment keeps its files; empty: where the store does.
    """

    experiment: str
    artifacts: str
    name: str
    tags: dict[str, str]
    identity: tuple[str, ...] = ()
    reopen: bool = True
    time_s: float = field(default_factory=time.time)


@dataclass(frozen=True)
class LogParams:
    """Set parameters; those that the run has already stay as they are."""

    values: dict[str, str]


@dataclass(frozen=True)
class SetTags:
    values: dict[str, str]


@dataclass(frozen=True)
class LogMetrics:
    values: dict[str, float]
    epoch: int
    time_s: float


@dataclass(frozen=True)
class LogDataset:
    """Record the data set that the run was trained on; `digest` has at most 36 characters."""

    name: str
    source: str
    digest: str


@dataclass(frozen=True)
class LogFiles:
    """Copy a file, or a folder under its name, to the run; `path` is relative to the outbox's folder."""

    path: str


@dataclass(frozen=True)
class SetStatus:
    """RUNNING, FINISHED, FAILED or KILLED."""

    status: str
    time_s: float = field(default_factory=time.time)


Message = CreateRun | LogParams | SetTags | LogMetrics | LogDataset | LogFiles | SetStatus

KINDS: dict[str, type[Message]] = {
    "run": CreateRun,
    "params": LogParams,
    "tags": SetTags,
    "metrics": LogMetrics,
    "dataset": LogDataset,
    "files": LogFiles,
    "status": SetStatus,
}


@dataclass(frozen=True)
class Sent:
    """To which store, as which run (empty: there is none yet), and how many messages were sent."""

    uri: Uri
    run_id: str = ""
    messages: int = 0


def kind(message: Message) -> str:
    """The word for a message in the file and to people."""
    return next(name for name, each in KINDS.items() if isinstance(message, each))


def encode(message: Message) -> str:
    """One line, without the credentials of any URI in it: a failure's reason or a git remote may hold some."""
    return scrub(json.dumps({"kind": kind(message), **asdict(message)}))


def decode(line: bytes, origin: object = OUTBOX) -> Message:
    """The inverse of `encode`. Raises `ConfigError` for a line that is no message."""
    word = records.decode(_KIND, line, origin, "message", ConfigError).kind
    message: Message = records.decode(_MESSAGES[word], line, origin, f"message of {word}", ConfigError)
    return message


@dataclass(frozen=True)
class _Kind:
    kind: Literal["run", "params", "tags", "metrics", "dataset", "files", "status"]


@dataclass(frozen=True)
class _SentFile:
    """mlflow.json."""

    run_id: str
    uri: str
    sent: records.Count = 0


_KIND, _SENT = TypeAdapter(_Kind), TypeAdapter(_SentFile)
_MESSAGES: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(each) for name, each in KINDS.items()}


def read_sent(folder: Path) -> Sent | None:
    """How far the outbox in `folder` was sent; none if there was never one. Raises `ConfigError`."""
    path = folder / SENT
    if not path.exists():
        return None
    written = records.read(_SENT, path, "record of what was sent", ConfigError)
    return Sent(Uri(written.uri), written.run_id, written.sent)


def write_sent(folder: Path, sent: Sent) -> None:
    records.write(_SENT, _SentFile(sent.run_id, str(sent.uri), sent.messages), folder / SENT)


def append(folder: Path, message: Message) -> None:
    with (folder / OUTBOX).open("a") as file:
        file.write(encode(message) + "\n")


def read(folder: Path, skip: int = 0) -> list[Message]:
    """The messages after the first `skip`; a last one that is not whole yet is left out."""
    path = folder / OUTBOX
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [decode(line, f"{path}, line {skip + place}") for place, line in enumerate(lines[skip:], 1)]


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Within the block no other process sends what is in the outbox. Raises `ConfigError` where one does for long."""
    path = folder / OUTBOX
    with path.open("ab") as file:  # for writing, without which some network file systems lock nothing
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ConfigError(f"{path} is being sent by another process; try again later") from error
                time.sleep(0.1)
        yield


def is_empty(folder: Path) -> bool:
    path = folder / OUTBOX
    return not (path.is_file() and path.stat().st_size)


def find(folders: Iterable[Path]) -> list[Path]:
    """Folders, at or below those named, that have an outbox; in the order in which these were last written to.

    What was reported of a run from outside, at its end, thus comes after what the run had to report itself.
    """
    outboxes = {path for folder in folders for path in folder.rglob(OUTBOX)}
    return [path.parent for path in sorted(outboxes, key=lambda path: (path.stat().st_mtime_ns, path))]


def is_server(uri: Uri) -> bool:
    """Whether a store is reached over the network, and not a file or folder here."""
    return "://" in uri and not uri.startswith(("sqlite:", "file:"))


def send_command(folder: Path | str, uri: Uri) -> str:
    """What sends the rest: a server is named by whoever sends, as an outbox may come from somebody else."""
    return f"privatenet send {folder}" + (f" --uri {uri}" if is_server(uri) else "")


def remove(folder: Path) -> None:
    for name in (OUTBOX, SENT):
        (folder / name).unlink(missing_ok=True)
