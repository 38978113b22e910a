"""Who this process is among the ranks, and the one place that reads what a launcher says of it."""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits

STEP_TIMEOUT = timedelta(minutes=15)
"""How long a rank waits for another in a collective call of training."""
CONTROL_TIMEOUT = timedelta(days=2)
"""How long ranks wait for a decision: for as long as one of them may take to fetch, decode or measure alone."""


@dataclass(frozen=True)
class Ranks:
    """This process's place: `rank` of `world_size`, `local_rank` of `local_world_size` on this machine, its device.

    `control` is the process group, over the CPU, in which ranks decide together (see agree.py); None without others.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints, tracks and writes."""
        return self.rank == 0

    @property
    def first_here(self) -> bool:
        """Whether this is the first rank on its machine: the one that does what each machine needs once."""
        return self.local_rank == 0


ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
"""A process that is no one's rank: it reads and decides for itself."""


@dataclass(frozen=True)
class Place:
    """A place among ranks of one machine that no launcher started: each sees only its own GPU, if any."""

    rank: int = 0
    world_size: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    threads: int = 0


def join(place: Place | None = None) -> Ranks:
    """Join the ranks that a launcher started (deepspeed, torchrun), or take `place`, or be the only one.

    Sets the device and, without a GPU, threads. NCCL serves GPUs, gloo CPUs. Every process takes as many threads as
    OMP_NUM_THREADS says, or its share of the machine's cores: more threads than cores make ranks wait for each other
    many times over.
    """
    if place or not launched():
        _announce(place or Place())
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ["LOCAL_RANK"])
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        share = max(1, num_cores() // local_world_size)
        threads = (place.threads if place else 0) or requested_threads() or share
        torch.set_num_threads(threads)
        threadpool_limits(threads)  # of NumPy's and scikit-learn's libraries
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what DeepSpeed would find out, with a warning
    if not dist.is_initialized():
        backend = "nccl" if cuda else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=STEP_TIMEOUT)
    if place:  # all on this machine, each with its GPU as the only one
        local_rank, local_world_size = rank, world_size
    control = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT) if world_size > 1 else None
    assert not isinstance(control, int)  # what a rank outside of the group would get
    return Ranks(rank, world_size, local_rank, local_world_size, device, control)


_announced: list[str] = []
"""Variables that we set ourselves."""


def _announce(place: Place) -> None:
    """Set a launcher's variables: DeepSpeed reads them too."""
    variables: dict[str, object] = {
        "RANK": place.rank,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": place.world_size,
        "LOCAL_WORLD_SIZE": 1,
    }
    variables |= {"MASTER_ADDR": place.address, "MASTER_PORT": place.port or free_port()}
    os.environ.update({key: str(value) for key, value in variables.items()})
    _announced.extend(variables)


def meeting_address() -> str:
    """The host at which ranks that have joined found each other: the first rank's."""
    return os.environ["MASTER_ADDR"]


def launched_rank() -> int:
    """This process's rank, known before ranks have joined; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def launched() -> bool:
    """Whether a launcher started this process as one of its ranks."""
    return "RANK" in os.environ


def leave() -> None:
    """Close the process group; every rank calls it, last. A process that no launcher started is nobody's rank again."""
    if dist.is_initialized():
        dist.destroy_process_group()
    while _announced:
        os.environ.pop(_announced.pop(), None)


def requested_threads() -> int:
    """What a person set OMP_NUM_THREADS to; 0 where nobody did. torchrun sets 1 where nobody did."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    by_torchrun = value == "1" and "TORCHELASTIC_RUN_ID" in os.environ
    return int(value) if value.isdecimal() and not by_torchrun else 0


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
