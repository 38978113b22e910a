"""How every command ends: what a person got wrong is said in one line, without a traceback."""

import sys
import time
from collections.abc import Callable

from privatenet.audit.errors import AuditError
from privatenet.data_shards.errors import DataError
from privatenet.data_shards.uri import scrub
from privatenet.distributed.errors import ConfigError, Diverged, Interrupted
from privatenet.models.errors import ModelError

DIVERGED = 1
BAD_INPUT = 2
LEAKS = 3
INTERRUPTED = 130

LATER_RANKS_WAIT_S = 8


def guarded(command: Callable[[], int]) -> int:
    """Run `command`; its exit code, or 2 after one line on stderr for bad input, 130 for an interruption.

    Of an error that all ranks share the first one speaks. A later rank that fails alone, and is still there a while
    later, says so.
    """
    try:
        return command()
    except (AuditError, ConfigError, DataError, ModelError) as error:
        message, code, shared = f"error: {scrub(str(error))}", BAD_INPUT, getattr(error, "shared_by_ranks", False)
    except Diverged as error:
        message, code, shared = f"error: {error}", DIVERGED, True
    except (Interrupted, KeyboardInterrupt) as error:
        message, code, shared = f"interrupted: {error or 'the same command goes on'}", INTERRUPTED, True
    rank = _rank()
    if rank and not shared:
        time.sleep(LATER_RANKS_WAIT_S)
        message += f" (rank {rank})"
    if not (rank and shared):
        print(f"privatenet: {message}", file=sys.stderr, flush=True)
    return code


def _rank() -> int:
    """This process's rank; one that has not even imported ranks, which takes seconds, is nobody's."""
    ranks = sys.modules.get("privatenet.distributed.ranks")
    return ranks.launched_rank() if ranks else 0
