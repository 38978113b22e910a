"""The results of a reproduction of the paper, as one file, reproduction.json, and what limits a comparison."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.errors import AuditError
from privatenet.audit.paper import published
from privatenet.data_shards import records
from privatenet.distributed.config import Config
from privatenet.distributed.provenance import flatten

VERSION = 1


@dataclass(frozen=True)
class Adversary:
    """An adversary's accuracy on the test split, beside the majority class of the same samples."""

    tap: str
    attribute: str
    accuracy: Estimate
    majority: float
    samples: int

    @property
    def excess(self) -> float:
        """Accuracy above the majority class."""
        return self.accuracy.value - self.majority


@dataclass(frozen=True)
class PrivateNetwork:
    """A private network, the adversary it was trained against, and the one trained on it anew.

    Robustness is the paper's: the adversary's accuracy relative to that of its like on the unprotected network.
    """

    name: str
    objective: str
    lambda_: float
    utility: Estimate
    known: Adversary
    unknown: Adversary
    known_robustness: float | None
    unknown_robustness: float | None


@dataclass(frozen=True)
class Latency:
    """Inference of one picture, in ms: mean and standard deviation over repetitions."""

    network: str
    mean: float
    deviation: float
    repetitions: int


@dataclass(frozen=True)
class Reproduction:
    """The results: `unprotected` is Table 1, `networks` Table 2, `sweep` Fig. 2, `latencies` Table 3.

    `timed_on` is the device of the latencies; `notes` are the differences that limit a comparison with the paper.
    """

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="strings")  # an attribute may have no test sample

    version: int
    package: str
    dataset: str
    fingerprint: str
    target: str
    utility: Estimate
    utility_majority: float
    unprotected: tuple[Adversary, ...]
    networks: tuple[PrivateNetwork, ...]
    sweep: tuple[PrivateNetwork, ...]
    latencies: tuple[Latency, ...]
    timed_on: str
    notes: tuple[str, ...]
    config: dict[str, Any]


def robustness(accuracy: float | None, reference: float | None) -> float | None:
    """(accuracy - reference) / reference, the paper's measure against the unprotected network; None if undefined."""
    return None if accuracy is None or not reference else (accuracy - reference) / reference


def notes(config: Config, dataset: str) -> tuple[str, ...]:
    """The differences that limit a comparison of this configuration's figures on this data set with the paper's."""
    return (*_data_notes(config, dataset), *_network_notes(config), *_protocol_notes(config))


def _data_notes(config: Config, dataset: str) -> list[str]:
    ours = flatten(config.to_dict())
    ours |= {f"protect.{name}": value for name, value in config.protect.specs[0].to_dict().items()}
    differing = {key: value for key, value in published.SETTINGS.items() if ours.get(key, value) != value}
    others = [f"{key} {ours[key]} (paper: {value})" for key, value in differing.items()]
    if dataset != published.DATASET:
        data = (
            f"Another data set: {dataset}, the paper has RAF-DB. Its figures are here for orientation; nothing of them "
            "can be compared."
        )
    else:
        data = (
            "Faces of unsure gender are left out of gender work with all their labels. The paper's code drops their "
            "gender labels alone, by which 57 % of its training rows get another face's emotion."
        )
    return [data, *([f"Other settings than the paper's: {', '.join(others)}."] if others else [])]


def _network_notes(config: Config) -> list[str]:
    if config.model.affinity == "batch":
        affinity = (
            "model.affinity is batch, as in the paper, in networks and adversaries: each picture's answer depends on "
            "which others share its batch, and so do these figures. The paper's code tests in batches of 64 from a "
            "list sorted by emotion, where neighbours tell the answer; here the faces are shuffled."
        )
    else:
        affinity = (
            f"model.affinity is {config.model.affinity}, in networks and adversaries: every picture is judged alone. "
            "The paper's is batch, where an answer depends on which pictures share its batch, and so do its figures."
        )
    fit = config.adversary
    return [
        affinity,
        "The paper does not say how its adversaries are trained. Here all have one recipe "
        f"({fit.optimizer}, lr {fit.lr:g}, batch {fit.batch_size}, epochs {fit.epochs}), and those on pictures start "
        f"from model.weights ({config.model.weights}).",
    ]


def _protocol_notes(config: Config) -> list[str]:
    epoch = f"on {config.data.validation:g} of the training split" if config.data.validation else "as the last one"
    return [
        "The paper's code has no confusion loss and no adversary on ARM: both follow its text, with Eq. 7 as the "
        "distance to 1/K for K classes, where 1/D is printed.",
        "In the paper's code a frozen network's BatchNorm statistics go on moving, and adversaries are tested in "
        "training mode; here neither is so.",
        f"The epoch is chosen {epoch}; the paper's code chooses it on the test split, to its advantage.",
        f"The paper gives neither the lambda of its Table 2 (here {config.protect.lambda_:g}) nor the weight of its "
        "adversarial loss (here lambda, too), and Fig. 2 only as a drawing.",
        "The paper's robustness is worked out from its accuracies, as its print mixes up references.",
        f"Every network is trained once (seed {config.seed}): intervals cover other test faces, not another training.",
    ]


_JSON = TypeAdapter(Reproduction)


def write_reproduction(reproduction: Reproduction, path: Path) -> None:
    """Write `path`, whole or not at all."""
    records.write(_JSON, reproduction, path)


def read_reproduction(path: Path) -> Reproduction:
    """The inverse of `write_reproduction`. Raises `AuditError` where the file is missing or something else."""
    return records.read(_JSON, path, "reproduction", AuditError)
