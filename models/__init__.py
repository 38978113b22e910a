"""Networks, adversaries and objectives. From Python there is `load`, of what `privatenet export` has written."""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from privatenet.models.exported import load

    return load
