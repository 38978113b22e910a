"""What leaks: attacks on networks and features, certificates, reports. From Python there is `audit_features`."""

from typing import Any

__all__ = ["audit_features"]


def __getattr__(name: str) -> Any:
    """Attackers take seconds to import: only for those who ask for them."""
    if name != "audit_features":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from privatenet.audit.foreign.audit import audit_features

    return audit_features
