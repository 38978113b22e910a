"""The one error of this room: a network that cannot be built as asked."""

from textwrap import shorten


class ModelError(ValueError):
    """A backbone, tap, weight file or objective is not available; the message names it and what is accepted."""


def reason(error: Exception) -> str:
    """What another library says of what it cannot do, in one line."""
    return shorten(str(error).partition("\n")[0], 160, placeholder=" ...") or type(error).__name__
