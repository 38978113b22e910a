"""Stage `target`: the network learns the target attribute, with nothing protected."""

from pathlib import Path

import torch
from torch import Tensor

from privatenet.distributed.config import Config, TargetFitConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.identity import identity
from privatenet.distributed.stages.stage import StagePlan
from privatenet.distributed.stages.trained import load_initial_weights, network_spec
from privatenet.distributed.trainer import Job
from privatenet.models.network import build_network
from privatenet.models.tasks import TargetTask


def plan_target(config: Config, faces: Faces, ranks: Ranks) -> StagePlan:
    spec, target = network_spec(config, faces), faces.schema.target

    def job() -> Job:
        network = build_network(spec)
        load_initial_weights(network.backbone, config.model.weights, ranks)
        task = TargetTask(network, target, class_weights(config.target, faces), config.target.label_smoothing)
        return Job(
            task, lambda scores, _: {"network": scores[target].accuracy}, faces.training([target]),
            faces.validation([target]), config.target,
        )  # fmt: skip

    return StagePlan(Path(config.output) / "target", "target", identity(config, faces, "target"), spec, job)


def class_weights(fit: TargetFitConfig, faces: Faces) -> Tensor | None:
    """Inverse class frequencies, their mean over the samples 1; a class without samples gets none."""
    if fit.class_weights == "none":
        return None
    frequencies = faces.class_frequencies(faces.schema.target)
    present = frequencies > 0
    return torch.where(present, 1 / (present.sum() * frequencies.clamp(min=1e-12)), torch.zeros(()))
