"""Ranks decide together: no rank returns or raises alone before a collective call of the others.

The first rank does something (`first`), all do (`each`, and `everyone` where all need all results), or they share a
list of jobs (`shared`); all ranks call these together. What they exchange goes over the CPU in a process group of its
own, so that long work of one rank does not run into the time limit of the training's collective calls.
"""

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from privatenet.distributed.place import meeting_address
from privatenet.distributed.ranks import Ranks

T = TypeVar("T")
Job = TypeVar("Job")

STORE_TIMEOUT = timedelta(minutes=1)
"""How long a rank tries to reach the first one's store."""


class RankError(RuntimeError):
    """Another rank failed; the message names the rank, its machine and its error."""


def first(ranks: Ranks, work: Callable[[], T]) -> T:
    """Do `work` on the first rank; every rank returns its result, or raises its error."""
    if ranks.world_size == 1:
        return work()
    outcome: list[T | None] = [None]
    failure: Exception | None = None
    if ranks.first:
        outcome, failure = _attempt(work)
    message: list[object] = [outcome[0], _portable(failure, ranks)]
    dist.broadcast_object_list(message, src=0, group=ranks.control)
    for error in (failure, message[1]):
        if isinstance(error, Exception):
            raise _shared(error)
    return message[0]  # type: ignore[return-value]


def each(ranks: Ranks, work: Callable[[], T]) -> T:
    """Do `work` on every rank; every rank returns its own result, or all raise the error of the first that failed.

    A rank that failed itself raises its own error.
    """
    outcome, failure = _attempt(work)
    errors: list[Exception | None] = [None] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(errors, _portable(failure, ranks), group=ranks.control)
    for error in (failure, *errors):
        if error is not None:
            raise _shared(error)
    return outcome[0]  # type: ignore[return-value]


def everyone(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """As `each`, but every rank returns all results, by rank."""
    result = each(ranks, work)
    results = [result] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(results, result, group=ranks.control)
    return results


def shared(ranks: Ranks, jobs: Sequence[Job], work: Callable[[Job], T]) -> list[T]:
    """Do `work` once for each of `jobs`: a rank that is free takes the next one. Every rank returns all results, in the
    jobs' order; or, once one has failed and the others have ended what they do, raises its error as `each` does.
    """
    if ranks.world_size == 1:
        return [work(job) for job in jobs]
    counter = common_store(ranks)

    def share() -> dict[int, T]:
        if counter is None:  # a firewall, say: each has its share from the start
            return {number: work(jobs[number]) for number in range(ranks.rank, len(jobs), ranks.world_size)}
        done = {}
        try:
            while (number := counter.add("next", 1) - 1) < len(jobs):
                done[number] = work(jobs[number])
        except BaseException:
            with suppress(dist.DistError):  # the first rank may be gone
                counter.add("next", len(jobs))  # nobody begins another one
            raise
        return done

    results = {number: result for done in everyone(ranks, share) for number, result in done.items()}
    return [results[number] for number in range(len(jobs))]


def common_store(ranks: Ranks, timeout: timedelta = STORE_TIMEOUT) -> dist.TCPStore | None:
    """A store that the first rank serves, at the address at which the ranks have found each other; None where not all
    of them can reach it. Its calls fail after `timeout`."""
    host, served = meeting_address(), []

    def serve() -> int:
        served.append(dist.TCPStore(host, 0, is_master=True, timeout=timeout, wait_for_workers=False))
        return int(served[0].port)

    port, store = first(ranks, serve), None
    with suppress(dist.DistError):
        store = served[0] if served else dist.TCPStore(host, port, is_master=False, timeout=timeout)
    return store if all(everyone(ranks, lambda: store is not None)) else None


def _attempt(work: Callable[[], T]) -> tuple[list[T | None], Exception | None]:
    try:
        return [work()], None
    except Exception as error:
        return [None], error


def _shared(error: Exception) -> Exception:
    """`error`, marked as one that every rank raises: the first one will speak of it."""
    error.shared_by_ranks = True  # type: ignore[attr-defined]
    return error


def _portable(error: Exception | None, ranks: Ranks) -> Exception | None:
    """`error` as the other ranks raise it: bad input as what it is, anything else as a `RankError`; both say where."""
    if error is None:
        return None
    place = f"rank {ranks.rank} on {socket.gethostname()}"
    if isinstance(error, ValueError) and type(error).__init__ is ValueError.__init__:
        return type(error)(f"{error} ({place})")
    if isinstance(error, OSError) and error.errno:
        return OSError(error.errno, f"{error.strerror} ({place})", error.filename)
    return RankError(f"{place}: {type(error).__name__}: {error}")
