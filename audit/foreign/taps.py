"""What the taps of other people's networks may be called, and which forms their features may have."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy.typing as npt
from torch import Tensor

from privatenet.audit.attack.features import ANSWERS, LABEL, LOGITS, releases_of
from privatenet.audit.attack.representations import KINDS
from privatenet.audit.errors import AuditError
from privatenet.models.channel import CENTRE

OUTPUT = "output"
"""The tap of what a network answers, where that is something else than the logits of the target's classes."""

T = TypeVar("T", npt.NDArray[Any], Tensor)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,150}")


def check_name(tap: str) -> str:
    """`tap`, if it can be called that; it names files. Raises `AuditError`."""
    if not _NAME.fullmatch(tap) or tap in (LABEL, ANSWERS, CENTRE) or releases_of(tap):
        raise AuditError(f"tap {tap!r}: accepted are names of letters, digits and _ . : - that mean nothing else here")
    return tap


def in_form(features: T) -> T:
    """Features [B, ...] of a map that is one position high or wide as tokens, and of a single token as a vector."""
    if features.ndim == 4 and min(features.shape[2:]) == 1:
        features = features.reshape(*features.shape[:2], -1).swapaxes(1, 2)
    if features.ndim == 3 and features.shape[1] == 1:
        features = features.reshape(len(features), -1)
    return features


def named_output(features: Mapping[str, Tensor], num_classes: int) -> tuple[str, dict[str, tuple[int, ...]]]:
    """What the output among features [B, ...] by tap is: `LOGITS` where it has so many numbers, else `OUTPUT`; and the
    shapes of one picture's, under these names. Raises `AuditError` for what attackers cannot look at."""
    shapes = {tap: check_form(tap, values.shape[1:]) for tap, values in features.items()}
    name = LOGITS if shapes[OUTPUT] == (num_classes,) else OUTPUT
    return name, {name if tap == OUTPUT else tap: shape for tap, shape in shapes.items()}


def check_form(tap: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one picture's features, if it is one that attackers can look at. Raises `AuditError`."""
    if not 1 <= len(shape) <= len(KINDS) or min(shape) < 1 or (tap == LOGITS and len(shape) != 1):
        raise AuditError(
            f"tap {tap!r}: a picture's features are of shape {tuple(shape)}; accepted are vectors [C], tokens [T, C] "
            "and maps [C, h, w]"
        )
    return tuple(shape)
