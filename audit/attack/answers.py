"""Answers on disk: one file for each attack, named by all that its answers depend on, believed only with its own sum.

    answers/<network>/backbone-gender/logistic-whitened-5b0c2f61d7e3.npz          an attack's answers
    answers/<network>/backbone-gender/code-logistic-whitened-5b0c2f61d7e3.npz     its online code (see online.py)

Nothing is unpickled.
"""

import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from privatenet.data_shards.files import replacing

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn")

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Stored:
    """The content of a file: named arrays, and notes about them in plain JSON."""

    arrays: Arrays
    notes: Mapping[str, Any]


def write(path: Path, stored: Stored) -> None:
    """Write `path`, whole or not at all, with the sum of its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = json.dumps(stored.notes)
    with replacing(path) as stream:
        about = {"notes": np.array(notes), "sha256": np.array(_sum(stored.arrays, notes))}
        np.savez(stream, **stored.arrays, **about)  # type: ignore[arg-type]


def read(path: Path) -> Stored | None:
    """The inverse of `write`; None where there is no file, or, after a line about it, not the one that was written."""
    if not path.is_file():
        return None
    try:
        return _load(path)
    except Exception:  # NumPy's readers raise what they like; whatever it is, it is not what was written
        print(f"privatenet: {path}: is not the file that was written, computed again", file=sys.stderr)
        return None


def _load(path: Path) -> Stored:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    notes, expected = str(arrays.pop("notes")), str(arrays.pop("sha256"))
    if _sum(arrays, notes) != expected:
        raise ValueError("another sum")
    return Stored(arrays, json.loads(notes))


def code_digest(modules: Iterable[ModuleType]) -> str:
    """SHA-256 of the modules' source text."""
    sources = sorted({module.__name__: inspect.getsource(module) for module in modules}.items())
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """The versions of what attackers are fitted by."""
    return {name: version(name) for name in LIBRARIES}


def _sum(arrays: Arrays, notes: str) -> str:
    content = hashlib.sha256(notes.encode())
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()
