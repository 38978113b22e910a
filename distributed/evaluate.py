"""Scores of a task over a subset of the data: exact over ranks, every sample once, one picture's answer its own."""

from collections.abc import Callable, Mapping
from dataclasses import asdict

from privatenet.data_shards.reading.batches import Batch
from privatenet.data_shards.reading.transforms import prepare
from privatenet.distributed.config import Config
from privatenet.distributed.faces import Faces, Subset
from privatenet.distributed.metrics import Score, Tally
from privatenet.distributed.precision import evaluation_precision, layout
from privatenet.distributed.ranks import Ranks
from privatenet.models.tasks import Task

EVALUATION_BATCH = 128

Scores = Mapping[str, Score]


def evaluate(
    task: Task, subset: Subset, config: Config, faces: Faces, ranks: Ranks, look: Callable[[Batch], None] | None = None
) -> dict[str, Score]:
    """Score every head of `task` over `subset`, in evaluation mode; `look` is called after each batch's answers. All
    ranks call it together.

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
            if look:
                look(batch)
    task.train()
    return tally.scores()


def score_metrics(split: str, scores: Scores) -> dict[str, float]:
    """Scores as flat metrics: "test/backbone-gender/accuracy"."""
    return {f"{split}/{head}/{name}": value for head, score in scores.items() for name, value in asdict(score).items()}
