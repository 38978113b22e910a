"""How every command ends: what a person got wrong is said in one line, without a traceback."""

import errno
import sys
import time
from collections.abc import Callable

from privatenet.audit.errors import AuditError
from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import FULL, cannot_write
from privatenet.data_shards.uri import scrub
from privatenet.distributed.errors import ConfigError, Diverged, Interrupted
from privatenet.distributed.place import launched_rank
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
    except OSError as error:
        if error.errno not in (*FULL, errno.EROFS):
            raise
        message, code = f"error: {cannot_write(error.filename or 'a file', error)}", BAD_INPUT
        shared = getattr(error, "shared_by_ranks", False)
    except Diverged as error:
        message, code, shared = f"error: {error}", DIVERGED, True
    except (Interrupted, KeyboardInterrupt) as error:
        message, code, shared = f"interrupted: {str(error) or 'the same command goes on'}", INTERRUPTED, True
    rank = launched_rank()
    if rank and not shared:
        try:
            time.sleep(LATER_RANKS_WAIT_S)
        except KeyboardInterrupt:  # the first rank has said it, and its launcher ends the others
            return code
        message += f" (rank {rank})"
    if not (rank and shared):
        print(printable(f"privatenet: {message}"), file=sys.stderr, flush=True)
    return code


def printable(text: str) -> str:
    """`text` in which signs that a terminal would act upon, which a file or a name may hold, are written out."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in text
    )
