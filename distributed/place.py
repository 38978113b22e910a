"""What a launcher (deepspeed, torchrun, ours) says to this process, read here alone.

Without torch, which takes seconds to import: commands that only start ranks read it too.
"""

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""A launcher's, a person's, and a batch system's word that time is nearly up."""

CGROUP = Path("/sys/fs/cgroup")
"""Where a container's limits are."""


@dataclass(frozen=True)
class Place:
    """A place among ranks of one machine that no launcher started: each sees only its own GPU, if any."""

    rank: int = 0
    world_size: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    threads: int = 0


def rank_variables(
    rank: int, world_size: int, local_rank: int, local_world_size: int, address: str, port: int
) -> dict[str, str]:
    """The environment in which a launcher starts a rank."""
    variables: dict[str, object] = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": local_rank}
    variables |= {"LOCAL_WORLD_SIZE": local_world_size, "MASTER_ADDR": address, "MASTER_PORT": port}
    return {name: str(value) for name, value in variables.items()}


def launched() -> bool:
    """Whether a launcher started this process as one of its ranks."""
    return "RANK" in os.environ


def launched_rank() -> int:
    """This process's rank, known before ranks have joined; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def launched_group() -> tuple[int, int, int]:
    """What a launcher says beside the rank: the number of ranks, the rank on this machine, and the number there."""
    here = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1"))
    return int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]), int(here)


_announced: list[str] = []
"""Variables that we set ourselves."""


def announce(place: Place) -> None:
    """Set a launcher's variables for `place`: DeepSpeed reads them too."""
    variables = rank_variables(place.rank, place.world_size, 0, 1, place.address, place.port or free_port())
    os.environ.update(variables)
    _announced.extend(variables)


def withdraw() -> None:
    """Undo `announce`: a process that no launcher started is nobody's rank again."""
    while _announced:
        os.environ.pop(_announced.pop(), None)


def meeting_address() -> str:
    """The host at which ranks that have joined found each other: the first rank's."""
    return os.environ["MASTER_ADDR"]


def requested_threads() -> int:
    """What a person set OMP_NUM_THREADS to; 0 where nobody did. torchrun sets 1 where nobody did."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    by_torchrun = value == "1" and "TORCHELASTIC_RUN_ID" in os.environ
    return int(value) if value.isdecimal() and not by_torchrun else 0


def num_cores() -> int:
    """Processor cores that this process may use, in a container as many as its limit pays for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period, *_ = [*_limit("cpu.max").split(), "max", "max"]
    return min(cores, max(1, int(quota) // int(period))) if quota.isdecimal() and period.isdecimal() else cores


def memory_limit() -> int | None:
    """Bytes that a container gives its processes, if it limits them."""
    limit = _limit("memory.max").strip()
    return int(limit) if limit.isdecimal() else None


def _limit(name: str) -> str:
    """What the control group (cgroup v2) of this process says; empty where there is none."""
    with suppress(OSError):
        return (CGROUP / name).read_text()
    return ""


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
