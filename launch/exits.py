"""How every command ends: what a person got wrong is said in one line, without a traceback."""

import sys
import time
from collections.abc import Callable

from privatenet.audit.errors import AuditError
from privatenet.data_shards.errors import DataError
from privatenet.data_shards.uri import scrub
from privatenet.distributed.config import ConfigError
from privatenet.distributed.ranks import launched_rank
from privatenet.distributed.signals import Diverged, Interrupted
from privatenet.models.errors import ModelError

DIVERGED = 1
BAD_INPUT = 2
LEAKS = 3
INTERRUPTED = 130

LATER_RANKS_WAIT_S = 8


def guarded(command: Callable[[], int]) -> int:
    """Run `command`; its exit code, or 2 after one line on stderr for bad input, 130 for an interruption.

    Where several ranks fail alike, the first one speaks and its end lets the launcher end the others; a rank that is
    still there a while later failed alone, and says so.
    """
    try:
        return command()
    except (AuditError, ConfigError, DataError, ModelError) as error:
        message, code = f"privatenet: error: {scrub(str(error))}", BAD_INPUT
    except Diverged as error:
        message, code = f"privatenet: error: {error}", DIVERGED
    except (Interrupted, KeyboardInterrupt) as error:
        if not launched_rank():
            print(f"privatenet: interrupted: {error or 'the same command goes on'}", file=sys.stderr, flush=True)
        return INTERRUPTED
    rank = launched_rank()
    if rank:
        time.sleep(LATER_RANKS_WAIT_S)
        message += f" (rank {rank})"
    print(message, file=sys.stderr, flush=True)
    return code
