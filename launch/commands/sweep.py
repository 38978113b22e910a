"""`privatenet sweep`: search the trade-off between utility and leakage, on this machine or on a Ray cluster."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from privatenet.data_shards.shards.remote import read_manifest
from privatenet.data_shards.uri import Uri
from privatenet.distributed.config import Config
from privatenet.distributed.resolve import add_config_arguments, resolve_config
from privatenet.launch.ready import with_ready_configs
from privatenet.tune.settings import Numbers, Range, RayConfig, SearchConfig, SpaceConfig, SweepConfig
from privatenet.tune.space import check_search, check_space


def main(argv: list[str]) -> int:
    """Judge the settings, search, and leave the front under the output; returns the exit code."""
    config, space, search, ray, flags = read(argv)
    check_search(search, config)
    manifest = read_manifest(config.data.shards)
    check_space(space, search, config, manifest.schema)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what DeepSpeed would find out, with a warning
    # Ray and the engine take seconds to import: not before the settings are known to be good.
    from privatenet.distributed.tracking.tracker import tracking_uri
    from privatenet.tune.compare.report import compare
    from privatenet.tune.sweep import run_sweep

    sweep = SweepConfig(_on_every_machine(config, ray), space, search, ray, manifest.fingerprint, flags["quiet"])
    candidates = run_sweep(sweep, flags["resume"])
    uri = tracking_uri(config.tracking, Path(config.output) / "trials")
    compare(candidates, Path(config.output) / "compare", uri=uri)
    return 0


def read(argv: list[str]) -> tuple[Config, SpaceConfig, SearchConfig, RayConfig, dict[str, bool]]:
    """Settings of the run, and those of the sweep. Raises `ConfigError`; `--help` prints and exits."""
    config, parsed = resolve_config(parser(), with_ready_configs(argv))
    values = parsed.as_dict()
    flags = {name: values[name] for name in ("resume", "quiet")}
    return config, _space(values["space"]), SearchConfig(**values["search"]), RayConfig(**values["ray"]), flags


def parser() -> ArgumentParser:
    command = ArgumentParser(
        prog="privatenet sweep",
        description="Search the settings that give most utility for least leakage: trials of what `space` varies, each "
        "a training run from one shared unprotected network, attacked by new attackers on validation data; then an "
        "audit of those that nothing beats, on the test split. Everything else is a setting of the run.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    add_config_arguments(command)
    command.add_class_arguments(SpaceConfig, "space", skip={"lambda_"})
    help_text = "Weight of the objective, such as {low: 0.1, high: 0.9} or [0.3, 0.6]."
    command.add_argument("--space.lambda", type=Numbers, default=None, help=help_text)
    command.add_class_arguments(SearchConfig, "search")
    command.add_class_arguments(RayConfig, "ray")
    command.add_argument(
        "--resume", action="store_true", help="Go on with the sweep that began in the output folder or in ray.storage."
    )
    command.add_argument("--quiet", action="store_true", help="Lines for a log instead of the live table.")
    return command


def _space(values: dict[str, Any]) -> SpaceConfig:
    """The parsed section, with ranges as `Range`; `lambda` is a keyword of Python."""
    typed = {name: value if name in ("options", "channel") else _typed(value) for name, value in values.items()}
    if typed["channel"]:
        typed["channel"] = {name: _typed(value) for name, value in typed["channel"].items()}
    return SpaceConfig(lambda_=typed.pop("lambda"), **typed)


def _typed(value: Any) -> Any:
    return Range(**value) if isinstance(value, dict) else value


def _on_every_machine(config: Config, ray: RayConfig) -> Config:
    """Settings whose paths every process of the sweep finds; pictures are decoded once per machine."""
    output = Path(config.output).resolve()
    shards = config.data.shards if "://" in config.data.shards else Uri(str(Path(config.data.shards).resolve()))
    cache = Path(tempfile.gettempdir()) / "privatenet" if ray.address else output / "cache"
    data = replace(config.data, shards=shards, cache=config.data.cache or str(cache))
    start, adversaries = _resolved(config.protect.start), _resolved(config.protect.adversaries)
    protect = replace(config.protect, start=start, adversaries=adversaries)
    return replace(config, output=str(output), data=data, protect=protect)


def _resolved(source: str) -> str:
    """A checkpoint's folder in full; the name of a stage as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source
