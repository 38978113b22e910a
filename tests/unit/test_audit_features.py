"""The features of a network on disk: their number format, and the noise that a channel adds to each picture."""

from pathlib import Path

import numpy as np
import pytest
import torch

from privatenet.audit.attack import extract
from privatenet.audit.attack.extract import NetworkExtractor
from privatenet.audit.attack.features import BFLOAT16, Features, PictureNoise, decoded, encoded, tap_file
from privatenet.audit.attack.representations import features_of
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.transforms import prepare
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.precision import evaluation_precision
from privatenet.distributed.ranks import ALONE
from privatenet.models.channel import ChannelSpec
from privatenet.models.network import Network, NetworkSpec, build_network


@pytest.fixture(scope="module")
def faces(shards: Path) -> Faces:
    return Faces(DataConfig(str(shards)), ALONE)


def network(channel: ChannelSpec) -> Network:
    torch.manual_seed(0)
    return build_network(NetworkSpec("resnet18", 7, 32, "linear", channel=channel)).eval()


def features(network: Network, faces: Faces, folder: Path, precision: str, *taps: str) -> Features:
    extractor = NetworkExtractor(network, "weights", "data", EngineConfig(precision=precision), ALONE)
    return extract.extract(extractor, taps, faces, ALONE, folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_what_is_read_is_what_was_kept(dtype: torch.dtype) -> None:
    numbers = torch.tensor([[0.0, -0.0, 1 / 3, -7e4, 6e-8], [float("inf"), -1e-3, 2.0, 65504.0, 1e-40]]).to(dtype)
    stored = encoded(numbers)
    assert stored.dtype.itemsize == min(4, dtype.itemsize)
    assert np.array_equal(decoded(stored), numbers.float().numpy())
    assert decoded(stored).dtype == np.float32


def test_features_take_as_many_bytes_as_the_network_gives_them(faces: Faces, tmp_path: Path) -> None:
    plain = network(ChannelSpec())
    kept = features(plain, faces, tmp_path, "bf16", "layer4")
    assert kept.stored("test", "layer4").dtype == BFLOAT16
    assert tap_file(kept.folder, "test", "layer4").stat().st_size < 3 * kept.stored("test", "layer4").size
    (batch,) = faces.batches(faces.testing(), 40)
    engine = EngineConfig(precision="bf16")
    with evaluation_precision(engine, ALONE.device):
        _, taps = plain(prepare(batch.images, 32))
    assert np.allclose(kept.array("test", "layer4"), taps["layer4"].float().numpy(), atol=0.1)
    both = features_of(kept, "layer4", np.array([3, 5, len(faces.train), len(faces.train) + 2]))
    assert np.array_equal(both[:2], kept.array("train", "layer4")[[3, 5]])
    assert np.array_equal(both[2:], kept.array("test", "layer4")[[0, 2]])
    file = tap_file(kept.folder, "test", "layer4")
    np.save(file, kept.array("test", "layer4"))  # in float32, as another device may have computed it
    again = features_of(kept, "layer4", np.array([3, 5, len(faces.train), len(faces.train) + 2]))
    assert np.array_equal(again, both)


def test_a_pictures_noise_is_its_own_whatever_batch_it_is_in(
    faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = network(ChannelSpec("noise", "layer4", norm=8, sigma=1))
    together = features(noisy, faces, tmp_path / "together", "fp32", "backbone")
    monkeypatch.setattr(extract, "EVALUATION_BATCH", 7)
    apart = features(noisy, faces, tmp_path / "apart", "fp32", "backbone")
    for tap in ("backbone", "logits", "answers"):
        ours, theirs = together.array("test", tap), apart.array("test", tap)
        assert np.allclose(ours, theirs, atol=1e-4 * np.abs(ours).max()), tap
    assert np.array_equal(together.array("test", "answers")[0].std(axis=0) > 0, np.ones(7, dtype=np.bool_))

    like = torch.zeros(3, 100_000)
    noise = PictureNoise("test", np.array([0, 1, 2]))
    first, second = noise(like), noise(like)
    others = torch.cat([first, second, PictureNoise("train", np.array([0]))(like[:1])])
    assert torch.allclose(torch.corrcoef(others), torch.eye(7), atol=0.02)
    assert torch.allclose(others.std(dim=1), torch.ones(7), atol=0.02)
