"""How figures are written, everywhere alike: percent and bits with intervals; what is undefined is an en dash."""

import html
import math
import re
from collections.abc import Callable

from privatenet.audit.attack.features import LABEL, LOGITS, releases_of
from privatenet.audit.attack.findings import Attack, Estimate
from privatenet.audit.settings import TRAINING

DASH = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_MARKDOWN = re.compile(r"([\\`*|\[\]#~])")


def number(value: float, digits: int = 2) -> str:
    """A figure as it is, for example bits."""
    return f"{value:z,.{digits}f}".replace("-", _MINUS) if math.isfinite(value) else DASH


def percent(share: float) -> str:
    """A share of 1 in percent, without the sign."""
    return number(100 * share, 1)


def points(share: float) -> str:
    """A difference of two shares in percentage points, always with its sign."""
    return f"{100 * share:+z,.1f}".replace("-", _MINUS) if math.isfinite(share) else DASH


def interval(estimate: Estimate, show: Callable[[float], str] = percent) -> str:
    """`85.5 to 89.2`; a dash where either end is undefined."""
    ends = (estimate.low, estimate.high)
    return f"{show(ends[0])} to {show(ends[1])}" if all(map(math.isfinite, ends)) else DASH


def with_interval(estimate: Estimate, show: Callable[[float], str] = percent, unit: str = "") -> str:
    """`87.5 % (85.5 to 89.2)`; the value alone where it has no interval."""
    value, ends = show(estimate.value), interval(estimate, show)
    return value if value == DASH else f"{value}{unit}" if ends == DASH else f"{value}{unit} ({ends})"


def count(samples: int, thing: str = "test face") -> str:
    """`no test face`, `1 test face`, `1,238 test faces`."""
    return f"no {thing}" if samples == 0 else f"{samples:,} {thing}{'' if samples == 1 else 's'}"


def in_words(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def over_draws(draws: int) -> str:
    """What to say of a utility that is the mean over draws of a channel's noise; nothing where there is none."""
    return f"mean over {draws} draws of the noise" if draws > 1 else ""


def left_in_words(left: Estimate) -> str:
    """How much leakage is left: `31 % is left (20 to 42)`; where it is not above 0, `nothing is left (-15 to 12 %)`."""
    ends = interval(left, whole)
    return f"nothing is left ({ends} %)" if left.value <= 0 else f"{whole(left.value)} % is left ({ends})"


def whole(share: float) -> str:
    """A share of 1 in whole percent, without the sign."""
    return number(100 * share, 0)


def attack_name(attack: Attack) -> str:
    """Attacker, what it looks at, and the faces it is fitted on, if not training faces: `mlp2, whitened, fresh`."""
    faces = attack.faces if attack.faces != TRAINING else ""
    return ", ".join(word for word in (attack.attacker, attack.representation, faces) if word)


def tap_name(tap: str) -> str:
    """A tap as a person reads it: `backbone`; what is sent as `1 release`, the mean of several as `10 releases`."""
    return count(releases, "release") if (releases := releases_of(tap)) else tap


def deployment(tap: str) -> str:
    """Where an attacker reads a tap: `enclave`, `split` or of several releases `split, 10`, `output` (the logits) or
    `label` (the class that they name)."""
    if releases := releases_of(tap):
        return "split" if releases == 1 else f"split, {releases}"
    return {LOGITS: "output", LABEL: "label"}.get(tap, "enclave")


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
