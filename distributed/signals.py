"""Being asked to stop, and ranks agreeing on it."""

import signal
import threading
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor


class Interrupted(Exception):
    """Training was asked to stop (SIGTERM or SIGINT); a checkpoint was written and the same command goes on from it."""


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


class StopRequest:
    """While entered, SIGTERM and SIGINT ask for a stop at the next check instead of ending the process.

    Where training is not the process's main thread, signals are the business of whoever is.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "StopRequest":
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if main else ()
        self.before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def check(self, loss: Tensor) -> bool:
        """Whether any rank was asked to stop; `Diverged` if any loss is not finite. All ranks call it together."""
        flags = torch.stack([loss.new_tensor(float(self.asked)), (~torch.isfinite(loss)).to(loss.dtype)])
        dist.all_reduce(flags)
        asked, bad = flags.tolist()  # the host waits for the device here
        if bad:
            raise Diverged("the loss is no longer finite: lower the learning rate, or train in bf16 instead of fp16")
        return bool(asked)
