"""Which networks are worth choosing from: the front of utility against leakage, and its knee."""

import math
from collections.abc import Sequence


def front(candidates: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """Which of (utility, excess) no other one dominates: no less utility, no more excess, and better in one of them.

    An undefined figure is never on the front.
    """
    return tuple(
        math.isfinite(utility + excess)
        and not any(u >= utility and e <= excess and (u > utility or e < excess) for u, e in candidates)
        for utility, excess in candidates
    )


def knee(candidates: Sequence[tuple[float, float]], choices: Sequence[bool] | None = None) -> int | None:
    """The place of the front's point that is farthest, on the better side, from the line between the front's two ends.

    Both axes are first scaled to what the front spans, so that the distance is utility minus excess; where that decides
    nothing (two points, or none beyond the line), unscaled. `choices` are those that may be it, of a
    front of all. None where none of them is on the front.
    """
    best = [place for place, good in enumerate(front(candidates)) if good]
    eligible = [place for place in best if choices is None or choices[place]]
    if not eligible:
        return None
    (least, most), (low, high) = ((min(ends), max(ends)) for ends in zip(*(candidates[i] for i in best), strict=True))

    def worth(place: int) -> tuple[float, float]:
        utility, excess = candidates[place]
        scaled = (utility - least) / ((most - least) or 1.0) - (excess - low) / ((high - low) or 1.0)
        return scaled, utility - excess

    return max(eligible, key=worth)
