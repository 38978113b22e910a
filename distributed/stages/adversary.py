"""Stage `adversary`: adversaries learn private attributes from the taps of a frozen network, or from the picture."""

from pathlib import Path

from torch import nn

from privatenet.distributed.config import Config
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.identity import identity
from privatenet.distributed.stages.stage import StagePlan
from privatenet.distributed.stages.trained import find_trained, load_initial_weights, load_network
from privatenet.distributed.trainer import Job
from privatenet.models.adversary import ImageAdversary, Pair, build_adversary
from privatenet.models.channel import CENTRE, RELEASE
from privatenet.models.network import NetworkSpec, check_tap
from privatenet.models.tasks import AdversaryTask

FOLDERS = {"target": "known", "private": "unknown"}


def plan_adversary(config: Config, faces: Faces, ranks: Ranks) -> StagePlan:
    """Adversaries of all pairs that are attacked or protected; on a private network none that looks at the picture, on
    one without the configured channel none that looks at what it sends."""
    source = find_trained(config, faces, ranks, config.attack.network, "attack.network")
    spec = NetworkSpec(**source.state["spec"])
    names = dict.fromkeys([*config.attack.pairs, *config.protect.pairs, *config.protect.known])
    pairs = [Pair.parse(name) for name in names]
    if spec.channel != config.channel:
        pairs = [pair for pair in pairs if pair.tap not in (CENTRE, RELEASE)]
    for pair in pairs:
        check_pair(pair, spec, faces, "attack.pairs")
    if source.state["stage"] == "private":
        pairs = [pair for pair in pairs if pair.tap != "image"]
    attributes = sorted({pair.attribute for pair in pairs})
    folder = FOLDERS.get(config.attack.network, f"adversary-{Path(config.attack.network).name}")

    def build(pair: Pair, shapes: dict[str, tuple[int, ...]]) -> nn.Module:
        classes = len(faces.schema.attribute(pair.attribute).classes)
        adversary = build_adversary(spec, shapes, pair.tap, classes, spec.affinity)
        if isinstance(adversary, ImageAdversary):
            load_initial_weights(adversary.network.backbone, config.model.weights, ranks)
        return adversary

    def job() -> Job:
        network = load_network(source, ranks)
        adversaries = nn.ModuleDict({pair.name: build(pair, network.tap_shapes) for pair in pairs})
        return Job(
            AdversaryTask(network, adversaries, pairs),
            lambda scores, _: {f"adversaries.{name}": score.accuracy for name, score in scores.items()},
            faces.training(attributes), faces.validation(attributes), config.adversary,
        )  # fmt: skip

    parents = {"network": source.hash, "pairs": [pair.name for pair in pairs]}
    return StagePlan(
        Path(config.output) / folder, "adversary", identity(config, faces, "adversary", **parents), spec, job
    )


def check_pair(pair: Pair, spec: NetworkSpec, faces: Faces, key: str) -> None:
    """Raises `ConfigError` or `ModelError` unless the network has the tap and the data set the private attribute."""
    check_tap(spec, pair.tap)
    check_private(pair.attribute, faces, f"{key}: {pair.name}")


def check_private(attribute: str, faces: Faces, key: str) -> None:
    """Raises `ConfigError` unless it is a private attribute of the data set."""
    if attribute not in faces.schema.private:
        accepted = ", ".join(faces.schema.private)
        raise ConfigError(f"{key}: {attribute!r} is no private attribute: accepted are {accepted}")
