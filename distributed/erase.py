"""Attributes erased from what a trained network's channel sends, by the faces that it learnt from."""

import torch

from privatenet.data_shards.reading.transforms import prepare
from privatenet.distributed import agree
from privatenet.distributed.config import Config
from privatenet.distributed.evaluate import EVALUATION_BATCH
from privatenet.distributed.faces import Faces, Subset
from privatenet.distributed.precision import evaluation_precision, layout
from privatenet.distributed.ranks import Ranks
from privatenet.models.channel import CENTRE
from privatenet.models.erasure import Erasure, leace, moments
from privatenet.models.network import Network


def erase_attributes(network: Network, subset: Subset, config: Config, faces: Faces, ranks: Ranks) -> None:
    """Fit the erasure of `channel.erase` to the numbers of `subset`, once. All ranks call it together, each does its
    share of the samples, and all have the same erasure."""
    erasure, names = network.channel.erasure, network.spec.channel.erase
    assert isinstance(erasure, Erasure)
    classes = [len(faces.schema.attribute(name).classes) for name in names]
    size = 1 + len(erasure.offset) + sum(classes)
    total = torch.zeros(size, size, dtype=torch.float64, device=ranks.device)
    network.eval()
    with evaluation_precision(config.engine, ranks.device):
        for batch in faces.batches(subset, EVALUATION_BATCH):
            _, taps = network(layout(prepare(batch.images, config.model.image_size), config.engine))
            total += moments(taps[CENTRE], [batch.labels[name] for name in names], classes)
    network.train()
    shares = agree.everyone(ranks, total.cpu)
    matrix, offset = agree.first(ranks, lambda: leace(torch.stack(shares).sum(dim=0), classes))
    erasure.matrix.copy_(matrix)
    erasure.offset.copy_(offset)
