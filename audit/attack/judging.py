"""What a fleet's answers come to: the best attacker of every tap and attribute, chosen by tuning, and its measures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from privatenet.audit.attack.features import LOGITS, Features
from privatenet.audit.attack.findings import Attack, Estimate, Leak
from privatenet.audit.attack.fleet import Campaign, Result, answers, learning_blocks
from privatenet.audit.attack.measures import Numbers, Resamples, code_length, entropy, judge, wilson
from privatenet.audit.attack.samples import Labels, Parts, Representation, judging_split, known_parts, representations
from privatenet.audit.settings import AuditConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.models.network import Network

UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Evidence:
    """All that attackers said of one network; `donors` are networks that fine-tuning started from, by attribute."""

    features: Features
    donors: Mapping[str, Network]
    results: list[Result]
    folder: Path


@dataclass(frozen=True)
class Judged:
    """A leak, and which test samples its best attacker was right about: what changes are computed from."""

    leak: Leak
    right: Numbers


def leaks(
    evidence: Evidence, config: AuditConfig, campaign: Campaign, faces: Faces, parts: Parts, ranks: Ranks,
    with_code: bool = True,
) -> list[Judged]:  # fmt: skip
    """Every leak of one network; without the code length, which costs four more fits each, unless `with_code`."""

    @lru_cache(maxsize=1)
    def shown(tap: str) -> Mapping[str, Representation]:
        every = representations(evidence.features, tap, parts, campaign.components, seed=0)
        return {seen.kind: seen for seen in every}

    out = []
    for tap in evidence.features.shapes:
        for attribute in config.attributes:
            here = [r for r in evidence.results if (r.unit.tap, r.unit.attribute) == (tap, attribute)]
            if here:  # attackers of maps alone have nothing to say of logits
                out.append(_leak(here, evidence, shown, config, faces, parts, ranks, with_code))
    return out


def utility(features: Features, faces: Faces, parts: Parts, confidence: float) -> tuple[Estimate, float]:
    """How often the logits name the target class of the samples that judge, and the share of its largest class."""
    column = faces.schema.names.index(faces.schema.target)
    truth = judging_split(parts, faces).labels[parts.testing, column]
    known = truth >= 0
    given = np.asarray(features.array(parts.split, LOGITS)[parts.testing]).argmax(axis=1)
    right = (given == truth)[known]
    majority = float(np.bincount(truth[known]).max() / known.sum())
    return wilson(int(right.sum()), len(right), confidence), majority


def _leak(
    results: list[Result], evidence: Evidence, shown: Callable[[str], Mapping[str, Representation]],
    config: AuditConfig, faces: Faces, parts: Parts, ranks: Ranks, with_code: bool,
) -> Judged:  # fmt: skip
    unit = results[0].unit
    attribute = faces.schema.attribute(unit.attribute)
    _, fitting, tuning, testing = known_parts(parts, faces, unit.attribute)
    resamples = Resamples(len(testing), config.resamples, config.confidence)
    classes = len(attribute.classes)
    judged = [_attack(result, fitting, tuning, testing, classes, resamples) for result in results]
    best = max(range(len(judged)), key=lambda place: judged[place][0].tuning)
    length = UNKNOWN
    if with_code:
        blocks = learning_blocks(results[best], shown, faces, parts, evidence.donors, ranks, evidence.folder)
        length = code_length(blocks, config.confidence)
    counts = np.bincount(testing, minlength=classes)
    leak = Leak(
        tap=unit.tap,
        attribute=unit.attribute,
        classes=attribute.classes,
        class_counts=tuple(int(count) for count in counts),
        majority=float(counts.max() / counts.sum()),
        entropy=entropy(fitting),
        attacks=tuple(attack for attack, _ in judged),
        best=best,
        code_length=length,
    )
    return Judged(leak, judged[best][1])


def _attack(
    result: Result, fitting: Labels, tuning: Labels, testing: Labels, classes: int, resamples: Resamples
) -> tuple[Attack, Numbers]:
    """The measures of a unit by the seed that tunes best, and which test samples that one was right about."""
    seeds = list(answers(result, (fitting, tuning), classes))
    losses = [-tuned[np.arange(len(tuning)), tuning].mean() for tuned, _ in seeds]
    rights = [(log_p.argmax(axis=1) == testing).astype(np.float64) for _, log_p in seeds]
    chosen = int(np.argmin(losses))
    tuned, log_p = seeds[chosen]
    made = Attack(
        attacker=result.unit.attacker,
        representation=result.unit.representation,
        numbers=result.numbers,
        note=result.note,
        seeds=len(seeds),
        tuning=float((tuned.argmax(axis=1) == tuning).mean()),
        spread=float(np.std([right.mean() for right in rights])),
        seconds=result.seconds,
        **vars(judge(log_p, testing, resamples)),
    )
    return made, rights[chosen]
