"""Which trials of a sweep are worth an audit."""

import pytest

from privatenet.tune.phases import TrialResult
from privatenet.tune.sweep import choose


def result(trial: str, utility: float, leakage: float) -> TrialResult:
    goals = {"utility": utility, "leakage": leakage, "score": utility - leakage}
    validation = {"validation/utility": utility, "validation/leakage": leakage}
    return TrialResult(trial, {}, goals | validation, None)


@pytest.mark.parametrize(
    ("goal", "chosen"),
    [("front", ["useful", "both", "silent"]), ("utility", ["useful"]), ("leakage", ["silent"]), ("score", ["both"])],
)
def test_the_front_is_audited_or_with_a_single_goal_the_best(goal: str, chosen: list[str]) -> None:
    trials = [
        result("useful", 0.9, 0.5),
        result("beaten", 0.7, 0.4),
        result("both", 0.8, 0.1),
        result("silent", 0.4, 0.0),
    ]
    assert [trial.trial for trial in choose(trials, goal)] == chosen
    assert choose([], goal) == []
