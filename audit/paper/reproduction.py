"""What a reproduction of the paper is asked for and what it found: plain values, and one file, reproduction.json."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.errors import AuditError
from privatenet.audit.paper import published
from privatenet.audit.record import read_record, write_record
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.config import Config
from privatenet.distributed.tracking.tracker import flatten
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
    """A private network to train: its folder under the output, and what is its own among the settings."""

    name: str
    objective: str
    pair: Pair
    lambda_: float


@dataclass(frozen=True)
class Adversary:
    """What one adversary reached on the test split, beside the majority class of the same samples."""

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
    """All that was reproduced: `unprotected` is Table 1, `networks` Table 2, `sweep` Fig. 2, `latencies` Table 3.

    `timed_on` says on what the latencies were measured; `notes` what stands against a comparison with the paper.
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
    """`settings` with what was left open filled in. Raises `AuditError` for what the data set or network has not."""
    has = NetworkSpec(head=config.model.head).taps
    attributes = list(dict.fromkeys(settings.attributes or schema.private))
    taps = list(dict.fromkeys(settings.taps or [tap for tap in ("backbone", "arm") if tap in has]))
    if not attributes:
        raise AuditError(f"{config.data.shards}: the data set {schema.name} has no private attribute to hide")
    _accept("attributes", attributes, schema.private)
    _accept("taps", taps, has)
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
    """What stands against setting figures of this configuration and data set beside the paper's."""
    ours = flatten(config.to_dict())
    said = []
    if dataset != published.DATASET:
        said.append(
            f"Another data set: {dataset}, the paper has RAF-DB. Its figures are here for orientation; nothing of them "
            "can be compared."
        )
    options = {f"protect.{name}": value for name, value in config.protect.specs[0].to_dict().items()}
    ours = {**ours, **options}
    others = [
        f"{key} {ours[key]} (paper: {value})"
        for key, value in published.SETTINGS.items()
        if ours.get(key, value) != value
    ]
    if others:
        said.append(f"Other settings than the paper's: {', '.join(others)}.")
    if config.model.affinity == "batch":
        said.append(
            "model.affinity is batch, as in the paper: each picture's answer depends on which others share its batch, "
            "and so do these figures."
        )
    else:
        said.append(
            f"model.affinity is {config.model.affinity}: every picture is judged alone. The paper's is batch, where an "
            "answer depends on which pictures share its batch, and so do its figures."
        )
    chosen = f"on {config.data.validation:g} of the training split" if config.data.validation else "as the last one"
    said.append(f"The epoch is chosen {chosen}; the paper's code chooses it on the test split, to its advantage.")
    said.append(f"The paper does not say which lambda its Table 2 has; here it is {config.protect.lambda_:g}.")
    said.append("The paper's robustness is worked out from its accuracies, as its print mixes up references.")
    return tuple(said)


_JSON = TypeAdapter(Reproduction)


def write_reproduction(found: Reproduction, path: Path) -> None:
    """Write `path`, whole or not at all."""
    write_record(_JSON, found, path)


def read_reproduction(path: Path) -> Reproduction:
    """The inverse of `write_reproduction`. Raises `AuditError` where the file is missing or something else."""
    return read_record(_JSON, path, "reproduction")


def _accept(key: str, values: Sequence[str], accepted: Sequence[str]) -> None:
    for value in values:
        if value not in accepted:
            raise AuditError(f"reproduce.{key}: {value!r} is unknown here: accepted are {', '.join(accepted)}")
