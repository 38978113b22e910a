"""Scores of a task over a subset of the data: exact over ranks, every sample once, one picture's answer its own."""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from privatenet.data_shards.reading.transforms import prepare
from privatenet.distributed import agree
from privatenet.distributed.config import Config
from privatenet.distributed.faces import Faces, Subset
from privatenet.distributed.metrics import Score, Tally
from privatenet.distributed.precision import evaluation_precision, layout
from privatenet.distributed.ranks import Ranks
from privatenet.models.probe import explained_variance, reduce_map
from privatenet.models.tasks import PrivateTask, Task

EVALUATION_BATCH = 128
PROBE_SAMPLES = 2000

Scores = Mapping[str, Score]


def evaluate(task: Task, subset: Subset, config: Config, faces: Faces, ranks: Ranks) -> dict[str, Score]:
    """Score every head of `task` over `subset`, in evaluation mode. All ranks call it together.

    One picture's answer does not depend on the others, unless the affinity is "batch".
    """
    attributes = {head: faces.schema.attribute(name) for head, name in task.heads.items()}
    tally = Tally({head: len(attribute.classes) for head, attribute in attributes.items()}, ranks.device)
    task.eval()
    with evaluation_precision(config.engine, ranks.device):
        for batch in faces.batches(subset, EVALUATION_BATCH):
            images = layout(prepare(batch.images, config.model.image_size), config.engine)
            for head, logits in task.predict(images).items():
                tally.add(head, logits, batch.labels[attributes[head].name])
    task.train()
    return tally.scores()


def probe_terms(task: Task, subset: Subset, config: Config, faces: Faces, ranks: Ranks) -> dict[str, float]:
    """What a new linear probe reads where each term protects: explained variance, 0 to 1, by the term's name.

    On the first 2,000 samples of `subset`, which the network does not learn from: a figure that means the same in every
    epoch, whatever the known adversaries do. All ranks call it together.
    """
    if not isinstance(task, PrivateTask) or not len(subset.rows):
        return {}
    first = Subset(subset.split, subset.pictures, subset.rows[:PROBE_SAMPLES])
    observations: list[dict[str, tuple[Tensor, Tensor]]] = []
    positions: list[Tensor] = []
    task.eval()
    with evaluation_precision(config.engine, ranks.device):
        for batch in faces.batches(first, EVALUATION_BATCH):
            task.predict(layout(prepare(batch.images, config.model.image_size), config.engine))
            positions.append(batch.positions.cpu())
            observations.append(
                {
                    spec.name: (
                        reduce_map(task.observations[spec.name]).cpu(),
                        batch.labels[spec.pair.attribute].cpu(),
                    )
                    for spec in task.specs
                }
            )
    task.train()
    shares = agree.everyone(ranks, lambda: (positions, observations))
    order = torch.cat([batch for share in shares for batch in share[0]]).argsort()  # the same whatever the ranks
    explained = {}
    for spec in task.specs:
        batches = [batch[spec.name] for share in shares for batch in share[1]]
        features, labels = (torch.cat(values)[order] for values in zip(*batches, strict=True))
        classes, known = len(faces.schema.attribute(spec.pair.attribute).classes), labels >= 0
        explained[spec.name] = explained_variance(features[known], labels[known], classes)
    return explained


def score_metrics(split: str, scores: Scores) -> dict[str, float]:
    """Scores as flat metrics: "test/backbone-gender/accuracy"."""
    return {f"{split}/{head}/{name}": value for head, score in scores.items() for name, value in asdict(score).items()}
