"""The one error of this room: a network that cannot be built as asked."""


class ModelError(ValueError):
    """A backbone, tap, weight file or objective is not available; the message names it and what is accepted."""
