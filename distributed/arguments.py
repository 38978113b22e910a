"""Command lines, read: what is wrong with them is a `ConfigError` of one line."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from privatenet.data_shards.yaml_files import read_yaml
from privatenet.distributed.errors import ConfigError

CONFIG = "--config"


def parse_arguments(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """The values of `argv`. `parser` is one that does not exit by itself; `--help` prints and exits."""
    for before, word in pairwise(["", *argv]):
        name, _, value = word.partition("=")
        path = Path(word if before == CONFIG else value if name == CONFIG else "")
        if path.is_file():
            read_yaml(path, ConfigError)  # a key twice, which the parser would let pass
    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error
