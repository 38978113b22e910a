"""The way of a run's messages: from the outbox in its folder to the store, in order, in pauses where that is away."""

import time
from collections.abc import Sequence
from pathlib import Path

from privatenet.data_shards.files import cut_unfinished_line
from privatenet.data_shards.uri import Uri
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.progress import Say
from privatenet.distributed.tracking import outbox, store
from privatenet.distributed.tracking.outbox import Message, Sent, SetStatus

PAUSE_S = 30
PAUSE_FACTOR = 20


class Sender:
    """Sends one run's messages: to the outbox in `folder` at once, to the store `uri` while that answers."""

    def __init__(self, folder: Path, uri: Uri, say: Say) -> None:
        self.folder, self.uri, self.say = folder, uri, say
        self.lost = False
        self.retry_at = 0.0

    @property
    def run_id(self) -> str:
        sent = outbox.read_sent(self.folder)
        return sent.run_id if sent else ""

    def prepare(self, first: Sequence[Message]) -> Sent:
        """Have the run made by the messages `first`, or go on in the one that was made; another store gets all again.

        Returns how far these were sent.
        """
        cut_unfinished_line(self.folder / outbox.OUTBOX)
        sent = outbox.read_sent(self.folder)
        if sent is None or sent.uri != self.uri:
            sent = Sent(self.uri)
            outbox.write_sent(self.folder, sent)
        self.add(*(first if not sent.run_id and outbox.is_empty(self.folder) else [SetStatus("RUNNING")]))
        return sent

    def begin(self, first: Sequence[Message], must_answer: bool) -> None:
        """`prepare`, and send.

        Raises `ConfigError` and leaves nothing where a run is to be made, and the store does not answer but must.
        """
        sent = self.prepare(first)
        if sent.run_id or not must_answer:
            self.send()
            return
        try:
            deliver(self.folder, self.say, self.uri)
        except ConfigError:
            outbox.remove(self.folder)
            raise

    def add(self, *messages: Message) -> None:
        for message in messages:
            outbox.append(self.folder, message)

    def send(self, now: bool = False) -> bool:
        """Send what waits, but leave a lost store in peace for a while unless it is to be `now`; whether all went.

        Says once when the store is lost, and once when it is back.
        """
        start = time.monotonic()
        if self.lost and not now and start < self.retry_at:
            return False
        try:
            count = deliver(self.folder, self.say, self.uri)
        except ConfigError as error:
            if not self.lost:
                self.say(f"{error} The work goes on; what it has to report waits in {self.folder / outbox.OUTBOX}")
            self.lost, self.retry_at = True, time.monotonic() + pause_s(time.monotonic() - start)
            return False
        if self.lost:
            self.say(f"{self.uri} is back and has what waited: {count} messages")
        self.lost = False
        return True

    def close(self, now: bool = True) -> None:
        """Send what waits once more, and say how to send what is left."""
        if not self.send(now):
            command = outbox.send_command(self.folder, self.uri)
            self.say(f"MLflow does not have all: once it is back, `{command}` sends the rest")


def deliver(folder: Path, say: Say = print, uri: Uri | None = None, root: Path | None = None) -> int:
    """Send what waits in the outbox in `folder`, in order, and remember how far; returns the number of messages sent.

    Of two that send at once the second waits for the first. `uri` gives the credentials of the store, if it is that.
    Files are sent that lie below `root`, by default the folder above. What is refused for good is said and left out.
    Raises `ConfigError` where there is no outbox, or no answer.
    """
    if outbox.read_sent(folder) is None:
        raise ConfigError(f"{folder} has no {outbox.SENT}: it is no folder of a run")
    if not store.MLFLOW:
        raise ConfigError("mlflow is not installed")
    with outbox.taken(folder):
        return _deliver(folder, say, uri, root or folder.resolve().parent)


def _deliver(folder: Path, say: Say, uri: Uri | None, root: Path) -> int:
    sent = outbox.read_sent(folder)
    assert sent is not None
    waiting = outbox.read(folder, sent.messages)
    if not waiting:
        return 0
    uri = sent.uri if uri is None or uri != sent.uri else uri
    with store.reaching(uri):
        client = store.connect(uri)
        for message in waiting:
            run_id = sent.run_id
            try:
                run_id = store.apply(client, uri, run_id, message, folder, root)
            except store.RefusedError as error:
                say(f"MLflow refused {outbox.kind(message)} of run {run_id}: {error}")
            sent = Sent(uri, run_id, sent.messages + 1)
            outbox.write_sent(folder, sent)
    return len(waiting)


def pause_s(took_s: float) -> float:
    """Seconds in which a lost store is not tried, so that trying in vain takes a twentieth of the time at most."""
    return max(PAUSE_S, PAUSE_FACTOR * took_s)
