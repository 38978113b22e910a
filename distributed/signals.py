"""Being asked to stop, and what ranks decide together between steps."""

import signal
import threading
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from privatenet.distributed.errors import Diverged
from privatenet.distributed.place import STOPS


@dataclass(frozen=True)
class Decision:
    """What all ranks do next; `step_s` is the slowest rank's time for a step, in seconds."""

    stop: bool
    save: bool
    step_s: float


class StopRequest:
    """While entered, `STOPS` ask for a stop at the next decision instead of ending the process.

    Where training is not the process's main thread, signals are the business of whoever is.
    """

    def __init__(self) -> None:
        self.pending = False

    def __enter__(self) -> "StopRequest":
        main = threading.current_thread() is threading.main_thread()
        numbers = STOPS if main else ()
        self.handlers = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pending = True

    def decide(self, loss: Tensor, save: bool = False, step_s: float = 0.0) -> Decision:
        """Stop or save where any rank asks for it; `Diverged` where any loss is not finite. All ranks call it."""
        flags = torch.tensor([self.pending, save, step_s], dtype=torch.float64, device=loss.device)
        flags = torch.cat([flags, (~torch.isfinite(loss.detach())).double().view(1)])
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        stop, due, slowest, diverged = flags.tolist()  # the host waits for the device here
        if diverged:
            raise Diverged("the loss is no longer finite: lower the learning rate, or train in bf16 instead of fp16")
        return Decision(bool(stop), bool(due), slowest)
