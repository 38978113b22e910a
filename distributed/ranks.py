"""The ranks: this process joins the others, knows its place among them, and leaves."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from privatenet.distributed.place import (
    Place,
    announce,
    launched,
    launched_group,
    launched_rank,
    num_cores,
    requested_threads,
    withdraw,
)
from privatenet.distributed.threads import set_threads

STEP_TIMEOUT = timedelta(minutes=15)
"""How long a rank waits for another in a collective call of training."""
CONTROL_TIMEOUT = timedelta(days=2)
"""How long ranks wait for a decision: for as long as one of them may take to fetch, decode or measure alone."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Numbers of glibc's malloc.h."""


@dataclass(frozen=True)
class Ranks:
    """This process's place: `rank` of `world_size`, `local_rank` of `local_world_size` on this machine, its device.

    `control` is the process group, over the CPU, in which ranks decide together (see agree.py), `gradients` the one in
    which they exchange gradients (see exchange.py); None without others.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    gradients: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints, tracks and writes."""
        return self.rank == 0

    @property
    def with_first(self) -> bool:
        """Whether the first rank is on this machine."""
        return self.rank == self.local_rank

    @property
    def first_here(self) -> bool:
        """Whether this is the first rank on its machine: the one that does what each machine needs once."""
        return self.local_rank == 0


ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
"""A process that is no one's rank: it reads and decides for itself."""


def join(place: Place | None = None) -> Ranks:
    """Join the ranks that a launcher started (deepspeed, torchrun), or take `place`, or be the only one.

    Sets the device and, without a GPU, threads. NCCL serves GPUs, gloo CPUs. Every process takes as many threads as
    OMP_NUM_THREADS says, or its share of the machine's cores: more threads than cores make ranks wait for each other
    many times over.
    """
    if place or not launched():
        announce(place or Place())
    rank = launched_rank()
    world_size, local_rank, local_world_size = launched_group()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        share = max(1, num_cores() // local_world_size)
        threads = (place.threads if place else 0) or requested_threads() or share
        set_threads(threads)
        _keep_memory()
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what DeepSpeed would find out, with a warning
    if not dist.is_initialized():
        backend = "nccl" if cuda else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=STEP_TIMEOUT)
    if place:  # all on this machine, each with its GPU as the only one
        local_rank, local_world_size = rank, world_size
    control = gradients = None
    if world_size > 1:
        control = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
        gradients = dist.new_group(timeout=STEP_TIMEOUT)
    assert not isinstance(control, int)  # what a rank outside of the group would get
    assert not isinstance(gradients, int)
    return Ranks(rank, world_size, local_rank, local_world_size, device, control, gradients)


@contextmanager
def joined() -> Iterator[Ranks]:
    """`join` for as long as the block takes."""
    try:
        yield join()
    finally:
        leave()


def _keep_memory() -> None:
    """Let glibc keep what is freed: to ask the system for the same pages at every step takes a tenth of its time."""
    with suppress(OSError, AttributeError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def leave() -> None:
    """Close the process group; every rank calls it, last. A process that no launcher started is nobody's rank again."""
    if dist.is_initialized():
        dist.destroy_process_group()
    withdraw()
