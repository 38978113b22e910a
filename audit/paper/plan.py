"""How much of the paper is run, and which networks and adversaries that takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from privatenet.audit.errors import AuditError
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.config import Config
from privatenet.models.adversary import Pair
from privatenet.models.network import NetworkSpec
from privatenet.models.objectives.registry import OBJECTIVES


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


def _accept(key: str, values: Sequence[str], accepted: Sequence[str]) -> None:
    for value in values:
        if value not in accepted:
            raise AuditError(f"reproduce.{key}: {value!r} is unknown here: accepted are {', '.join(accepted)}")
