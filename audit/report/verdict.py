"""What the figures allow to say about each private attribute, in one sentence that claims no more than they do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from privatenet.audit.attack.findings import Attack, Findings, Leak
from privatenet.audit.attack.measures import SIGNS
from privatenet.audit.report.text import (
    attack_name,
    count,
    in_words,
    left_in_words,
    number,
    percent,
    points,
    tap_name,
    with_interval,
)

FEW = 100
"""Below this many test samples nothing is said to be hidden."""
RARE = 10
"""Of a class with fewer test samples than this, nothing is said to be known."""
WIDE = 0.05
"""Where an interval still allows more excess accuracy than this, nothing is said to be hidden."""

Status = Literal["leaks", "undecided", "none found"]


@dataclass(frozen=True)
class Verdict:
    """A private attribute's status, the sentence that states it, and the leak that it quotes."""

    attribute: str
    status: Status
    sentence: str
    leak: Leak


def verdicts(findings: Findings) -> tuple[Verdict, ...]:
    """A verdict on every private attribute of the audited network, in the findings' order.

    It quotes the tap whose best attacker did best in tuning, so the test samples do not choose what they are to judge;
    but a tap that leaks comes before one that does not, as a leak anywhere is a leak.
    """
    leaks = findings.audited.leaks
    return tuple(
        _judge(sharpest([leak for leak in leaks if leak.attribute == attribute]), findings)
        for attribute in dict.fromkeys(leak.attribute for leak in leaks)
    )


def in_full(verdict: Verdict, findings: Findings) -> str:
    """A verdict's sentence, and beside it what is read where the attribute is protected and what the true target alone
    gives away."""
    parts = verdict.sentence, at_protected(verdict.leak, findings), beyond_target(verdict.attribute, findings)
    return " ".join(filter(None, parts))


def verdict(leak: Leak, findings: Findings) -> str:
    """One sentence on the attribute of `leak`, over all taps of the audited network, with the figures of `leak`.

    "leaks" needs one tap and kind of faces where the bound of the best attacker (chosen by tuning) lies above what
    tells nothing: in accuracy, above the majority class; or else in usable bits above 0; or, if every class that occurs
    has `RARE` test samples or more, in balanced accuracy above one over their number, or in AUC above 0.5.
    All these bounds of one attribute hold together at the protocol's confidence (Bonferroni, see measures.py), so that
    of attributes of which no tap tells anything, at most 5 % are said to leak, at 95 %, however many taps there are.
    "no leak found" needs `FEW` test samples at every tap and intervals that allow at most `WIDE` excess accuracy.
    All else is undecided, and so is an attribute of which less than two classes are tested. Intervals in the sentence
    are those of each figure by itself.
    """
    return _judge(leak, findings).sentence


def comparison(leak: Leak, findings: Findings) -> str:
    """What the unprotected network gives away at the same tap, and how much is left of what it gives away in all; empty
    where it was not attacked."""
    if (unprotected := findings.network("unprotected")) is None:
        return ""
    sentences = []
    if (reference := unprotected.leak(leak.tap, leak.attribute)) is not None and leak.change is not None:
        there, change = percent(reference.headline.accuracy.value), with_interval(leak.change, points, " points")
        sentences.append(f"On the unprotected network it is {there} %: a change of {change}.")
    if leak.left is not None:
        left = left_in_words(leak.left)
        sentences.append(f"Of what its backbone gives away above the floor, {left}.")
    return " ".join(sentences)


def at_protected(quoted: Leak, findings: Findings) -> str:
    """What the best attackers read where the attribute of a quoted leak is protected; empty where it is nowhere, or
    only there where the leak was quoted."""
    attribute, pairs = quoted.attribute, findings.audited.protected
    protected = [
        leak for leak in findings.audited.leaks if leak.attribute == attribute and f"{leak.tap}-{attribute}" in pairs
    ]
    if not protected or [leak.tap for leak in protected] == [quoted.tap]:
        return ""
    read = [f"{with_interval(leak.headline.accuracy, percent, ' %')} at {tap_name(leak.tap)}" for leak in protected]
    return f"Where it is protected, the best attacker is right for {in_words(read)}."


def beyond_target(attribute: str, findings: Findings) -> str:
    """At which taps more is surely read than the true target alone gives away; empty where that is unknown."""
    floor = findings.floor(attribute)
    leaks = [leak for leak in findings.audited.leaks if leak.attribute == attribute and leak.above is not None]
    if floor is None or not leaks:
        return ""
    above = [tap_name(leak.tap) for leak in leaks if leak.above and leak.above.bound and leak.above.bound > 0]
    where = f"at {in_words(above)}" if above else f"at none of {len(leaks)} taps" if len(leaks) > 1 else "nowhere"
    alone = f"The true {findings.audited.target} alone gives {percent(floor.value)} %"
    return f"{alone}; surely more is read {where}."


def sharpest(leaks: Sequence[Leak]) -> Leak:
    """The leak to quote of several taps: surely leaking ones first, then by tuning cross-entropy."""

    def rank(leak: Leak) -> tuple[bool, bool, float]:
        (sign, _), tuning = _sign(leak), leak.headline.tuning
        return sign == "accuracy", sign != "", -tuning if math.isfinite(tuning) else -math.inf

    return max(leaks, key=rank)


