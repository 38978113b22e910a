"""A reproduction of the paper: its settings, its networks, and its results as one file, reproduction.json."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.errors import AuditError
from privatenet.audit.paper import published
from privatenet.data_shards import records
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.config import Config
from privatenet.distributed.provenance import flatten
from privatenet.models.adversary import Pair
from privatenet.models.network import NetworkSpec
from privatenet.models.objectives.registry import OBJECTIVES

VERSION = 1


@dataclass(frozen=True)
class ReproduceConfig:
    """How much of the paper is run.

    Args:
        attributes: Private attributes; empty means all that the data set names. The sweep over lambda hides the last.
        taps: Where adversaries look and networks hide; empty means backbone and, where the network has one, arm. The
            sweep over lambda hides at the first.
        objectives: Of the private networks of Table 2; the sweep is with confusion.
        lambdas: Of the sweep (Fig. 2), each from 0 to 1. The networks of Table 2 all have protect.lambda.
        repetitions: Of each inference that is timed (Table 3).
    """

    attributes: list[str] = field(default_factory=list)
    taps: list[str] = field(default_factory=list)
    objectives: list[str] = field(default_factory=lambda: ["adversarial", "confusion"])
    lambdas: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    repetitions: int = 100


@dataclass(frozen=True)
class Case:
    """A private network to train: its folder under the output, and the settings that differ from the others'."""

    name: str
    objective: str
    pair: Pair
    lambda_: float


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


def complete(settings: ReproduceConfig, config: Config, schema: Schema) -> ReproduceConfig:
    """`settings` with defaults filled in. Raises `AuditError` for what the data set or the network does not have."""
    all_taps = NetworkSpec(head=config.model.head).taps
    attributes = list(dict.fromkeys(settings.attributes or schema.private))
    taps = list(dict.fromkeys(settings.taps or [tap for tap in ("backbone", "arm") if tap in all_taps]))
    if not attributes:
        raise AuditError(f"{config.data.shards}: the data set {schema.name} has no private attribute to hide")
    _accept("attributes", attributes, schema.private)
    _accept("taps", taps, all_taps)
    _accept("objectives", settings.objectives, tuple(OBJECTIVES))
    for lambda_ in settings.lambdas:
        if not 0 <= lambda_ <= 1:
            raise AuditError(f"reproduce.lambdas: {lambda_} is not accepted: they are numbers from 0 to 1")
    if settings.repetitions < 2:
        raise AuditError(f"reproduce.repetitions is {settings.repetitions}: accepted are numbers of at least 2")
    objectives = list(dict.fromkeys(settings.objectives))
    return replace(
        settings, attributes=attributes, taps=taps, objectives=objectives, lambdas=sorted(set(settings.lambdas))
    )


def adversaries(settings: ReproduceConfig) -> list[Pair]:
    """The adversaries of Table 1, of completed settings: at every tap and on the picture."""
    return [Pair(tap, attribute) for attribute in settings.attributes for tap in (*settings.taps, "image")]


def cases(settings: ReproduceConfig, lambda_: float) -> tuple[list[Case], list[Case]]:
    """The private networks of Table 2, which all have `lambda_`, and of Fig. 2, which shares one with it."""
    table = [
        Case(f"{objective}-{tap}-{attribute}", objective, Pair(tap, attribute), lambda_)
        for attribute in settings.attributes
        for tap in settings.taps
        for objective in settings.objectives
    ]
    pair = Pair(settings.taps[0], settings.attributes[-1])
    shared = {case.lambda_: case for case in table if (case.objective, case.pair) == ("confusion", pair)}
    sweep = [shared.get(value, Case(f"lambda-{value:.10g}", "confusion", pair, value)) for value in settings.lambdas]
    return table, sweep


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


def _accept(key: str, values: Sequence[str], accepted: Sequence[str]) -> None:
    for value in values:
        if value not in accepted:
            raise AuditError(f"reproduce.{key}: {value!r} is unknown here: accepted are {', '.join(accepted)}")
