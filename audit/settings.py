"""What a person may choose of an audit."""

from dataclasses import dataclass, field

REFERENCES = ("unprotected", "random")
TRAINING, FRESH = FACES = ("training", "fresh")
"""The faces that attackers learn from: those of the training split, or those that no stage learnt from."""


@dataclass(frozen=True)
class AuditConfig:
    """What is audited and how thoroughly.

    Args:
        taps: Whose features are attacked, beside the logits and the predicted label; empty: backbone, arm and
            release, where the network has them.
        releases: How many releases of one face an attacker has of what a noisy channel sends, their mean.
        attributes: Which private attributes; empty means all that the data set names.
        attackers: Which attackers; empty means all.
        faces: Whose faces attackers are fitted on: training (halves of the training split), fresh (the test split and
            the validation rows, cross-fitted); empty: training, and fresh where there are enough.
        folds: Into how many folds fresh faces are cut; each is answered by attackers that learnt from the others.
        seeds: How often each attacker is fitted that depends on chance; on fresh faces, once for each fold.
        components: Numbers in a vector at most; larger taps are reduced to principal components.
        confidence: Of all intervals.
        resamples: Of the bootstrap.
        references: Networks audited beside it: unprotected (the one that a private network started from), random.
        cache: Folder of features and answers, which audits of the same networks share; empty: the run's own folder.
    """

    taps: list[str] = field(default_factory=list)
    releases: list[int] = field(default_factory=lambda: [1, 10])
    attributes: list[str] = field(default_factory=list)
    attackers: list[str] = field(default_factory=list)
    faces: list[str] = field(default_factory=list)
    folds: int = 5
    seeds: int = 3
    components: int = 512
    confidence: float = 0.95
    resamples: int = 1000
    references: list[str] = field(default_factory=lambda: list(REFERENCES))
    cache: str = ""


@dataclass(frozen=True)
class CertifyConfig:
    """What is certified, and how surely.

    Args:
        attributes: Which private attributes; empty means all that the data set names.
        deployment: split (an adversary reads what the network's channel sends) or label (the predicted label alone, of
            one draw of a channel's noise); empty: all that can be certified.
        releases: How many releases of one picture, each with its own noise, an adversary has of a noisy channel.
        confidence: Of each bound by itself.
        jointly: Let all bounds of the table hold at once with this confidence, which makes each a little looser.
        draws: Of the estimate of what a noisy release tells.
    """

    attributes: list[str] = field(default_factory=list)
    deployment: str = ""
    releases: list[int] = field(default_factory=lambda: [1, 10])
    confidence: float = 0.95
    jointly: bool = False
    draws: int = 50_000
