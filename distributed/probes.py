"""What a new linear adversary reads where a private task protects, measured while its network is evaluated."""

import torch
from torch import Tensor

from privatenet.data_shards.reading.batches import Batch
from privatenet.data_shards.reading.plan import evaluation_rows
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed import agree
from privatenet.distributed.faces import Subset
from privatenet.distributed.ranks import Ranks
from privatenet.models.probe import explained_variance, reduce_map
from privatenet.models.tasks import PrivateTask, Task

PROBE_SAMPLES = 2000


class Probes:
    """A linear probe for every term of a private task, on the first 2,000 samples that it is evaluated on.

    The network does not learn from those: figures mean the same in every epoch, whatever the known adversaries do.
    Other tasks have no terms, and no figures.
    """

    def __init__(self, task: Task, subset: Subset, ranks: Ranks) -> None:
        self.task, self.ranks = task, ranks
        self.specs = task.specs if isinstance(task, PrivateTask) else ()
        rows = evaluation_rows(subset.rows[:PROBE_SAMPLES], ranks.world_size, ranks.rank)
        self.missing = len(rows) if self.specs else 0
        self.positions: list[Tensor] = []
        self.observations: list[dict[str, tuple[Tensor, Tensor]]] = []

    def look(self, batch: Batch) -> None:
        """Keep what the terms observed of the batch that the task has just answered for."""
        if not self.missing:
            return
        assert isinstance(self.task, PrivateTask)
        first = slice(min(self.missing, len(batch.positions)))
        self.missing -= first.stop
        self.positions.append(batch.positions[first].cpu())
        observed, labels = self.task.observations, batch.labels
        self.observations.append(
            {
                spec.name: (reduce_map(observed[spec.name][first]).cpu(), labels[spec.pair.attribute][first].cpu())
                for spec in self.specs
            }
        )

    def explained(self, schema: Schema) -> dict[str, float]:
        """Explained variance of the attribute's classes, 0 to 1, by the term's name; of all ranks, which call it
        together."""
        if not self.specs:
            return {}
        shares = agree.everyone(self.ranks, lambda: (self.positions, self.observations))
        places = [batch for share in shares for batch in share[0]]
        if not places:
            return {}
        order = torch.cat(places).argsort()  # the same whatever the ranks
        explained = {}
        for spec in self.specs:
            batches = [batch[spec.name] for share in shares for batch in share[1]]
            features, labels = (torch.cat(values)[order] for values in zip(*batches, strict=True))
            classes, known = len(schema.attribute(spec.pair.attribute).classes), labels >= 0
            explained[spec.name] = explained_variance(features[known], labels[known], classes)
        return explained
