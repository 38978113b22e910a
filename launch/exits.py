"""How every command ends: what a person got wrong is said in one line, without a traceback."""

import sys
from collections.abc import Callable

from privatenet.data_shards.errors import DataError
from privatenet.distributed.config import ConfigError
from privatenet.distributed.signals import Diverged, Interrupted
from privatenet.models.errors import ModelError

DIVERGED = 1
BAD_INPUT = 2
INTERRUPTED = 130


def guarded(command: Callable[[], int], speaks: Callable[[], bool] = lambda: True) -> int:
    """Run `command`; its exit code, or 2 after one line on stderr for bad input, 130 for an interruption.

    With several ranks all of them get here, and the one that `speaks` prints.
    """
    try:
        return command()
    except (ConfigError, DataError, ModelError) as error:
        message, code = f"privatenet: error: {error}", BAD_INPUT
    except Diverged as error:
        message, code = f"privatenet: error: {error}", DIVERGED
    except (Interrupted, KeyboardInterrupt) as error:
        message, code = f"privatenet: interrupted: {error or 'nothing was lost'}", INTERRUPTED
    if speaks():
        print(message, file=sys.stderr, flush=True)
    return code
