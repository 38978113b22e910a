"""What a stage starts from: checkpoints of other stages, by name or folder, and what is in them; published weights."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed import agree, checkpoint
from privatenet.distributed.checkpoint import Checkpoint, below
from privatenet.distributed.config import Config
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.faces import Faces
from privatenet.distributed.mirror import Mirror
from privatenet.distributed.ranks import ALONE, Ranks
from privatenet.models.adversary import Pair, build_adversary
from privatenet.models.backbones import Backbone, initial_weights
from privatenet.models.network import Network, NetworkSpec, build_network


def find_trained(config: Config, faces: Faces, ranks: Ranks, name: str, key: str) -> Checkpoint:
    """The finished stage that `name` means, one of this output or any checkpoint folder, as the first rank finds it.

    Raises `ConfigError` naming the setting `key` where there is none, or it is of another data set or network.
    """
    source = agree.first(ranks, lambda: _load(config, name, key))
    fingerprint, spec = source.state["identity"]["fingerprint"], NetworkSpec(**source.state["spec"])
    if fingerprint != faces.fingerprint:
        raise ConfigError(
            f"{key}: {source.folder} was trained on the data set {fingerprint[:12]}, "
            f"{config.data.shards} is {faces.fingerprint[:12]}"
        )
    accepted = network_spec(config, faces)
    if replace(spec, channel=accepted.channel) != accepted:
        raise ConfigError(f"{key}: {source.folder} belongs to {spec}, the settings under `model` ask for {accepted}")
    return source


def network_spec(config: Config, faces: Faces) -> NetworkSpec:
    """What the settings under `model` ask for."""
    model = config.model
    classes = len(faces.schema.attribute(faces.schema.target).classes)
    return NetworkSpec(model.backbone, classes, model.image_size, model.head, model.affinity)


def load_network(source: Checkpoint, ranks: Ranks = ALONE) -> Network:
    """The network of a target's or private network's checkpoint, which the first rank reads."""
    network = build_network(NetworkSpec(**source.state["spec"]))
    source.load_into(network, below(agree.first(ranks, source.tensors), "network."))
    return network


def load_initial_weights(backbone: Backbone, weights: str, ranks: Ranks) -> None:
    """Load what `model.weights` names into `backbone`; the first rank reads or fetches it."""
    if weights != "none":
        backbone.load_state_dict(agree.first(ranks, lambda: initial_weights(backbone, weights)))


def load_adversaries(source: Checkpoint, network: Network, names: list[str], ranks: Ranks = ALONE) -> nn.ModuleDict:
    """Adversaries by pair name from their checkpoint, which the first rank reads; `network` is one they can look at."""
    tensors = agree.first(ranks, source.tensors)
    adversaries = nn.ModuleDict({name: new_adversary(source, network, name) for name in names})
    for name, adversary in adversaries.items():
        source.load_into(adversary, below(tensors, f"adversaries.{name}."))
    return adversaries


def new_adversary(source: Checkpoint, network: Network, name: str) -> nn.Module:
    """An adversary for the pair `name` like those in `source`, with new weights."""
    pair = Pair.parse(name)
    classes = len(Schema.from_dict(source.state["schema"]).attribute(pair.attribute).classes)
    return build_adversary(network.spec, network.tap_shapes, pair.tap, classes, network.spec.affinity)


def _load(config: Config, name: str, key: str) -> Checkpoint:
    stage = Path(config.output) / name / "final"
    if config.mirror and not Path(name).exists():
        Mirror(config.mirror, stage.parent).pull_result()
    folder = stage if stage.exists() or not Path(name).exists() else Path(name)
    if not folder.exists():
        raise ConfigError(f"{key}: there is no finished stage {stage}; train it first, or give a checkpoint's folder")
    return checkpoint.load(folder)
