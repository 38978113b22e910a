"""What a bench says: a figure, measured several times, beside its limit, measured in turn with it."""

from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

TIMES = ("s", "MiB")
"""Units of which less is better; of all others more is."""


@dataclass(frozen=True)
class Spread:
    """The median of several values, and the quarter and three quarters of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: tuple[float, ...]) -> "Spread":
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(median(values), low, high)


@dataclass(frozen=True)
class Figure:
    """`values` in `unit`, one of each repetition, and `limits`, those of the figure `limit` in the same repetitions.

    `peak_mib` is the most memory that the process, or on a GPU its tensors, took meanwhile; 0 where nobody looked.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    limit: str = ""
    limits: tuple[float, ...] = ()
    peak_mib: float = 0.0

    @property
    def value(self) -> Spread:
        return Spread.of(self.values)

    @property
    def share(self) -> Spread | None:
        """How much of the limit is reached, repetition by repetition: 1 is all of it."""
        if not self.limits:
            return None
        pairs = zip(self.values, self.limits, strict=True)
        return Spread.of(tuple(b / a if self.unit in TIMES else a / b for a, b in pairs))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with the median first, for a reader without our code."""
        share = self.share
        values: dict[str, Any] = {"name": self.name, "unit": self.unit, "median": _short(self.value.median)}
        if share:
            values |= {"share_of_limit": _short(share.median), "limit": self.limit}
        values |= {"values": [_short(value) for value in self.values], "limits": [_short(each) for each in self.limits]}
        return values | ({"peak_mib": round(self.peak_mib)} if self.peak_mib else {})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Figure":
        """What `to_dict` returned."""
        numbers = {name: tuple(map(float, values[name])) for name in ("values", "limits")}
        return cls(values["name"], values["unit"], **numbers, limit=values.get("limit", ""),
                   peak_mib=values.get("peak_mib", 0.0))  # fmt: skip


def _short(value: float) -> float:
    return float(f"{value:.5g}")