def _judge(leak: Leak, findings: Findings) -> Verdict:
    taps = [other for other in findings.audited.leaks if other.attribute == leak.attribute]
    leaking = sum(_sign(tap)[0] != "" for tap in taps)
    sign, attack = _sign(leak)
    name, limits = leak.attribute, _limits(leak)
    status: Status
    if _present(leak) < 2:
        present = [name for name, size in zip(leak.classes, leak.class_counts, strict=True) if size]
        only = f"all {count(leak.samples)} are of class {present[0]}" if present else "no test face has a label for it"
        status, sentence = "undecided", f"{name} cannot be judged: {only}"
    elif sign:
        place = f" at {leaking} of {len(taps)} taps" if len(taps) > 1 else ""
        form = "" if sign == "accuracy" else ", though not in accuracy"
        status, sentence = (
            "leaks",
            f"{name} leaks{place}{form}: {_best(leak, attack)}{_evidence(leak, attack, sign)}{limits}",
        )
    elif leaking:
        status, sentence = "leaks", f"{name} leaks at {leaking} of {len(taps)} taps, but not surely at this one: "
        sentence += f"{_best(leak, attack)}{_evidence(leak, attack, 'accuracy')}{limits}"
    else:
        status, sentence = _without_sign(leak, taps, findings.protocol.confidence)
    return Verdict(name, status, sentence + ".", leak)


def _without_sign(leak: Leak, taps: Sequence[Leak], confidence: float) -> tuple[Status, str]:
    """Absence of evidence: hidden as far as these attackers can tell, or too little to say."""
    everyone = [attack for tap in taps for attack in tap.attacks]
    room = [tap.headline.excess.high for tap in taps]
    if not all(map(math.isfinite, room)):
        return "undecided", f"{leak.attribute} is undecided: its figures are undefined{_limits(leak)}"
    where = "" if len(taps) == 1 else f" at any of {len(taps)} taps"
    majority = f"the majority class ({percent(leak.majority)} % of {count(leak.samples)})"
    if all(attack.excess.value <= 0 for attack in everyone):
        result = f"no attacker did better than {majority}{where}"
    else:
        result = f"the best attacker was not surely better than {majority}{where}"
    most = max(0.0, *room)
    allowed = (
        f"{100 * confidence:.3g} % interval{'s' if len(taps) > 1 else ''} still allow{'s' if len(taps) == 1 else ''}"
    )
    closing = f"; the {allowed} up to {percent(most)} points{_limits(leak)}"
    if most > WIDE or min(tap.samples for tap in taps) < FEW:
        return "undecided", f"{leak.attribute} is undecided: {result}{closing}"
    return "none found", f"No leak of {leak.attribute} was found, which is no proof of none: {result}{closing}"


def _sign(leak: Leak) -> tuple[str, Attack]:
    """By which of `SIGNS` a best attacker, on either kind of faces, surely tells something, and which; or empty."""
    present = _present(leak)
    # Resampling a handful of one class says nothing about that class, so its recall would look surer than it is.
    firm = all(size >= RARE for size in leak.class_counts if size)

    def holds(sign: str, attack: Attack) -> bool:
        estimate, nothing = {
            "accuracy": (attack.excess, 0.0),
            "bits": (attack.bits, 0.0),
            "balanced": (attack.balanced_accuracy, 1 / present),
            "auc": (attack.auc, 0.5),
        }[sign]
        judged = firm or sign in ("accuracy", "bits")
        return judged and estimate.bound is not None and estimate.bound > nothing

    places = sorted(leak.chosen.values(), key=lambda place: place != leak.best)
    signs = product(SIGNS if present > 1 else (), [leak.attacks[place] for place in places])
    return next(((sign, attack) for sign, attack in signs if holds(sign, attack)), ("", leak.headline))


def _best(leak: Leak, best: Attack) -> str:
    who = f"the best of {len(leak.attacks)} attackers" if len(leak.attacks) > 1 else "the one attacker"
    right = with_interval(best.accuracy, percent, " %")
    return f"at {tap_name(leak.tap)} {who} ({attack_name(best)}) is right for {right} of {count(leak.samples)}"


def _evidence(leak: Leak, best: Attack, sign: str) -> str:
    majority = f"; always answering the majority gives {percent(leak.majority)} %"
    match sign:
        case "bits":
            bits = with_interval(best.bits, number, " bits")
            fact = f"its answers tell {bits} of the {number(leak.entropy)} that a label holds"
        case "balanced":
            recall, chance = with_interval(best.balanced_accuracy, percent, " %"), percent(1 / _present(leak))
            fact = f"over the classes it finds {recall} on average, where guessing finds {chance} %"
        case "auc":
            fact = f"it ranks the classes with an AUC of {with_interval(best.auc, number)}, where guessing gives 0.50"
        case _:
            return majority
    return f"{majority}, but {fact}"


def _limits(leak: Leak) -> str:
    """What the samples are too few for."""
    rare = [
        f"{name} ({count(size) if size else 'none'})"
        for name, size in zip(leak.classes, leak.class_counts, strict=True)
        if size < RARE
    ]
    names = rare if len(rare) <= 3 else [*rare[:2], f"{len(rare) - 2} more classes"]
    few = f", few to judge by (only {count(leak.samples)})" if leak.samples < FEW else ""
    return few + (f"; too few test faces to say anything of {in_words(names)}" if rare else "")


def _present(leak: Leak) -> int:
    return sum(size > 0 for size in leak.class_counts)
