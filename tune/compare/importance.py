"""Which settings matter: shares of the variance of utility and of leakage, by fANOVA (Hutter et al., ICML 2014)."""

import random
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator

from privatenet.audit.attack.findings import Estimate
from privatenet.tune.compare.candidates import Setting, spans_decades
from privatenet.tune.compare.front import Comparison

FEWEST = 4
"""Private networks from which on importance is worked out."""

RESAMPLES = 20

Settings = dict[str, Setting]


def importance(comparison: Comparison) -> tuple[dict[str, dict[str, Estimate]], str]:
    """How much of the variance of utility and of leakage each setting accounts for, in shares of 1, and how sure.

    Intervals span what resampled networks give. The first is empty where that cannot be said; the second is a sentence.
    """
    rows = [row for row in comparison.rows if row.candidate.private]
    if len(rows) < FEWEST:
        return {}, f"Importance needs more trials: {len(rows)} finished, at least {FEWEST} are needed."
    columns = {name: [comparison.setting(row.candidate, name) for row in rows] for name in comparison.settings}
    varied = {name: values for name, values in columns.items() if len(set(values)) > 1}
    metrics = {"utility": [row.utility.value for row in rows], "leakage": [row.leakage.value for row in rows]}
    metrics = {name: values for name, values in metrics.items() if len(set(values)) > 1}
    if not varied or not metrics:
        return {}, f"Importance needs more trials: over the {len(rows)} finished ones nothing varies."
    kinds = {name: _distribution(values) for name, values in varied.items()}
    settings = [{name: values[place] for name, values in varied.items()} for place in range(len(rows))]
    chance = random.Random(0)  # noqa: S311
    draws = [chance.choices(range(len(rows)), k=len(rows)) for _ in range(RESAMPLES)]
    return {name: _estimates(settings, values, kinds, draws) for name, values in metrics.items()}, (
        f"Shares of the variance over {len(rows)} finished trials (fANOVA); whiskers span what {RESAMPLES} "
        "resamplings of them give. Where they are long, the order means little."
    )


def _estimates(
    settings: Sequence[Settings],
    values: Sequence[float],
    kinds: dict[str, BaseDistribution],
    draws: Sequence[Sequence[int]],
) -> dict[str, Estimate]:
    """By setting, the largest share first: over all networks, and the span over resampled ones."""
    shares = _shares(settings, values, kinds, trees=64)
    resampled = [
        _shares([settings[i] for i in draw], [values[i] for i in draw], kinds, trees=16)
        for draw in draws
        if len({values[i] for i in draw}) > 1
    ]
    return {
        name: Estimate(share, min(some[name] for some in resampled), max(some[name] for some in resampled))
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    }


def _shares(
    settings: Sequence[Settings], values: Sequence[float], kinds: dict[str, BaseDistribution], trees: int
) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(params=params, distributions=kinds, value=value)
            for params, value in zip(settings, values, strict=True)
        ]
    )
    evaluator = FanovaImportanceEvaluator(n_trees=trees, seed=0)
    return {
        name: float(share)
        for name, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def _distribution(values: Sequence[Setting]) -> BaseDistribution:
    """What a setting could have been; one that does not always apply is a choice, `-` among the others."""
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) < len(values):
        return CategoricalDistribution(sorted(set(values), key=str))
    return FloatDistribution(min(numbers), max(numbers), log=spans_decades(numbers))
