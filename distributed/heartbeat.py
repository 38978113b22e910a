"""Which rank the others wait for: each says every few seconds how far it is, and one that stands still is named.

Without it a rank that hangs shows on the others as a collective call that ran into its time limit.
"""

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist

from privatenet.distributed import agree
from privatenet.distributed.ranks import STEP_TIMEOUT, Ranks

PERIOD_S = 5.0
STILL_S = 0.8 * STEP_TIMEOUT.total_seconds()
"""How long a rank may be at one place: less than the collective calls' own limit, which names nobody."""
SILENT_S = 60.0
"""How long nothing may be heard of a rank."""


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself: how often it has said so, its place, which counts what it has begun and done of
    training, and whether it has left."""

    count: int = -1
    place: int = 0
    over: bool = False


class Heartbeat:
    """Within its block the ranks watch each other; all ranks enter it together. A rank alone watches nobody."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.place, self.since, self.training = 0, time.monotonic(), False
        self.over = threading.Event()
        self.talking: threading.Thread | None = None

    def __enter__(self) -> "Heartbeat":
        if self.ranks.world_size == 1 or (store := _store(self.ranks)) is None:
            return self
        self.store = store
        self.hosts = agree.everyone(self.ranks, socket.gethostname)
        others = set(range(self.ranks.world_size)) - {self.ranks.rank}
        self.heard = {rank: (Beat(), time.monotonic()) for rank in sorted(others)}
        self.talking, watching = (threading.Thread(target=work, daemon=True) for work in (self._talk, self._watch))
        self.talking.start()
        watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        if not self.talking:
            return
        self.talking.join(PERIOD_S)
        deadline = time.monotonic() + PERIOD_S
        with suppress(dist.DistError):  # the first rank's store stays until the others have said that they leave
            while self.ranks.first and time.monotonic() < deadline and not self._all_over():
                self._listen()
                time.sleep(0.01)

    def at(self) -> None:
        """A place in training is reached: a batch is there, or its step is done. As often on every rank."""
        self.place, self.since, self.training = self.place + 1, time.monotonic(), True

    def between_steps(self) -> None:
        """Until the next place ranks may wait for one of them for as long as it takes."""
        self.training = False

    def _talk(self) -> None:
        """Say, and listen; where the first rank, whose store it is, is gone, that may fail or take for ever."""
        count, over = 0, False
        while not over:
            over, count = self.over.wait(PERIOD_S), count + 1
            with suppress(dist.DistError):
                self._say(Beat(count, self.place, over))
                if not over:
                    self._listen()

    def _watch(self) -> None:
        woken = time.monotonic()
        while not self.over.wait(PERIOD_S):
            before, woken = woken, time.monotonic()
            if woken - before > SILENT_S / 2:  # the process itself was stopped, as by Ctrl-Z, and the others, too
                self.since, self.heard = woken, {rank: (beat, woken) for rank, (beat, _) in self.heard.items()}
            if lost := self._lost(woken):
                end(lost)

    def _say(self, beat: Beat) -> None:
        self.store.set(str(self.ranks.rank), json.dumps(asdict(beat)))

    def _listen(self) -> None:
        for rank, (before, _) in self.heard.items():
            if self.store.check([str(rank)]):
                beat = Beat(**json.loads(self.store.get(str(rank))))
                if beat.count != before.count:
                    self.heard[rank] = beat, time.monotonic()

    def _lost(self, now: float) -> str:
        """Which rank is silent, or holds up the others for too long, in words; empty where none does."""
        there = {rank: each for rank, each in self.heard.items() if not each[0].over}
        if 0 in there and now - there[0][1] > SILENT_S / 2:
            there = {0: there[0]}  # nothing is heard of anybody without the first rank
        for rank, (_, heard) in there.items():
            if now - heard > SILENT_S:
                return f"nothing is heard of {self._name(rank)} since {now - heard:.0f} s"
        still = now - self.since
        if not self.training or still < STILL_S:
            return ""
        if any(beat.place > self.place for beat, _ in there.values()):
            behind = [self._name(self.ranks.rank)]
        else:
            behind = [self._name(rank) for rank, (beat, _) in there.items() if beat.place < self.place]
        return f"{' and '.join(behind) or 'every rank'} stands still since {still:.0f} s"

    def _all_over(self) -> bool:
        return all(beat.over for beat, _ in self.heard.values())

    def _name(self, rank: int) -> str:
        return f"rank {rank} on {self.hosts[rank]}"


def end(message: str) -> None:
    """Say it and end this process, whose main thread waits in a call that it cannot leave."""
    line = f"privatenet: error: {message}; the same command goes on from the last checkpoint"
    print(line, file=sys.stderr, flush=True)
    os._exit(1)


def _store(ranks: Ranks) -> dist.TCPStore | None:
    """Where ranks leave word of themselves; None, with a line, where not all of them can."""
    store = agree.common_store(ranks, timedelta(seconds=SILENT_S))
    if store is None and ranks.first:
        print(
            "privatenet: not all ranks reach the first one's store: one that hangs will not be named", file=sys.stderr
        )
    return store
