"""Leaks beside the floor and those of the unprotected network: what is above, change, robustness, what is left."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.attack.intervals import Numbers, Resamples
from privatenet.audit.attack.judging import JudgedLeak
from privatenet.audit.settings import AuditConfig

WHOLE = "backbone"
"""The tap of the unprotected network whose leakage is the whole of it."""


def above_floor(leaks: Sequence[JudgedLeak], floors: Mapping[str, Numbers], config: AuditConfig) -> list[JudgedLeak]:
    """`leaks` with how far each best attacker gets above the floor, where that is known; `floors` as below.

    The bounds of one attribute hold together: one for each of its taps and kind of faces, of which the best is taken.
    """

    def judged(one: JudgedLeak) -> JudgedLeak:
        if (floor := floors.get(one.leak.attribute)) is None:
            return one
        known = ~np.isnan(floor)
        bounds = sum(len(other.leak.chosen) for other in leaks if other.leak.attribute == one.leak.attribute)
        resamples = Resamples(one.people[known], config.resamples, config.confidence, bounds=bounds)
        return replace(one, leak=replace(one.leak, above=resamples.mean((one.right - floor)[known])))

    return [judged(one) for one in leaks]


def relative_leaks(
    leaks: Sequence[JudgedLeak], unprotected: Sequence[JudgedLeak], floors: Mapping[str, Numbers], config: AuditConfig
) -> list[JudgedLeak]:
    """`leaks` with what can be said of them beside those of the `unprotected` network, on the same test samples.

    The change and the paper's robustness where it has the same tap, leakage left where its backbone was attacked;
    `floors` are 1 by attribute for the samples whose true target label tells their class, else 0, and NaN where that
    is unknown; such samples do not count in what is left.
    """
    references = {(other.leak.tap, other.leak.attribute): other.right for other in unprotected}

    def related(one: JudgedLeak) -> JudgedLeak:
        leak, resamples = one.leak, Resamples(one.people, config.resamples, config.confidence)
        if (same := references.get((leak.tap, leak.attribute))) is not None:
            change = resamples.mean(one.right - same)
            leak = replace(leak, change=change, robustness=change.value / float(same.mean()))
        whole, floor = references.get((WHOLE, leak.attribute)), floors.get(leak.attribute)
        if whole is not None and floor is not None:
            known = ~np.isnan(floor)
            resamples = Resamples(one.people[known], config.resamples, config.confidence)
            leak = replace(leak, left=leakage_left((one.right - floor)[known], (whole - floor)[known], resamples))
        return replace(one, leak=leak)

    return [related(one) for one in leaks]


def leakage_left(excess: Numbers, whole: Numbers, resamples: Resamples) -> Estimate | None:
    """A network's excess over the floor as a share of the unprotected one's, both by sample [N] and so paired in every
    resample; below 0 where less is read than the floor. None where the whole is not surely above 0."""
    if not resamples.mean(whole).low > 0:
        return None
    wholes = resamples.means(whole)
    shares = resamples.means(excess) / np.where(wholes > 0, wholes, np.nan)
    return resamples.estimate(float(excess.mean() / whole.mean()), shares)
