"""A quick audit of a network while settings are still being selected: few attackers, and no test data.

The attackers are new to the network, as in a whole audit. They learn from what the network learnt from, or from fresh
faces, which are the validation rows, cross-fitted; they are judged on the validation rows, so that settings may be
selected by it. The selected network still needs an audit, on the test split.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from privatenet.audit.attack.controls import target_label_floors
from privatenet.audit.attack.extract import NetworkExtractor, extract
from privatenet.audit.attack.features import LOGITS, network_tap
from privatenet.audit.attack.findings import Estimate, Leak
from privatenet.audit.attack.fleet import Donor, Fleet, attack
from privatenet.audit.attack.judging import judge_leaks
from privatenet.audit.attack.relative import above_floor
from privatenet.audit.attack.samples import attack_folds, judged_rows, training_split
from privatenet.audit.attack.utility import utility
from privatenet.audit.settings import FACES, AuditConfig
from privatenet.distributed import agree
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.models.arm import one_by_one
from privatenet.models.network import Network


@dataclass(frozen=True)
class QuickFindings:
    """Utility, and the leak of every tap and attribute that was attacked."""

    utility: Estimate
    leaks: tuple[Leak, ...]

    @property
    def leakage(self) -> Estimate:
        """The largest excess over the majority class that a best attacker reaches anywhere."""
        return largest_excess(self.leaks)


def largest_excess(leaks: Sequence[Leak]) -> Estimate:
    """The largest excess of a best attacker among leaks."""
    return max((leak.headline.excess for leak in leaks), key=lambda excess: excess.value)


def leak_metrics(utility: Estimate, leaks: Sequence[Leak], split: str) -> dict[str, float]:
    """As flat metrics: `test/utility`, `test/leakage` (the largest excess) and `test/backbone-gender/excess`,
    each with the ends of its interval under `_low` and `_high`; and `test/gender/floor`, the excess of who sees only
    the true target label."""
    estimates = {"utility": utility, "leakage": largest_excess(leaks)}
    estimates |= {f"{leak.tap}-{leak.attribute}/excess": leak.headline.excess for leak in leaks}
    ends = {"": "value", "_low": "low", "_high": "high"}
    metrics = {
        f"{split}/{name}{end}": getattr(e, field) for name, e in estimates.items() for end, field in ends.items()
    }
    floors = {leak.attribute: leak.headline.excess.value - leak.above.value for leak in leaks if leak.above}
    return metrics | {f"{split}/{attribute}/floor": floor for attribute, floor in floors.items()}


def quick_audit(
    network: Network, name: str, config: AuditConfig, faces: Faces, engine: EngineConfig, ranks: Ranks, folder: Path
) -> QuickFindings:
    """Attack the taps and attributes of `config`, which names all of them; all ranks call it and get the findings.

    A network that has none of the taps, as one without a channel has no release, is attacked where it answers: at its
    logits. Features and answers are kept in `folder` under `name`, which says whose they are. Raises `AuditError` where
    the validation rows are too few to judge on.
    """
    folds = attack_folds(config, faces, validation=True)
    extractor = NetworkExtractor(network, name, faces.fingerprint, engine, ranks)
    names = [tap for tap in config.taps if network_tap(tap) in network.taps]
    features = extract(extractor, names, faces, ranks, folder / "features", splits=("train",))
    taps = replace(features, shapes={tap: features.shapes[tap] for tap in names or [LOGITS]})
    donors = dict.fromkeys(product(FACES, config.attributes), Donor(one_by_one(network).cpu(), name))
    fleet = Fleet(taps, faces, folds, donors, config, ranks.device, folder / "answers" / features.key.folder)
    attacked = attack(fleet, ranks, lambda what, done, total: None)
    judged = judge_leaks(attacked, ranks, with_code=False)

    def conclude() -> QuickFindings:
        (split,) = training_split(faces, validation=True)
        floors = target_label_floors(config, faces, split)
        right = {attribute: floor.right for attribute, floor in floors.items()}
        leaks = above_floor(judged, right, config)
        rows, logits = judged_rows(faces, validation=True), features.array("train", LOGITS)
        return QuickFindings(
            utility(logits[rows][:, None], faces, rows, config.confidence)[0],
            tuple(each.leak for each in leaks),
        )

    return agree.first(ranks, conclude)
