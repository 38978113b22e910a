"""Gradients averaged over the ranks, bucket by bucket, while the backward pass goes on.

torch's DistributedDataParallel does so too, but arranges its buckets anew after its first step: sums over four ranks
are then rounded in another order, and a run that was interrupted would not go on bit for bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from privatenet.distributed.ranks import Ranks

BUCKET_BYTES = 8 * 2**20


class GradientExchange:
    """Averages the gradients of `parameters` over all ranks: a bucket is sent as soon as the pass has filled it.

    All ranks send their buckets in the same order, in a process group of their own: one that lacks a gradient sends
    later than others, and there may be other collective calls in a backward pass. A gradient that has been exchanged
    stays in its bucket's memory.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
        self.active, self.group = False, ranks.gradients
        self.buckets = [_Bucket(neighbours) for neighbours in _groups(list(reversed(parameters)))]
        self.sent = 0
        for bucket in self.buckets:
            for parameter, place in bucket.places:
                parameter.register_post_accumulate_grad_hook(lambda p, b=bucket, v=place: self._arrived(p, b, v))

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """Within the block gradients are sent as they come; after it they are means over the ranks."""
        self.active = True
        try:
            yield
        finally:
            self.active = False
        self._send(len(self.buckets))
        for bucket in self.buckets:
            bucket.finish()
        self.sent = 0

    def _arrived(self, parameter: nn.Parameter, bucket: "_Bucket", place: Tensor) -> None:
        if not self.active:
            return
        _put(parameter, place)
        bucket.missing -= 1
        unfilled = (number for number, each in enumerate(self.buckets) if each.missing)
        self._send(next(unfilled, len(self.buckets)))

    def _send(self, end: int) -> None:
        for bucket in self.buckets[self.sent : end]:
            bucket.send(self.group)
        self.sent = max(self.sent, end)


class _Bucket:
    """Neighbouring gradients in one stretch of memory, with each parameter's place in it."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.memory = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
        self.places: list[tuple[nn.Parameter, Tensor]] = []
        start = 0
        for parameter in parameters:
            self.places.append((parameter, self.memory.as_strided(parameter.shape, parameter.stride(), start)))
            start += parameter.numel()
        self.missing = len(parameters)
        self.work: dist.Work | None = None

    def send(self, group: dist.ProcessGroup | None) -> None:
        for parameter, place in self.places if self.missing else ():  # what nothing came for counts as 0
            if parameter.grad is not place:
                _put(parameter, place)
        self.work = dist.all_reduce(self.memory, group=group, async_op=True)

    def finish(self) -> None:
        assert self.work is not None
        self.work.wait()
        self.missing = len(self.places)


def _put(parameter: nn.Parameter, place: Tensor) -> None:
    """This rank's share of the mean of the gradients, in its place."""
    if parameter.grad is None:
        place.zero_()
    else:
        torch.mul(parameter.grad, 1 / dist.get_world_size(), out=place)
    parameter.grad = place


def _groups(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Neighbours, of `BUCKET_BYTES` or one parameter each."""
    groups: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        if not groups or parameter.nbytes > room:
            groups.append([])
            room = BUCKET_BYTES
        groups[-1].append(parameter)
        room -= parameter.nbytes
    return groups
