"""Synthetic runs of a sweep, as the tracking store gives them, and their networks, as they are compared."""

import random

from privatenet.distributed.tracking.store import TrackedRun
from privatenet.tune.compare.candidates import Candidate
from privatenet.tune.compare.tracked import candidates

PAIRS = ("backbone-gender", "arm-gender")
HOSTILE = '<script>alert("x")</script>'


def run(name: str, metrics: dict[str, float], status: str = "FINISHED", **more: dict[str, str]) -> TrackedRun:
    """A run called `name`; its `metrics` get intervals of 2 points to either side; more: params, tags."""
    ends = {
        f"{key}{end}": value + side
        for key, value in metrics.items()
        for end, side in (("_low", -0.02), ("_high", 0.02))
    }
    tags = {"stage": "private", "trial": name} | more.get("tags", {})
    return TrackedRun(f"id-{name}", name, status, "sweep", more.get("params", {}), metrics | ends, tags, "faces")


def network(name: str, metrics: dict[str, float], **more: dict[str, str]) -> Candidate:
    """The network of a finished run."""
    (only,) = candidates([run(name, metrics, **more)])
    return only


def measured(utility: float, *excess: float, split: str = "validation") -> dict[str, float]:
    """Metrics of a network: its utility, its excess at each of `PAIRS`, and the worst of them."""
    pairs = {f"{split}/{pair}/excess": value for pair, value in zip(PAIRS, excess, strict=True)}
    return {f"{split}/utility": utility, f"{split}/leakage": max(excess)} | pairs


def sweep(trials: int = 13) -> list[TrackedRun]:
    """The unprotected network, `trials` private ones, shared adversaries, and two that failed, one with a bad name."""
    chance = random.Random(4)
    runs = [
        run(
            "unprotected",
            measured(0.884, 0.322, 0.29) | measured(0.878, 0.33, 0.3, split="test"),
            tags={"stage": "target"},
        )
    ]
    for number in range(trials):
        objective, lambda_ = chance.choice(("confusion", "adversarial")), round(chance.uniform(0.05, 0.95), 3)
        settings = {
            "lambda": str(lambda_),
            "objective": objective,
            "taps": chance.choice(("backbone", "arm", "backbone+arm")),
            "known": chance.choice(("frozen", "alternating")),
            "lr": f"{10 ** chance.uniform(-4, -2.3):.2g}",
        } | ({"prior": chance.choice(("uniform", "class"))} if objective == "confusion" else {})
        utility = 0.89 - 0.16 * lambda_**2 - (0.03 if objective == "adversarial" else 0) + chance.gauss(0, 0.01)
        excess = 0.32 - 0.24 * lambda_ - (0.04 if settings["known"] == "alternating" else 0) + chance.gauss(0, 0.015)
        metrics = measured(utility, excess, excess - 0.03)
        if number % 4 == 0:
            metrics |= measured(utility - 0.006, excess + 0.01, excess - 0.02, split="test")
        params = {f"space.{key}": value for key, value in settings.items()} | {"protect.lambda": str(lambda_)}
        tags = {"checkpoint": f"/runs/faces/trial-{number:03d}/private/final"}
        runs.append(run(f"trial-{number:03d}", metrics, params=params, tags=tags))
    runs.append(run("known", {"loss": 0.5}, tags={"stage": "adversary"}))
    runs.append(
        run("trial-diverged", {}, "FAILED", params={"space.lr": "0.1"}, tags={"failure": "the loss is not finite"})
    )
    return [*runs, run(HOSTILE, {}, "KILLED", params={"space.objective": HOSTILE}, tags={})]


def networks(trials: int = 13) -> list[Candidate]:
    """The networks of `sweep`."""
    return candidates(sweep(trials))
