"""The search space, as pure functions: what a trial may be, a point, and what settings follow from it."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.config import Config
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.resolve import check_config
from privatenet.models.adversary import Pair
from privatenet.models.channel import NO_CHANNEL, RELEASE, SETTINGS
from privatenet.models.errors import ModelError
from privatenet.models.network import NetworkSpec
from privatenet.models.objectives.registry import OBJECTIVES, option_names, parse_terms
from privatenet.models.zoo import check_name
from privatenet.tune.settings import Range, SearchConfig, SpaceConfig

Point = dict[str, Any]
Dimension = Range | list[Any]

KEYS = ("lambda", "objective", "options", "taps", "attributes", "backbone", "channel", "lr", "seed")


def dimensions(space: SpaceConfig) -> dict[str, Dimension]:
    """What varies, in a fixed order, under the names that a person writes; options of objectives and of the channel by
    their own."""
    varied: dict[str, Dimension] = {}
    for name in KEYS:
        values = getattr(space, "lambda_" if name == "lambda" else name)
        varied |= (values or {}) if name in ("options", "channel") else {} if values is None else {name: values}
    return varied


def check_space(space: SpaceConfig, search: SearchConfig, config: Config, schema: Schema) -> None:
    """Raise `ConfigError` for the first thing that no trial could use."""
    varied = dimensions(space)
    if not varied:
        raise ConfigError(f"space: nothing varies; accepted are {', '.join(KEYS)}")
    for name, values in varied.items():
        _check_values(_key(name, space), values)
    _accept("space.objective", _ends(varied.get("objective", [])), OBJECTIVES)
    try:
        for backbone in _ends(varied.get("backbone", [])):
            check_name(backbone, config.model.weights)
    except ModelError as error:
        raise ConfigError(f"space.{error}") from error
    _check_options(space, config)
    _check_channel(space, config)
    has = NetworkSpec(head=config.model.head, channel=config.channel).taps
    for key, values in (("space.taps", _parts(varied.get("taps", []))), ("search.taps", search.taps)):
        _accept(key, values, has)
    for key, values in (
        ("space.attributes", _parts(varied.get("attributes", []))),
        ("search.attributes", search.attributes),
    ):
        _accept(key, values, schema.private)
    for value in _ends(varied.get("lambda", [])):
        if not 0 <= value <= 1:
            raise ConfigError(f"space.lambda: {value:g} is not accepted: they are numbers from 0 to 1")
    for value in _ends(varied.get("lr", [])):
        if not value > 0:
            raise ConfigError(f"space.lr: {value:g} is not accepted: they are numbers above 0")
    if "backbone" in varied and config.protect.start != "target":
        raise ConfigError(
            "space.backbone: protect.start names one network, which has one backbone: leave one of them out"
        )
    ranges = [name for name, values in varied.items() if isinstance(values, Range)]
    if search.algorithm == "grid" and ranges:
        raise ConfigError(
            f"{_key(ranges[0], space)}: a grid needs a list, such as [0.3, 0.6]; or choose another search.algorithm"
        )
    check_config(settings(next(corners(space, config)), config))


def check_search(search: SearchConfig, config: Config) -> None:
    """Raise `ConfigError` for the first impossible value."""
    least = {"trials": 1, "concurrent": 0, "grace": 1, "measure_every": 0, "retries": 0}
    for name, low in least.items():
        if getattr(search, name) < low:
            raise ConfigError(f"search.{name} is {getattr(search, name)}: accepted are numbers of at least {low}")
    if config.mirror:
        raise ConfigError("mirror: a sweep keeps its trials in ray.storage; leave mirror out")
    if search.stop_early and search.goal == "front":
        raise ConfigError("search.stop_early needs a single goal: set search.goal to utility, leakage or score")
    if search.stop_early and search.goal != "utility" and not search.measure_every:
        raise ConfigError(
            f"search.stop_early by {search.goal} needs it measured on the way: set search.measure_every, to 1 say"
        )
    if search.stop_early and search.grace > config.private.epochs:
        raise ConfigError(
            f"search.grace is {search.grace}: a trial has {config.private.epochs} epochs (private.epochs)"
        )


def applies(name: str, point: Mapping[str, Any], config: Config) -> bool:
    """Whether a key means anything beside what the point has chosen already: an option, to its objective."""
    options = option_names(point.get("objective", config.protect.specs[0].objective))
    return name in (*KEYS, *SETTINGS[config.channel.kind], *options)


def suggest(space: SpaceConfig, config: Config, trial: Any) -> None:
    """Let an Optuna trial choose a point, key by key."""
    point: Point = {}
    for name, values in dimensions(space).items():
        if not applies(name, point, config):
            continue
        if isinstance(values, Range) and isinstance(getattr(NO_CHANNEL, name, None), int):
            point[name] = trial.suggest_int(name, values.low, values.high, log=values.log)
        elif isinstance(values, Range):
            point[name] = trial.suggest_float(name, values.low, values.high, log=values.log)
        else:
            point[name] = trial.suggest_categorical(name, values)


def corners(space: SpaceConfig, config: Config) -> Iterator[Point]:
    """Every combination of lists and of the ends of ranges, once each."""
    varied = dimensions(space)
    keys = set()
    for values in itertools.product(*(_ends(dimension) for dimension in varied.values())):
        point = dict(zip(varied, values, strict=True))
        point = {name: value for name, value in point.items() if applies(name, point, config)}
        if (key := tuple(point.items())) not in keys:
            keys.add(key)
            yield point


def settings(point: Mapping[str, Any], config: Config) -> Config:
    """The run's settings with what the point chose; the terms of chosen taps and attributes share a weight of 1."""
    protect = replace(config.protect, terms=_terms(point, config), lambda_=point.get("lambda", config.protect.lambda_))
    private = replace(config.private, lr=point.get("lr", config.private.lr))
    model = replace(config.model, backbone=point.get("backbone", config.model.backbone))
    channel = replace(config.channel, **{name: point[name] for name in SETTINGS[config.channel.kind] if name in point})
    seed = point.get("seed", config.seed)
    return replace(config, protect=protect, private=private, model=model, channel=channel, seed=seed)


