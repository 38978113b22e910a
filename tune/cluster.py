"""The Ray cluster of a sweep, started here or running already, and how its machines are shared out among trials."""

import os
import secrets
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from privatenet.distributed.errors import ConfigError
from privatenet.distributed.place import num_cores
from privatenet.tune.group import Workers
from privatenet.tune.settings import RayConfig
from privatenet.tune.watch import reason_of

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # our own screen instead
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our own records instead
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # leakage is not measured after every epoch
    "TUNE_GLOBAL_CHECKPOINT_S": "2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody is told of it
}
WORKERS = {
    "OMP_WAIT_POLICY": "passive",  # idle threads must not spin
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # for a trial that was stopped to end: its process takes the next one
}


@contextmanager
def cluster(config: RayConfig) -> Iterator[None]:
    """Within the block, Ray: a running cluster, or one on this machine that starts and stops with the block.

    Raises `ConfigError` where it cannot be reached or started, or `ray.wheel` is no wheel.
    """
    _set_defaults(ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="privatenet-wheel-") as folder:
        runtime: dict[str, Any] = {"env_vars": WORKERS}
        if config.wheel:
            runtime["py_modules"] = _unpacked(Path(config.wheel), Path(folder))
        options: dict[str, Any] = {"runtime_env": runtime, "log_to_driver": False, "logging_level": "CRITICAL"}
        if not config.address:
            _set_defaults({"RAY_AUTH_TOKEN": secrets.token_hex()})  # else Ray leaves one in the home folder
            options |= {"num_cpus": num_cores(), "include_dashboard": config.dashboard}
        try:
            ray.init(config.address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            hint = "; where it asks for a token, set RAY_AUTH_MODE=token here too" if config.address else ""
            raise ConfigError(f"ray.address {config.address or 'local'}: {reason_of(error)}{hint}") from error
        try:
            yield
        finally:
            ray.shutdown()


def machines() -> list[Mapping[str, float]]:
    """Ray's resources of each machine that is there."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def share(machines: Sequence[Mapping[str, float]], config: RayConfig, trials: int, limit: int) -> tuple[Workers, int]:
    """The ranks of each of `trials` trials, and how many trials run at a time: no more than `limit`, if that is not 0.

    `machines` are Ray's resources of each; a trial is on one of them. Unless `config` says otherwise, a rank has one
    GPU, and a machine's cores are shared out among its trials, so that their threads do not fight. Raises `ConfigError`
    where not even one trial fits.
    """
    most = max((machine.get("GPU", 0.0) for machine in machines), default=0.0)
    gpus, ranks = config.gpus if config.gpus >= 0 else min(1.0, most), config.workers
    room = []
    for machine in machines:
        cores, cards = int(machine.get("CPU", 0)), machine.get("GPU", 0.0)
        fit = cores // (max(1, config.cpus) * ranks)
        room.append((cores, min(fit, int(cards / (gpus * ranks))) if gpus else fit))
    places = sum(fit for _, fit in room)
    if not places:
        sizes = ", ".join(f"{m.get('CPU', 0):g} cores and {m.get('GPU', 0):g} GPUs" for m in machines)
        raise ConfigError(
            f"ray.workers {ranks} of {max(1, config.cpus)} cores and {gpus:g} GPUs each fit on no machine of {sizes}"
        )
    at_once = min(trials, limit or trials, places)
    cpus = config.cpus or min(cores // (min(fit, at_once) * ranks) for cores, fit in room if fit)
    return Workers(ranks, cpus, gpus), at_once


def _set_defaults(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def _unpacked(wheel: Path, folder: Path) -> list[str]:
    """The content of a wheel as folders: the wheel itself Ray would install with all that it depends on, torch too."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"ray.wheel {wheel}: is no wheel ({error}); `python -m build --wheel` makes one") from error
    return [str(path) for path in sorted(folder.iterdir())]
