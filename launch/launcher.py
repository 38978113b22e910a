"""Start ranks by the deepspeed launcher, and let signals reach them: it forwards none, and outlives who started it.

SIGTERM, SIGUSR1 or Ctrl-C to the command asks every rank to finish its step, save and end; a second one ends them at
once. A rank whose launcher is gone ends in the same way, so that nothing trains on unseen.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import psutil
import torch

from privatenet.data_shards.uri import conceal
from privatenet.distributed.ranks import free_port, launched
from privatenet.distributed.signals import STOPS
from privatenet.launch.exits import guarded

LAUNCHER = "PRIVATENET_LAUNCHER"
"""Environment variable of ranks: the process that they must not outlive."""
WATCH_S = 1.0


def launch(module: str, arguments: list[str], ranks: int) -> int:
    """Start `ranks` processes of `module` on this machine; returns the launcher's exit code."""
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--quiet", "--num_gpus", str(ranks)]
    command += ["--no_local_rank", "--master_port", str(free_port())]
    command += ["--module", module, *arguments]
    accelerator = {} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"}
    command, credentials = conceal(command)  # a launcher prints its command where a rank fails
    environment = os.environ | accelerator | credentials | {LAUNCHER: str(os.getpid())}
    # In a session of its own: Ctrl-C in a terminal then reaches it through us alone.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    with _signals_reach_ranks(process):
        return process.wait()


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


@contextmanager
def _signals_reach_ranks(process: subprocess.Popen[bytes]) -> Iterator[None]:
    asked = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        for each in psutil.Process(process.pid).children(recursive=True):
            if asked or not _is_launcher(each):
                each.send_signal(signal.SIGKILL if asked else signal.SIGTERM)
        asked = True

    handlers = {number: signal.signal(number, forward) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _launcher() -> psutil.Process | None:
    """The command that started the launcher or, where that was a person, the launcher."""
    try:
        if LAUNCHER in os.environ:
            return psutil.Process(int(os.environ[LAUNCHER]))
        parent = psutil.Process().parent()
        return parent.parent() if parent and _is_launcher(parent) else None
    except psutil.NoSuchProcess:
        return None


def _is_launcher(process: psutil.Process) -> bool:
    """Whether this is one of deepspeed's own processes, not a rank."""
    try:
        return any("deepspeed" in word and "launch" in word for word in process.cmdline()[:5])
    except psutil.NoSuchProcess:
        return False


def _watch(launcher: psutil.Process) -> None:
    while launcher.is_running() and launcher.status() != psutil.STATUS_ZOMBIE:
        time.sleep(WATCH_S)
    os.kill(os.getpid(), signal.SIGTERM)
