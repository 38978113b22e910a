"""Which networks an audit looks at: the one it is about, the one that was never protected, one never trained."""

import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from support import FINISHED_STATE

from privatenet.audit.attack.networks import audited_networks
from privatenet.audit.settings import AuditConfig
from privatenet.distributed import checkpoint
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.ranks import ALONE
from privatenet.models.channel import NO_CHANNEL, ChannelSpec
from privatenet.models.network import NetworkSpec, build_network


def trained(
    folder: Path, start: Checkpoint | None = None, channel: ChannelSpec = NO_CHANNEL, seed: int = 0
) -> Checkpoint:
    """The checkpoint of a target network, or of a private one that began from `start`."""
    stage = "private" if start else "target"
    torch.manual_seed(seed)
    spec = NetworkSpec("resnet18", 7, 32, "linear", channel=channel)
    state = {
        "stage": stage,
        "identity": {"network": start.hash if start else ""},
        "config": {"protect": {"start": str(start.folder) if start else "", "adversaries": "known"}},
        "spec": asdict(spec),
    }
    weights = {f"network.{name}": value for name, value in build_network(spec).state_dict().items()}
    checkpoint.save(folder / stage / "final", {"model": weights}, FINISHED_STATE | state)
    return checkpoint.load(folder / stage / "final")


def hashes(source: Checkpoint, reference: str) -> dict[str, str]:
    networks = audited_networks(AuditConfig(references=[reference]), source, ALONE)
    return {network.role: network.sha256 for network in networks}


def test_a_private_network_that_began_from_a_private_one_is_compared_with_the_unprotected_one(tmp_path: Path) -> None:
    target = trained(tmp_path / "first")
    private = trained(tmp_path / "first", target, seed=1)
    further = trained(tmp_path / "second", private, seed=2)
    assert hashes(further, "unprotected") == {"audited": further.hash, "unprotected": target.hash}
    shutil.rmtree(target.folder)
    trained(tmp_path / "first", seed=3)
    assert hashes(further, "unprotected") == {"audited": further.hash}, "another network is there now"


def test_a_network_never_trained_is_another_one_for_another_channel(tmp_path: Path) -> None:
    target = trained(tmp_path)
    noises = [trained(tmp_path / str(sigma), target, ChannelSpec("noise", sigma=sigma)) for sigma in (1.0, 2.0)]
    assert noises[0].hash == noises[1].hash, "a channel at the logits has no weights"
    weak, strong = (hashes(noisy, "random")["random"] for noisy in noises)
    assert weak != strong
