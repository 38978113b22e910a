"""Stage `private`: the network learns the target attribute, and to reveal little where a term protects."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.evaluate import Scores
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.adversary import check_pair, check_private
from privatenet.distributed.stages.identity import identity
from privatenet.distributed.stages.stage import StagePlan
from privatenet.distributed.stages.target import class_weights
from privatenet.distributed.stages.trained import find_trained, load_adversaries, load_network, new_adversary
from privatenet.distributed.trainer import Job
from privatenet.models.network import NetworkSpec, with_channel
from privatenet.models.objectives.registry import TermSpec
from privatenet.models.objectives.term import TermContext
from privatenet.models.tasks import PrivateTask


def plan_private(config: Config, faces: Faces, ranks: Ranks) -> StagePlan:
    protect, specs, target = config.protect, config.protect.specs, faces.schema.target
    start = find_trained(config, faces, ranks, protect.start, "protect.start")
    network_spec = replace(NetworkSpec(**start.state["spec"]), channel=config.channel)
    for spec in specs:
        check_pair(spec.pair, network_spec, faces, "protect.terms")
    for name in config.channel.erase:
        check_private(name, faces, "channel.erase")
    against = protect.known
    known = find_trained(config, faces, ranks, protect.adversaries, "protect.adversaries") if against else None
    if known:
        _check_known(known, start, against)
    attributes = sorted({spec.pair.attribute for spec in specs})

    def job() -> Job:
        network = with_channel(load_network(start, ranks), config.channel)
        adversaries = load_adversaries(known, network, against, ranks) if known else nn.ModuleDict()
        terms = {
            spec: spec.build(
                TermContext(
                    network.tap_shapes[spec.pair.tap],
                    faces.class_frequencies(spec.pair.attribute),
                    adversaries[spec.known.name] if spec.known else None,
                    partial(new_adversary, start, network, spec.pair.name),
                    network_spec.num_classes,
                    config.channel,
                )
            )
            for spec in specs
        }
        weights = class_weights(config.private, faces)
        task = PrivateTask(network, terms, target, protect.lambda_, weights, config.private.label_smoothing)

        def rate(scores: Scores, explained: Mapping[str, float]) -> dict[str, float]:
            loss = joint_figure(scores[target].cross_entropy, explained, specs, protect.lambda_)
            return dict.fromkeys(task.trained, -loss)

        return Job(
            task, rate, faces.training(attributes, protecting=True), faces.validation(attributes, protecting=True),
            config.private,
        )  # fmt: skip

    parents = {"network": start.hash, **({"adversaries": known.hash} if known else {})}
    return StagePlan(
        Path(config.output) / "private", "private", identity(config, faces, "private", **parents), network_spec, job
    )


def joint_figure(cross_entropy: float, explained: Mapping[str, float], specs: list[TermSpec], lambda_: float) -> float:
    """What epochs are compared by: Eq. 8 with what a new probe explains in place of each term's own loss.

    A term's loss against adversaries that learn on says as much about them as about the network: it is another measure
    in every epoch.
    """
    return (1 - lambda_) * cross_entropy + lambda_ * sum(spec.weight * explained[spec.name] for spec in specs)


def _check_known(known: Checkpoint, start: Checkpoint, pairs: list[str]) -> None:
    if known.state["identity"]["network"] != start.hash:
        raise ConfigError(f"protect.adversaries: {known.folder} was trained on another network than {start.folder}")
    trained = known.state["identity"]["pairs"]
    for name in pairs:
        if name not in trained:
            accepted = ", ".join(trained)
            raise ConfigError(f"protect.terms: {known.folder} has no adversary {name}: accepted are {accepted}")
