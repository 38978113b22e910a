"""YAML from a person, read so that nothing in it is silently left out, and nothing grows: a key twice is a mistake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from privatenet.data_shards.files import read_whole

LARGEST = 2**24
"""Bytes of a file."""
MOST = 100_000
"""Values of a file, its aliases written out."""
DEEPEST = 40


def read_yaml(path: Path, error: Callable[[str], Exception]) -> Any:
    """The content of a YAML file. Raises `error` naming the file and what is wrong with it."""
    return decode_yaml(read_whole(path, LARGEST, "YAML file", error), path, error)


def decode_yaml(content: bytes, origin: object, error: Callable[[str], Exception]) -> Any:
    """The values that are the content of `origin`. Raises `error` as `read_yaml` does."""
    try:
        text = content.decode()
        node = yaml.compose(text, yaml.SafeLoader)
        if node is not None and (problem := _problem(node)):
            raise error(f"{origin}: {problem}")
        return yaml.safe_load(text)
    except RecursionError as cause:
        raise error(f"{origin}: is nested too deeply, accepted: {DEEPEST} levels") from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise error(f"{origin}: is not YAML: {' '.join(str(cause).split())}") from cause


def _problem(root: yaml.Node) -> str:
    """What no file of ours has: a key twice in a mapping, or values that are too many or too deep; empty for none."""
    sizes: dict[int, int] = {}

    def judge(node: yaml.Node, depth: int) -> str:
        if id(node) in sizes:
            return ""
        if depth > DEEPEST:
            return f"is nested too deeply, accepted: {DEEPEST} levels"
        sizes[id(node)] = 1  # also ends a mapping that holds itself
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            keys: list[str] = []
            for key, value in node.value:
                if key.value in keys:
                    return f"line {key.start_mark.line + 1}: the key '{key.value}' is there twice"
                keys.append(key.value)
                children.append(value)
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        for child in children:
            if problem := judge(child, depth + 1):
                return problem
        sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
        return "" if sizes[id(node)] <= MOST else f"has more than {MOST:,} values"

    return judge(root, 0)
