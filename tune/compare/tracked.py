"""Candidates from the tracking store: which runs are of networks, and which of their parameters set them apart."""

import re
from collections.abc import Mapping, Sequence

from privatenet.distributed.tracking.store import TrackedRun
from privatenet.tune.compare.candidates import UNPROTECTED, Candidate, Measures, Setting

_CONFIG = r"protect\.(lambda|terms\..+)|model\.backbone|private\.(lr|epochs)|seed"
_PROTECTION = r"(protect|private)\."
_NETWORKS = ("target", "private", "audit")
_FAILED = ("FAILED", "KILLED")


def candidates(runs: Sequence[TrackedRun]) -> list[Candidate]:
    """Networks that were measured, have failed or are in training, each once; other runs are left out."""
    unique = list({run.run_id: run for run in runs}.values())
    networks = [run for run in unique if _is_measured(run) or _has_failed(run) or _is_training(run)]
    names = _setting_names([run for run in networks if _is_measured(run) or _has_failed(run)])
    return [_candidate(run, names) for run in networks]


def _candidate(run: TrackedRun, names: Mapping[str, str]) -> Candidate:
    unprotected = run.tags.get("trial") == UNPROTECTED or run.tags.get("stage") == "target"
    objective = run.params.get("space.objective", run.params.get("protect.terms.0.objective", "network"))
    params = {key: text for key, text in run.params.items() if not (unprotected and re.match(_PROTECTION, key))}
    return Candidate(
        run.run_id,
        run.name,
        run.status,
        UNPROTECTED if unprotected else objective,
        {name: _value(params[key]) for key, name in names.items() if key in params},
        Measures.of(run.metrics, "validation"),
        Measures.of(run.metrics, "test"),
        run.tags.get("checkpoint", ""),
        run.tags.get("failure") or f"the run is {run.status}" if _has_failed(run) else "",
    )


def _is_measured(run: TrackedRun) -> bool:
    measures = [Measures.of(run.metrics, split) for split in ("validation", "test")]
    return any(measure.trade_off(pair) for measure in measures for pair in ("", *measure.pairs))


def _has_failed(run: TrackedRun) -> bool:
    """Whether the run of a network, not of what trials share, ended before its time."""
    network = run.tags.get("stage") in _NETWORKS or "trial" in run.tags
    return network and (run.status in _FAILED or "failure" in run.tags)


def _is_training(run: TrackedRun) -> bool:
    return run.status == "RUNNING" and run.tags.get("stage") == "private"


def _setting_names(runs: Sequence[TrackedRun]) -> dict[str, str]:
    """Names of settings by parameter: those that a sweep varies, else those that differ between private networks."""
    keys = sorted({key for run in runs for key in run.params})
    names = {key: key.removeprefix("space.") for key in keys if key.startswith("space.")}
    if not names:
        private = [run for run in runs if run.tags.get("stage") == "private"]
        differing = [key for key in keys if len({run.params.get(key) for run in private}) > 1]
        prefix = r"^(protect\.(terms\.0\.)?|model\.|private\.)"
        names = {key: re.sub(prefix, "", key) for key in differing if re.fullmatch(_CONFIG, key)}
    return names


def _value(text: str) -> Setting:
    try:
        return float(text)
    except ValueError:
        return text
