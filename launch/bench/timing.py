"""Timing of several cases in turn, so that what disturbs the machine disturbs them alike."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from privatenet.distributed import agree
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.threads import one_thread
from privatenet.launch.bench.figures import Figure

LEAST_S = 0.5
"""For how long, at least, each case runs in each repetition."""


@dataclass(frozen=True)
class Case:
    """What is timed: `run` does `amount` of `unit` a second ("images/s"); `limit` names the case it is held against."""

    name: str
    run: Callable[[], object]
    amount: float
    unit: str = "images/s"
    limit: str = ""


def measure(cases: Sequence[Case], repeats: int, ranks: Ranks) -> list[Figure]:
    """Time `cases` in turn `repeats` times, after one turn to warm up; rates, each beside that of its limit.

    All ranks call it together, and call what is timed equally often.
    """
    calls, peaks, device = {}, {}, ranks.device
    for case in cases:
        forget_peak(device)
        case.run()
        number = max(1, round(LEAST_S / _seconds(case.run, 1, device)))
        calls[case.name] = agree.first(ranks, partial(int, number))
        peaks[case.name] = peak_mib(device)
    rates: dict[str, list[float]] = {case.name: [] for case in cases}
    for turn in range(repeats):
        for case in cases if turn % 2 == 0 else reversed(cases):
            number = calls[case.name]
            rates[case.name].append(number * case.amount / _seconds(case.run, number, device))
    values = {name: tuple(numbers) for name, numbers in rates.items()}
    return [
        Figure(case.name, case.unit, values[case.name], case.limit, values.get(case.limit, ()), peaks[case.name])
        for case in cases
    ]


def command_seconds(*arguments: str) -> float:
    """What a whole command of ours takes, such as ("audit", "runs/demo/private")."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "privatenet.launch.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"privatenet {arguments[0]} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - began


def write_trace(case: Case, folder: Path, device: torch.device) -> Path:
    """What the processor and the device do in three calls, as a file of `folder` that ui.perfetto.dev shows."""
    path = folder / ("-".join(re.findall(r"[\w.]+", case.name)) + ".json")
    folder.mkdir(parents=True, exist_ok=True)
    with torch.profiler.profile(activities=torch.profiler.supported_activities()) as profiler:
        _seconds(case.run, 3, device)
    profiler.export_chrome_trace(str(path))
    return path


def in_another_unit(figure: Figure, name: str, unit: str, factor: float, limit: Figure) -> Figure:
    """The same measurement, each value `factor` times as large, beside another limit of the same repetitions."""
    values = tuple(factor * value for value in figure.values)
    return replace(figure, name=name, unit=unit, values=values, limit=limit.name, limits=limit.values)


@contextmanager
def one_core() -> Iterator[None]:
    """Within the block, this thread and those it starts share one core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with one_thread():
            yield
    finally:
        os.sched_setaffinity(0, cores)


def forget_peak(device: torch.device) -> None:
    """Let `peak_mib` begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # another system
            Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: torch.device) -> float:
    """The most memory taken since `forget_peak`: on a GPU by tensors, else by the process; 0 where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 2**10
    return 0.0


def _seconds(run: Callable[[], object], number: int, device: torch.device) -> float:
    wait(device)
    began = time.perf_counter()
    for _ in range(number):
        run()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
