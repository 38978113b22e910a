"""The objectives by name, and terms as a person writes them: `{at: backbone-gender, objective: confusion}`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from privatenet.models.adversary import Pair
from privatenet.models.channel import CENTRE, RELEASE
from privatenet.models.errors import ModelError
from privatenet.models.objectives.adversarial import Adversarial
from privatenet.models.objectives.collapse import Collapse
from privatenet.models.objectives.confusion import Confusion
from privatenet.models.objectives.distance_correlation import DistanceCorrelation
from privatenet.models.objectives.hsic import Hsic
from privatenet.models.objectives.maxent_ensemble import MaxentEnsemble
from privatenet.models.objectives.mixture import Mixture
from privatenet.models.objectives.rff_ridge import RffRidge
from privatenet.models.objectives.term import Learning, Term, TermContext

OBJECTIVES: dict[str, type[Term]] = {
    "confusion": Confusion,
    "adversarial": Adversarial,
    "maxent_ensemble": MaxentEnsemble,
    "hsic": Hsic,
    "rff_ridge": RffRidge,
    "distance_correlation": DistanceCorrelation,
    "collapse": Collapse,
    "mixture": Mixture,
}

BEST = "best"
"""The objective that hid most in what was measured, docs/results.md: of what a channel sends, noisy or plain. Nothing
hid wide features, and so at other taps it is none."""


@dataclass(frozen=True)
class TermSpec:
    """A term before it is built; `options` is an instance of its objective's dataclass of settings."""

    pair: Pair
    objective: str
    weight: float
    options: Any

    @property
    def name(self) -> str:
        """`confusion/backbone-gender`: once in a network."""
        return f"{self.objective}/{self.pair.name}"

    @property
    def tap(self) -> str:
        """Where its features are taken from."""
        return OBJECTIVES[self.objective].tap or self.pair.tap

    @property
    def known(self) -> Pair | None:
        """The pair whose known adversary it is built with; None: it needs none."""
        objective = OBJECTIVES[self.objective]
        if not objective.needs_adversary:
            return None
        return Pair(objective.adversary_tap or self.pair.tap, self.pair.attribute)

    def build(self, context: TermContext) -> Term:
        return OBJECTIVES[self.objective](self.options, context)

    def rewritten(
        self, pair: Pair, objective: str, weight: float, changes: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Another term as a person writes it: `changes`, else this one's settings, where its objective has them."""
        values = {**self.to_dict(), **(changes or {})}
        options = {name: values[name] for name in option_names(objective) if name in values}
        return {"at": pair.name, "objective": objective, "weight": weight, **options}

    def to_dict(self) -> dict[str, Any]:
        """As a person writes it, with every setting."""
        return {"at": self.pair.name, "objective": self.objective, "weight": self.weight, **asdict(self.options)}


def parse_terms(written: Sequence[Mapping[str, Any]]) -> list[TermSpec]:
    """The terms that `written` means. Raises ModelError for the first that cannot be, or is there twice."""
    terms = [_parse(term) for term in written]
    names = [term.name for term in terms]
    if not terms:
        raise ModelError("there is no term; accepted: one or more, such as {at: backbone-gender}")
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ModelError(f"{repeated} is there twice; accepted: an objective once at a tap for an attribute")
    return terms


def option_names(objective: str) -> tuple[str, ...]:
    """The names of an objective's own settings."""
    return tuple(field.name for field in fields(OBJECTIVES[objective].options))


def _parse(written: Mapping[str, Any]) -> TermSpec:
    values = dict(written)
    pair = Pair.parse(str(values.pop("at", "")))
    if pair.tap == "image":
        raise ModelError(f"{pair.name} cannot be protected: the picture is not the network's to change")
    objective = values.pop("objective", "confusion")
    if objective == BEST:
        if pair.tap != RELEASE:
            raise ModelError(
                f"{pair.name}: no objective hid features that are read as they are; accepted for {BEST}: "
                f"{RELEASE}-{pair.attribute}, with channel.kind noise, or plain for who reads the features themselves"
            )
        objective = "mixture"
    if objective not in OBJECTIVES:
        raise ModelError(f"{pair.name}: objective {objective!r} is unknown; accepted: {', '.join((BEST, *OBJECTIVES))}")
    if OBJECTIVES[objective].tap == CENTRE and pair.tap != RELEASE:
        raise ModelError(
            f"{pair.name}: {objective} protects what a channel sends; accepted: {RELEASE}-{pair.attribute}"
        )
    weight = values.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
        raise ModelError(f"{pair.name}: weight {weight!r} is not accepted; accepted: numbers of at least 0")
    if unknown := sorted(values.keys() - set(option_names(objective))):
        accepted = ", ".join(("at", "objective", "weight", *option_names(objective)))
        raise ModelError(f"{pair.name}: {objective} has no setting {unknown[0]!r}; accepted: {accepted}")
    return TermSpec(pair, objective, float(weight), _options(pair, objective, values))


def _options(pair: Pair, objective: str, values: Mapping[str, Any]) -> Any:
    try:
        return TypeAdapter(OBJECTIVES[objective].options).validate_python(values)
    except ValidationError as error:
        inmost = max(error.errors(), key=lambda each: len(each["loc"]))
        key = ".".join(part for part in map(str, inmost["loc"]) if part.isidentifier() and part != Learning.__name__)
        raise ModelError(f"{pair.name}: {key} {inmost['input']!r} is not accepted: {inmost['msg']}") from error
