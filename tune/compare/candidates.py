"""What is compared: a network with its settings, and how much utility and leakage it has on each split."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from privatenet.audit.attack.findings import Estimate

UNPROTECTED = "unprotected"
UNDEFINED = Estimate(math.nan, math.nan, math.nan)

Setting = str | float

_ORDER = ("lambda", "objective", "taps", "attributes", "prior", "known", "backbone", "lr", "epochs", "seed")
_WITHOUT_NAME = ("objective", "taps", "attributes", "backbone")
"""Settings whose values need no name beside them."""


@dataclass(frozen=True)
class Measures:
    """On one split utility, the worst leakage, by tap-attribute pair its leakage (excess over the majority), and by
    attribute the `floors`, the excess of who sees only the true target label."""

    utility: Estimate = UNDEFINED
    leakage: Estimate = UNDEFINED
    pairs: Mapping[str, Estimate] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, metrics: Mapping[str, float], split: str) -> "Measures":
        """From the flat metrics of a run, such as `validation/utility_low` or `test/arm-gender/excess`."""

        def estimate(name: str) -> Estimate:
            return Estimate(*(metrics.get(f"{split}/{name}{end}", math.nan) for end in ("", "_low", "_high")))

        def named(what: str) -> list[str]:
            return sorted(match[1] for key in metrics if (match := re.fullmatch(rf"{split}/(.+)/{what}", key)))

        pairs = {name: estimate(f"{name}/excess") for name in named("excess")}
        floors = {name: metrics[f"{split}/{name}/floor"] for name in named("floor")}
        return cls(estimate("utility"), estimate("leakage"), pairs, floors)

    def trade_off(self, pair: str = "") -> tuple[Estimate, Estimate] | None:
        """Utility and the leakage at `pair`, or the worst; None where one is missing or undefined."""
        leakage = self.pairs.get(pair, UNDEFINED) if pair else self.leakage
        return (self.utility, leakage) if math.isfinite(self.utility.value + leakage.value) else None


@dataclass(frozen=True)
class Candidate:
    """One network, by the id of its run. `settings` are those that set it apart; one that does not apply is left out.

    `group` is its objective, or unprotected; `checkpoint` may be empty, or a folder of another machine; a `reason` says
    why its run failed.
    """

    run_id: str
    name: str
    status: str
    group: str
    settings: Mapping[str, Setting]
    validation: Measures = Measures()
    test: Measures = Measures()
    checkpoint: str = ""
    reason: str = ""

    @property
    def private(self) -> bool:
        return self.group != UNPROTECTED

    @property
    def label(self) -> str:
        """Its settings in words: `lambda 0.5, confusion, backbone+arm`; its name where it has none."""
        settings = [(name, setting_text(self.settings[name])) for name in setting_order(self.settings)]
        words = [text if name in _WITHOUT_NAME else f"{name} {text}" for name, text in settings]
        return ", ".join(words if self.private else [UNPROTECTED, *words]) or self.name

    def measures(self, split: str) -> Measures:
        return self.validation if split == "validation" else self.test


def setting_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of settings, each once, what matters most first."""
    ranks = {name: rank for rank, name in enumerate(_ORDER)}
    return tuple(sorted(set(names), key=lambda name: (ranks.get(name, len(ranks)), name)))


def spans_decades(numbers: Sequence[float]) -> bool:
    """Whether a logarithmic scale suits the values of a setting, as of a learning rate."""
    return min(numbers) > 0 and max(numbers) >= 10 * min(numbers)


def setting_text(value: Setting) -> str:
    return value if isinstance(value, str) else f"{value:g}"
