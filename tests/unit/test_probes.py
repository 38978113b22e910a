"""What a linear probe reads of a private task, from the answers that it is evaluated by."""

from pathlib import Path

import pytest
import torch

from privatenet.data_shards.reading.batches import evaluation_batches
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.plan import evaluation_rows
from privatenet.data_shards.reading.transforms import prepare
from privatenet.distributed import probes
from privatenet.distributed.faces import Faces
from privatenet.distributed.probes import Probes
from privatenet.distributed.ranks import ALONE, Ranks
from privatenet.launch.bench.step import private_task
from privatenet.models.probe import explained_variance

FIRST = 30
TERM = "confusion/arm-gender"


def probed(world_size: int, shards: Path) -> list[Probes]:
    """Those of every rank, whose network has answered for the test pictures in batches of 8."""
    torch.manual_seed(0)
    task, every = private_task(64).eval(), []
    testing = Faces(DataConfig(str(shards)), ALONE).testing()
    for rank in range(world_size):
        every.append(Probes(task, testing, Ranks(rank, world_size, rank, world_size, ALONE.device)))
        rows = evaluation_rows(testing.rows, world_size, rank)
        with torch.inference_mode():
            for batch in evaluation_batches(testing.split, testing.pictures, rows, 8):
                task.predict(prepare(batch.images, 64))
                every[-1].look(batch)
    return every


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_first_samples_are_probed_each_once_whatever_the_ranks(
    world_size: int, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "PROBE_SAMPLES", FIRST)
    every = probed(world_size, shards)
    places = torch.cat([batch for each in every for batch in each.positions])
    features, labels = (
        torch.cat([batch[TERM][number] for each in every for batch in each.observations]) for number in (0, 1)
    )
    assert sorted(places.tolist()) == list(range(FIRST))
    faces = Faces(DataConfig(str(shards)), ALONE)
    gender = torch.from_numpy(faces.test.labels[:, faces.schema.names.index("gender")])
    assert torch.equal(labels, gender[places])
    expected = probed(1, shards)[0]
    rows = torch.cat([batch[TERM][0] for batch in expected.observations])
    assert torch.allclose(features[places.argsort()], rows, atol=1e-4)
    assert expected.explained(faces.schema)[TERM] == explained_variance(rows, gender[:FIRST], 2)
