"""From the command line and YAML files to a `Config`.

Everything that can be judged without data or device is judged here, before anything is started.
"""

import math
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.transforms import AugmentConfig
from privatenet.data_shards.uri import Uri
from privatenet.distributed.arguments import parse_arguments
from privatenet.distributed.config import (
    AttackConfig,
    Config,
    EngineConfig,
    FitConfig,
    ModelConfig,
    ProtectConfig,
    TargetFitConfig,
    TrackingConfig,
)
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.mirror import check_mirror
from privatenet.models.adversary import Pair
from privatenet.models.channel import ChannelSpec
from privatenet.models.errors import ModelError
from privatenet.models.objectives.registry import parse_terms
from privatenet.models.zoo import check_name

SECTIONS: dict[str, Any] = {
    "data": DataConfig,
    "augment": AugmentConfig,
    "model": ModelConfig,
    "engine": EngineConfig,
    "target": TargetFitConfig,
    "adversary": FitConfig,
    "private": TargetFitConfig,
    "attack": AttackConfig,
    "protect": ProtectConfig,
    "channel": ChannelSpec,
    "tracking": TrackingConfig,
}


def add_config_arguments(parser: ArgumentParser) -> None:
    """Give `parser` --config and a flag for every key of every section."""
    parser.add_argument("--config", action="config", help="YAML file of settings; later flags override it.")
    parser.add_argument("--output", default=Config.output, type=str, help="Folder of the stages that are trained.")
    parser.add_argument(
        "--mirror",
        default=Config.mirror,
        type=Uri,
        help="Folder or URL (s3, gs, ...) where checkpoints and finished stages are kept too; a machine without them "
        "goes on from there.",
    )
    parser.add_argument("--seed", default=Config.seed, type=int, help="Of initial weights, order and augmentation.")
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name, skip={"lambda_"})
    help_text = "Weight of the objective against the cross-entropy, from 0 to 1."
    parser.add_argument("--protect.lambda", type=float, default=ProtectConfig.lambda_, help=help_text)


def resolve_config(parser: ArgumentParser, argv: list[str]) -> tuple[Config, Namespace]:
    """Parse and judge `argv`; returns the configuration and what else the parser has. Raises `ConfigError`."""
    parsed = parse_arguments(parser, argv)
    values = parsed.as_dict()
    for name in SECTIONS:
        empty = [f"{name}.{key}" for key, value in (values[name] or {"": None}).items() if value is None]
        if empty:
            raise ConfigError(f"{empty[0].rstrip('.')} is empty: give it a value, or leave it out")
    values["protect"]["lambda_"] = values["protect"].pop("lambda")
    try:
        sections = {name: section(**values[name]) for name, section in SECTIONS.items()}
    except ModelError as error:
        raise ConfigError(str(error)) from error
    config = Config(**sections, output=values["output"], mirror=values["mirror"], seed=values["seed"])
    check_config(config)
    return config, parsed


SOME = math.inf
"""The end of a range without one."""

RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "": {"seed": (0, 2**32 - 1)},
    "data": {
        "validation": (0, 0.9),
        "workers": (1, 256),
        "window": (1, SOME),
        "cache_gib": (0, SOME),
        "disk_gib": (0, SOME),
    },
    "augment": {
        "flip": (0, 1),
        "noise": (0, 1),
        "noise_variance": (0, 255**2),
        "shift": (0, 1),
        "scale": (0, 0.9),
        "rotate": (0, 180),
        "light": (0, 1),
        "erase": (0, 1),
        "erase_min_area": (0, 1),
        "erase_max_area": (0, 1),
    },
    "model": {"image_size": (32, 1024)},
    "engine": {
        "accumulation": (1, 1024),
        "clip": (0, SOME),
        "checkpoint_minutes": (0, SOME),
        "checkpoints": (1, SOME),
        "keep_every": (0, SOME),
        "patience": (0, SOME),
        "spike": (0, SOME),
    },
    "fit": {
        "epochs": (1, SOME),
        "batch_size": (2, SOME),
        "lr": (0, SOME),
        "weight_decay": (0, SOME),
        "decay": (0, 1),
        "warmup_epochs": (0, SOME),
        "patience": (0, SOME),
        "ema": (0, 0.99999),
        "label_smoothing": (0, 1),
    },
    "protect": {"lambda_": (0, 1)},
}
"""Accepted numbers by section and key; `fit` is each of the stages."""


def check_config(config: Config) -> None:
    """Raise `ConfigError` for the first value that no run could use."""
    try:
        check_name(config.model.backbone, config.model.weights)
    except ModelError as error:
        raise ConfigError(f"model.{error}") from error
    for section, ranges in RANGES.items():
        for stage in ("target", "adversary", "private") if section == "fit" else (section,):
            values = config if section == "" else getattr(config, stage)
            for name, (low, high) in ranges.items():
                if hasattr(values, name):
                    key = f"{stage}.{name.rstrip('_')}".lstrip(".")
                    _between(key, getattr(values, name), low, high)
    augment = config.augment
    _between("augment.flip + augment.noise", augment.flip + augment.noise, 0, 1)
    _between("augment.erase_min_area", augment.erase_min_area, 0, augment.erase_max_area)
    if not config.output:
        raise ConfigError("output is empty: accepted is a folder's path")
    check_mirror(config.mirror)
    _check_pairs(config)


def _check_pairs(config: Config) -> None:
    pairs = config.attack.pairs
    if not pairs:
        raise ConfigError("attack.pairs is empty: accepted are tap-attribute pairs such as backbone-gender")
    if len(set(pairs)) < len(pairs):
        raise ConfigError(f"attack.pairs names a pair twice: {', '.join(pairs)}")
    try:
        for pair in pairs:
            Pair.parse(pair)
    except ModelError as error:
        raise ConfigError(f"attack.pairs: {error}") from error
    try:
        parse_terms(config.protect.terms)
    except ModelError as error:
        raise ConfigError(f"protect.terms: {error}") from error


def _between(key: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        accepted = f"from {low} to {high}" if math.isfinite(high) else f"of at least {low}"
        raise ConfigError(f"{key} is {value}: accepted are numbers {accepted}")
