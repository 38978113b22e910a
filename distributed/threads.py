"""How many threads this process computes with, in torch and in NumPy's and scikit-learn's libraries."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


def set_threads(count: int) -> None:
    """Compute with `count` threads from now on."""
    torch.set_num_threads(count)
    threadpool_limits(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block compute with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