def backbones(space: SpaceConfig, config: Config) -> list[str]:
    return list(space.backbone or [config.model.backbone])


def protected(space: SpaceConfig, config: Config) -> list[str]:
    """Every tap-attribute pair that some trial may protect."""
    return list(dict.fromkeys(pair for p in corners(space, config) for pair in settings(p, config).protect.pairs))


def opposed(space: SpaceConfig, config: Config) -> list[str]:
    """Every tap-attribute pair where some trial's network is trained against a known adversary."""
    return list(dict.fromkeys(pair for p in corners(space, config) for pair in settings(p, config).protect.known))


def watched(space: SpaceConfig, search: SearchConfig, config: Config) -> tuple[list[str], list[str]]:
    """The taps that every trial is looked at, and the attributes that attackers are after."""
    pairs = [Pair.parse(name) for name in protected(space, config)]
    taps = search.taps or list(dict.fromkeys(pair.tap for pair in pairs))
    return taps, search.attributes or list(dict.fromkeys(pair.attribute for pair in pairs))


def describe(point: Mapping[str, Any]) -> str:
    """A point in a few words: `lambda 0.35, confusion, backbone+arm`."""
    named = {name: name + " {:.3g}" for name in ("lambda", "norm", "sigma", "step")}
    named |= {name: name + " {}" for name in ("at", "numbers", "codes", "seed")} | {"lr": "lr {:.2g}"}
    return ", ".join(named.get(name, "{}").format(value) for name, value in point.items())


def _terms(point: Mapping[str, Any], config: Config) -> list[dict[str, Any]]:
    """The configured terms with the point's objective and options; at chosen taps and attributes, like the first."""
    specs = config.protect.specs
    if "taps" not in point and "attributes" not in point:
        return [spec.rewritten(spec.pair, point.get("objective", spec.objective), spec.weight, point) for spec in specs]
    taps = _parts([point["taps"]]) if "taps" in point else list(dict.fromkeys(spec.pair.tap for spec in specs))
    attributes = list(dict.fromkeys(spec.pair.attribute for spec in specs))
    attributes = _parts([point["attributes"]]) if "attributes" in point else attributes
    pairs = [Pair(tap, attribute) for attribute in attributes for tap in taps]
    objective, weight = point.get("objective", specs[0].objective), round(1 / len(pairs), 6)
    return [specs[0].rewritten(pair, objective, weight, point) for pair in pairs]


def _check_options(space: SpaceConfig, config: Config) -> None:
    objectives = space.objective or [config.protect.specs[0].objective]
    for name, values in (space.options or {}).items():
        having = [objective for objective in objectives if name in option_names(objective)]
        if not having:
            raise ConfigError(f"space.options.{name}: no objective of a trial has it: {', '.join(objectives)}")
        try:
            for value, objective in itertools.product(values, having):
                tap = RELEASE if OBJECTIVES[objective].tap else "backbone"
                parse_terms([{"at": f"{tap}-gender", "objective": objective, name: value}])
        except ModelError as error:
            raise ConfigError(f"space.options: {error}") from error


def _check_channel(space: SpaceConfig, config: Config) -> None:
    varied, kind = space.channel or {}, config.channel.kind
    for name in varied:
        if name not in SETTINGS[kind]:
            accepted = ", ".join(SETTINGS[kind]) or "none"
            raise ConfigError(f"space.channel.{name}: means nothing with channel.kind {kind}; accepted: {accepted}")
    try:
        for values in itertools.product(*(_ends(dimension) for dimension in varied.values())):
            channel = replace(config.channel, **dict(zip(varied, values, strict=True)))
            NetworkSpec(head=config.model.head, channel=channel)
    except ModelError as error:
        raise ConfigError(f"space.{error}") from error


def _key(name: str, space: SpaceConfig) -> str:
    """What a person calls a dimension."""
    section = next((f"{part}." for part in ("options", "channel") if name in (getattr(space, part) or {})), "")
    return f"space.{section}{name}"


def _parts(values: Any) -> list[str]:
    """What is joined by plus signs, once each."""
    return list(dict.fromkeys(part.strip() for value in values for part in value.split("+")))


def _ends(values: Dimension) -> list[Any]:
    return [values.low, values.high] if isinstance(values, Range) else values


def _check_values(key: str, values: Dimension) -> None:
    if isinstance(values, Range):
        if not values.low < values.high:
            raise ConfigError(f"{key}: from {values.low:g} to {values.high:g} there is nothing; low must be below high")
        if values.log and values.low <= 0:
            raise ConfigError(f"{key}: low is {values.low:g}: with log, accepted are numbers above 0")
    elif not values:
        raise ConfigError(f"{key} is empty: give values, or leave the key out")
    elif len(set(values)) < len(values):
        raise ConfigError(f"{key} names a value twice: {', '.join(map(str, values))}")


def _accept(key: str, values: Any, accepted: Any) -> None:
    for value in values:
        if value not in accepted:
            raise ConfigError(f"{key}: {value!r} is not accepted: they are {', '.join(accepted) or 'none'}")
