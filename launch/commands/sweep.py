"""`privatenet sweep`: search the trade-off between utility and leakage, on this machine or on a Ray cluster."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.data_shards.shards.remote import local_copy
from privatenet.data_shards.uri import Uri
from privatenet.distributed.config import Config, add_config_arguments, resolve_config
from privatenet.launch.train import with_ready_configs
from privatenet.tune.settings import Numbers, Range, RayConfig, SearchConfig, SpaceConfig
from privatenet.tune.space import check_search, check_space


def main(argv: list[str]) -> int:
    """Judge the settings, search, and leave the front under the output; returns the exit code."""
    config, space, search, where, flags = read(argv)
    check_search(search, config)
    check_space(space, search, config, load_manifest(local_copy(config.data.shards, config.data.cache)).schema)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what DeepSpeed would find out, with a warning
    # Ray and the engine take seconds to import: not before the settings are known to be good.
    from privatenet.distributed.tracking.tracker import tracking_uri
    from privatenet.tune.compare.report import compare
    from privatenet.tune.sweep import Sweep, prepare, sweep

    wanted = Sweep(_on_every_machine(config, where), space, search, where, flags["quiet"])
    prepare(wanted, flags["resume"])
    candidates = sweep(wanted)
    compare(
        candidates, Path(config.output) / "compare", uri=tracking_uri(config.tracking, Path(config.output) / "trials")
    )
    return 0


def read(argv: list[str]) -> tuple[Config, SpaceConfig, SearchConfig, RayConfig, dict[str, bool]]:
    """Settings of the run, and those of the sweep. Raises `ConfigError`; `--help` prints and exits."""
    config, parsed = resolve_config(parser(), with_ready_configs(argv))
    values = parsed.as_dict()
    flags = {name: values[name] for name in ("resume", "quiet")}
    return config, _space(values["space"]), SearchConfig(**values["search"]), RayConfig(**values["ray"]), flags


def parser() -> ArgumentParser:
    built = ArgumentParser(
        prog="privatenet sweep",
        description="Search the settings that give most utility for least leakage: trials of what `space` varies, each "
        "a training run from one shared unprotected network, looked at by new attackers on validation data; then an "
        "audit of those that nothing beats, on the test split. Everything else is a setting of the run.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    add_config_arguments(built)
    built.add_class_arguments(SpaceConfig, "space", skip={"lambda_"})
    help_text = "Weight of the objective, such as {low: 0.1, high: 0.9} or [0.3, 0.6]."
    built.add_argument("--space.lambda", type=Numbers, default=None, help=help_text)
    built.add_class_arguments(SearchConfig, "search")
    built.add_class_arguments(RayConfig, "ray")
    built.add_argument(
        "--resume", action="store_true", help="Go on with the sweep that was begun in the output folder."
    )
    built.add_argument("--quiet", action="store_true", help="Lines for a log instead of the live table.")
    return built


def _space(values: dict[str, Any]) -> SpaceConfig:
    """What was parsed, with ranges as such; `lambda` is a word of Python's."""
    typed: dict[str, Any] = {
        name: Range(**value) if isinstance(value, dict) else value for name, value in values.items()
    }
    return SpaceConfig(lambda_=typed.pop("lambda"), **typed)


def _on_every_machine(config: Config, where: RayConfig) -> Config:
    """Paths as every process of the sweep finds them; pictures are decoded once per machine."""
    output = Path(config.output).resolve()
    shards = config.data.shards if "://" in config.data.shards else Uri(str(Path(config.data.shards).resolve()))
    cache = Path(tempfile.gettempdir()) / "privatenet" if where.address else output / "cache"
    data = replace(config.data, shards=shards, cache=config.data.cache or str(cache))
    protect = replace(
        config.protect, start=_place(config.protect.start), adversaries=_place(config.protect.adversaries)
    )
    return replace(config, output=str(output), data=data, protect=protect)


def _place(part: str) -> str:
    """A checkpoint's folder in full; the name of a part as it is."""
    return str(Path(part).resolve()) if Path(part).exists() else part
