"""Ranks for tests: forked from one process that has imported everything, so that a start costs no seconds."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from privatenet.distributed.place import free_port
from privatenet.distributed.ranks import Ranks, join, leave

# The process that is forked from looks for modules here, and must not have started threads.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
os.environ.setdefault("OMP_NUM_THREADS", "1")
FORKS = multiprocessing.get_context("forkserver")
# Also what DeepSpeed imports where it begins with ZeRO: seconds of each start.
FORKS.set_forkserver_preload(["dist_cases", "deepspeed.runtime.zero.muon.muon_optimizer"])
TIMEOUT_S = 240


@dataclass(frozen=True)
class Started:
    """Ranks at work."""

    processes: Sequence[ForkServerProcess]
    pipes: Sequence[Connection]

    def results(self) -> list[Any]:
        """What every rank's function returned. AssertionError with the traceback of the first that failed."""
        results, deadline = [], time.monotonic() + TIMEOUT_S
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(max(0.0, deadline - time.monotonic())), f"rank {rank} does not end"
            try:
                done, value = pipe.recv()
            except EOFError as error:
                raise AssertionError(f"rank {rank} ended without a word") from error
            assert done, f"rank {rank}: {value}"
            results.append(value)
        self.join()
        return results

    def kill(self) -> None:
        """SIGKILL to all."""
        for process in self.processes:
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        self.join()

    def join(self) -> None:
        for process in self.processes:
            process.join()


def start(ranks: int, function: Callable[..., Any], *arguments: Any) -> Started:
    """`function(Ranks, *arguments)`, of a module, on so many ranks."""
    port, processes, pipes = free_port(), [], []
    for rank in range(ranks):
        here, there = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=_work, args=(there, rank, ranks, port, function, arguments))
        process.start()
        there.close()
        processes.append(process)
        pipes.append(here)
    return Started(processes, pipes)


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(Ranks, *arguments)` returns on each of so many ranks."""
    return start(ranks, function, *arguments).results()


def _work(
    pipe: Connection, rank: int, world_size: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    ranks: Ranks = join()
    try:
        pipe.send((True, function(ranks, *arguments)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    finally:
        leave()
