"""How a run ends before its time."""


class ConfigError(ValueError):
    """A setting is unknown or impossible; the message names its key, its value and what is accepted."""


class Interrupted(Exception):
    """Training was asked to stop by a signal; a checkpoint was written, and the same command goes on from it."""


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""
