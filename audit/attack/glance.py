"""A quick look at what a network leaks while settings are still being chosen: few attackers, and no test data.

The attackers are new to the network, as in an audit. They learn from what the network learnt from and are judged on the
validation part, so that settings may be chosen by it; whoever is chosen still needs an audit, on the test split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from privatenet.audit.attack.features import Features, Key, extract
from privatenet.audit.attack.findings import Estimate, Leak
from privatenet.audit.attack.fleet import Campaign, attack
from privatenet.audit.attack.judging import Evidence, leaks, utility
from privatenet.audit.attack.samples import validation_parts
from privatenet.audit.settings import AuditConfig
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.models.arm import one_by_one
from privatenet.models.network import Network


@dataclass(frozen=True)
class Glance:
    """Utility, and the leak of every tap and attribute that was looked at."""

    utility: Estimate
    leaks: tuple[Leak, ...]

    @property
    def leakage(self) -> Estimate:
        """The largest excess over the majority class that a best attacker reaches anywhere."""
        return worst(self.leaks)


def worst(found: Sequence[Leak]) -> Estimate:
    """The largest excess of a best attacker among leaks."""
    return max((leak.headline.excess for leak in found), key=lambda excess: excess.value)


def figures(utility: Estimate, found: Sequence[Leak], split: str) -> dict[str, float]:
    """As flat metrics: `test/utility`, `test/leakage` (the largest excess) and `test/backbone-gender/excess`,
    each with the ends of its interval under `_low` and `_high`."""
    named = {"utility": utility, "leakage": worst(found)}
    named |= {f"{leak.tap}-{leak.attribute}/excess": leak.headline.excess for leak in found}
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {f"{split}/{name}{end}": getattr(e, field) for name, e in named.items() for end, field in ends.items()}


def glance(
    network: Network, name: str, config: AuditConfig, faces: Faces, engine: EngineConfig, ranks: Ranks, folder: Path
) -> Glance:
    """Look at the taps and after the attributes of `config`, which names all of them; all ranks call it together.

    Features and answers are kept in `folder` under `name`, which says whose they are. Raises `AuditError` where the
    validation part is too small to judge on.
    """
    parts = validation_parts(faces.train, faces.held_out)
    key = Key(name, faces.fingerprint, engine.precision, network.spec.image_size)
    features = extract(network, key, config.taps, faces, engine, ranks, folder / "features", splits=("train",))
    looked_at = Features(features.folder, {tap: features.shapes[tap] for tap in config.taps})  # not at the logits
    campaign = Campaign(tuple(config.attributes), tuple(config.attackers), config.seeds, config.components)
    donors = dict.fromkeys(config.attributes, one_by_one(network).cpu())
    answers = folder / "answers" / key.folder
    results = attack(looked_at, faces, parts, donors, campaign, ranks, answers, lambda _: None)
    evidence = Evidence(looked_at, donors, results, answers)
    seen = leaks(evidence, config, campaign, faces, parts, ranks, with_code=False)
    return Glance(utility(features, faces, parts, config.confidence)[0], tuple(judged.leak for judged in seen))
