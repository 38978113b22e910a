"""Start ranks on this machine, and let signals reach them.

SIGTERM, SIGUSR1 or Ctrl-C to the command asks every rank to finish its step, save and end; a second one ends them at
once. A rank that fails ends the others, and one whose launcher is gone, ours or deepspeed's, ends in the same way, so
that nothing trains on unseen.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from privatenet.data_shards.uri import conceal
from privatenet.distributed.place import STOPS, free_port, launched, rank_variables
from privatenet.launch.exits import guarded

LAUNCHER = "PRIVATENET_LAUNCHER"
"""Environment variable of ranks: the process that they must not outlive."""
WATCH_S = 1.0
END_S = 30
"""For the first rank to end by itself where another failed, then for all to end that are asked to."""


def launch(module: str, arguments: Sequence[str], ranks: int) -> int:
    """Run `ranks` processes of `module` to their end; returns 0, or the exit code of the first that failed."""
    public, credentials = conceal(arguments)  # everyone on the machine may list its processes
    command = [sys.executable, "-m", module, *public]
    processes, port = [], free_port()
    for rank in range(ranks):
        environment = os.environ | credentials | {LAUNCHER: str(os.getpid())}
        environment |= rank_variables(rank, ranks, rank, ranks, "127.0.0.1", port)
        # In a session of its own: Ctrl-C in a terminal then reaches it through us alone.
        processes.append(psutil.Popen(command, env=environment, start_new_session=True))
    with _signals_reach(processes):
        return _wait(processes)


def run_on_ranks(command: Callable[[list[str]], int], argv: Sequence[str]) -> int:
    """Run a command that starts its own ranks, or is one of a launcher's; returns its exit code."""
    if launched():
        stop_in_order()
    return guarded(lambda: command(rank_arguments(argv)))


def rank_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments without the rank's number that some launchers put among them."""
    return [word for word in argv if not word.startswith("--local_rank")]


def stop_in_order() -> None:
    """Let SIGTERM and SIGUSR1 end this process as Ctrl-C does, and let SIGTERM come once its launcher is gone."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler)
    launcher = _launcher()
    if launcher:
        threading.Thread(target=_watch, args=(launcher,), daemon=True, name="launcher").start()


def _wait(processes: Sequence[psutil.Popen]) -> int:
    alive, code = list(processes), 0
    while alive and not code:
        ended, alive = psutil.wait_procs(alive, WATCH_S / 5)
        code = next((process.returncode for process in ended if process.returncode), 0)
    psutil.wait_procs(processes[:1], END_S)
    code = processes[0].returncode or code  # the first rank speaks and writes for all
    _ask(alive)
    _kill(psutil.wait_procs(alive, END_S)[1])
    return code if code >= 0 else 128 - code  # as shells say that a signal ended it


def _ask(processes: Sequence[psutil.Popen]) -> None:
    """Ask ranks to end; those that have ended are left in peace."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()


def _kill(processes: Sequence[psutil.Popen]) -> None:
    """End ranks, and whatever they have started, at once."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            for each in [*process.children(recursive=True), process]:
                each.kill()


@contextmanager
def _signals_reach(processes: Sequence[psutil.Popen]) -> Iterator[None]:
    asked = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        (_kill if asked else _ask)(processes)
        asked = True

    handlers = {number: signal.signal(number, forward) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _launcher() -> psutil.Process | None:
    """The command that started this rank or, where deepspeed's launcher did, whoever started that."""
    try:
        if LAUNCHER in os.environ:
            return psutil.Process(int(os.environ[LAUNCHER]))
        parent = psutil.Process().parent()
        return parent.parent() if parent and _is_deepspeed(parent) else None
    except psutil.NoSuchProcess:
        return None


def _is_deepspeed(process: psutil.Process) -> bool:
    """Whether this is one of deepspeed's own processes."""
    try:
        return any("deepspeed" in word and "launch" in word for word in process.cmdline()[:5])
    except psutil.NoSuchProcess:
        return False


def _watch(launcher: psutil.Process) -> None:
    while launcher.is_running() and launcher.status() != psutil.STATUS_ZOMBIE:
        time.sleep(WATCH_S)
    os.kill(os.getpid(), signal.SIGTERM)
