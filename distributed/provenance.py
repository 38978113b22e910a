"""What a result came from: the version of the code, and settings as dotted keys, compared with those before."""

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any


def code_version() -> str:
    """The package's version and, in a checkout, its commit."""
    short = commit()[:9]
    return version("privatenet") + (f"+{short}" if short else "")


@cache
def commit() -> str:
    """The commit of a checkout; empty elsewhere."""
    here, git = Path(__file__).resolve().parent, shutil.which("git")
    if not git:
        return ""
    answer = subprocess.run([git, "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys: {"a": {"b": 1}, "c": [{"d": 2}]} to {"a.b": 1, "c.0.d": 2}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(place): item for place, item in enumerate(value)}
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first four of nested settings that are not what they were, in words; empty where all are."""
    old, new = flatten(before), flatten(now)
    changed = [key for key in sorted({*new, *old}) if new.get(key) != old.get(key)]
    return "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed[:4])
