"""A folder that one run or audit writes to at a time, whatever its ranks."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from privatenet.data_shards.lock import owned
from privatenet.distributed import agree
from privatenet.distributed.ranks import Ranks


@contextmanager
def held(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Within the block no other process writes to `folder`: the first rank holds it for all ranks, which call this.

    Raises `DataError`, on every rank, that names who has it.
    """
    with ExitStack() as stack:
        agree.first(ranks, lambda: _enter(stack, folder))
        yield


def _enter(stack: ExitStack, folder: Path) -> None:
    stack.enter_context(owned(folder))
