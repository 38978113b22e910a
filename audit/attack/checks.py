"""Whether an audit's settings fit the network and the data set, before anything is computed."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from privatenet.audit.attack.attackers import ATTACKERS
from privatenet.audit.attack.features import SEVERAL
from privatenet.audit.attack.representations import KINDS
from privatenet.audit.errors import AuditError
from privatenet.audit.settings import FACES, REFERENCES, AuditConfig
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.faces import Faces
from privatenet.models.backbones import Backbone
from privatenet.models.channel import CENTRE, RELEASE
from privatenet.models.network import NetworkSpec, check_tap

LEAST = {"folds": 2, "seeds": 1, "components": 2, "resamples": 100}


def check_config(config: AuditConfig, source: Checkpoint, faces: Faces) -> AuditConfig:
    """`config` with all taps, attributes and attackers named. Raises `AuditError` or `ModelError` where it cannot."""
    check_network(source)
    check_data(source, faces)
    spec = NetworkSpec(**source.state["spec"])
    taps = config.taps or [tap for tap in ("backbone", "arm", RELEASE) if tap in spec.taps]
    for tap in taps:
        if tap == "image":
            raise AuditError("taps: image is no tap; what the picture itself tells is in the controls")
        check_tap(spec, tap)
    config = check_settings(config, faces.schema)
    check_every_tap_is_attacked({tap: _kinds(tap, spec) for tap in taps}, config.attackers)
    check_releases(config.releases)
    if spec.channel.kind == "noise":
        several = [f"{RELEASE}{SEVERAL}{count}" for count in config.releases if count > 1]
        taps = [name for tap in taps for name in ((tap, *several) if tap == RELEASE else (tap,))]
    return replace(config, taps=taps)


def check_settings(config: AuditConfig, schema: Schema) -> AuditConfig:
    """`config` with all attributes and attackers named, whatever the network. Raises `AuditError` where it cannot."""
    check_attributes(config.attributes, schema)
    _check_names("attackers", config.attackers, ATTACKERS)
    _check_names("faces", config.faces, FACES)
    _check_names("references", config.references, REFERENCES)
    _check_numbers(config)
    check_confidence(config.confidence)
    attributes, attackers = config.attributes or list(schema.private), config.attackers or list(ATTACKERS)
    return replace(config, attributes=attributes, attackers=attackers)


def check_every_tap_is_attacked(kinds: Mapping[str, Collection[str]], attackers: Sequence[str]) -> None:
    """Raise `AuditError` where none of `attackers` looks at any of a tap's `kinds` of representation."""
    for tap, offered in kinds.items():
        if not any(set(ATTACKERS[name].kinds) & set(offered) for name in attackers):
            raise AuditError(
                f"attackers: none of {', '.join(attackers)} can look at {tap}: choose other taps or attackers"
            )


def check_attributes(attributes: Sequence[str], schema: Schema) -> None:
    """Raise `AuditError` for one that is not private in `schema`."""
    for attribute in attributes:
        if attribute not in schema.private:
            accepted = ", ".join(schema.private) or "none"
            raise AuditError(
                f"attributes: {attribute!r} is no private attribute of {schema.name}: accepted are {accepted}"
            )


def check_releases(releases: Sequence[int]) -> None:
    """Raise `AuditError` unless they are different numbers of at least 1."""
    if not releases or min(releases) < 1 or len(set(releases)) < len(releases):
        raise AuditError(f"releases is {releases}: accepted are different numbers of at least 1")


def check_confidence(confidence: float) -> None:
    """Raise `AuditError` unless it is one."""
    if not 0.5 <= confidence < 1:
        raise AuditError(f"confidence is {confidence}: accepted are numbers from 0.5 to 1")


def check_network(source: Checkpoint) -> None:
    """Raise `AuditError` for a checkpoint without a network."""
    if source.state["stage"] == "adversary":
        raise AuditError(f"{source.folder}: holds adversaries, accepted: a checkpoint of stage target or private")


def check_data(source: Checkpoint, faces: Faces) -> None:
    """Raise `AuditError` unless the network was trained on this data set."""
    if source.state["identity"]["fingerprint"] != faces.fingerprint:
        raise AuditError(
            f"{source.folder} was trained on the data set {source.state['identity']['fingerprint'][:12]}, "
            f"{faces.config.shards} is {faces.fingerprint[:12]}"
        )


def _check_names(key: str, names: Sequence[str], accepted: Iterable[str]) -> None:
    for name in names:
        if name not in accepted:
            raise AuditError(f"{key}: {name!r} is unknown: accepted are {', '.join(accepted)}")


def _kinds(tap: str, spec: NetworkSpec) -> set[str]:
    """The kinds of representation of one of our own networks' taps."""
    sent, noisy = tap in (CENTRE, RELEASE), tap == RELEASE and spec.channel.kind == "noise"
    site = spec.channel.at if sent else tap
    kinds = set(KINDS["map" if site in Backbone.taps and not (sent and spec.channel.numbers) else "vector"])
    return kinds if noisy else kinds - {"centres"}


def _check_numbers(config: AuditConfig) -> None:
    for key, least in LEAST.items():
        if getattr(config, key) < least:
            raise AuditError(f"{key} is {getattr(config, key)}: accepted are numbers of at least {least}")
