"""Gradients averaged over the ranks, piece by piece, while the backward pass goes on.

torch's DistributedDataParallel does so too, but arranges its pieces anew after its first step: sums over four ranks are
then rounded in another order, and a run that was interrupted would not go on bit for bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

PIECE_BYTES = 8 * 2**20


class GradientExchange:
    """Averages the gradients of `parameters` over all ranks: every piece is sent as soon as the pass has filled it.

    All ranks send their pieces in the same order. A gradient that has been exchanged stays in its piece of memory.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.active = False
        self.pieces = [_Piece.of(group) for group in _groups(list(reversed(parameters)))]
        self.sent = 0
        for piece in self.pieces:
            for parameter, place in piece.places:
                parameter.register_post_accumulate_grad_hook(lambda p, x=piece, v=place: self._arrived(p, x, v))

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """Within the block gradients are sent as they come; after it they are means over the ranks."""
        self.active = True
        yield
        self._send(len(self.pieces))
        for piece in self.pieces:
            piece.finish()
        self.sent, self.active = 0, False

    def _arrived(self, parameter: nn.Parameter, piece: "_Piece", place: Tensor) -> None:
        if not self.active:
            return
        assert parameter.grad is not None
        place.copy_(parameter.grad)
        parameter.grad = place
        piece.missing -= 1
        full = (number for number, each in enumerate(self.pieces) if each.missing)
        self._send(next(full, len(self.pieces)))

    def _send(self, end: int) -> None:
        for piece in self.pieces[self.sent : end]:
            piece.send()
        self.sent = max(self.sent, end)


@dataclass
class _Piece:
    """Neighbouring gradients in one stretch of memory, with each parameter's place in it."""

    memory: Tensor
    places: list[tuple[nn.Parameter, Tensor]]
    missing: int
    work: list[dist.Work] = field(default_factory=list)

    @classmethod
    def of(cls, parameters: Sequence[nn.Parameter]) -> "_Piece":
        memory = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
        starts = [sum(p.numel() for p in parameters[:number]) for number in range(len(parameters))]
        places = [
            (p, memory.as_strided(p.shape, p.stride(), start)) for p, start in zip(parameters, starts, strict=True)
        ]
        return cls(memory, places, len(parameters))

    def send(self) -> None:
        if self.missing:  # of a parameter that nothing came for
            for parameter, place in self.places:
                if parameter.grad is not place:
                    place.zero_() if parameter.grad is None else place.copy_(parameter.grad)
                    parameter.grad = place
        self.work.append(dist.all_reduce(self.memory, async_op=True))

    def finish(self) -> None:
        while self.work:
            self.work.pop().wait()
        self.memory /= dist.get_world_size()
        self.missing = len(self.places)


def _groups(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Neighbours, of `PIECE_BYTES` or one parameter each."""
    groups: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        if not groups or parameter.nbytes > room:
            groups.append([])
            room = PIECE_BYTES
        groups[-1].append(parameter)
        room -= parameter.nbytes
    return groups
