"""Command lines, read: what is wrong with them is a `ConfigError` of one line."""

from collections.abc import Sequence

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from privatenet.distributed.errors import ConfigError


def parse_arguments(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """The values of `argv`. `parser` is one that does not exit by itself; `--help` prints and exits."""
    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error
