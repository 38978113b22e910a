"""Chance by a seed for a while, wherever a result shall not depend on what was drawn before."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU = torch.device("cpu")


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Chance by `seed` within the block, on this processor and on `device`; outside it, as if nothing had been drawn.

    Other devices are not touched: `torch.manual_seed` would seed all of them, and nothing would put them back.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield
