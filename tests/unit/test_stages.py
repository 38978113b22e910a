"""What each stage starts from."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from dist_cases import tiny
from safetensors.torch import save_file
from support import FINISHED_STATE

from privatenet.data_shards.reading.transforms import prepare
from privatenet.distributed import checkpoint
from privatenet.distributed.config import Config, ProtectConfig
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import ALONE
from privatenet.distributed.stages.adversary import plan_adversary
from privatenet.distributed.stages.private import plan_private
from privatenet.distributed.stages.target import plan_target
from privatenet.models.adversary import ArmAdversary, ImageAdversary
from privatenet.models.backbones import build_backbone
from privatenet.models.channel import ChannelSpec
from privatenet.models.network import build_network


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> Config:
    """Settings whose backbone starts from a file of weights, and whose affinity is the paper's."""
    torch.manual_seed(9)
    save_file(build_backbone("resnet18").state_dict(), tmp_path / "weights.safetensors")
    config = tiny(shards, tmp_path / "run")
    model = replace(config.model, backbone="resnet18", weights=str(tmp_path / "weights.safetensors"), affinity="batch")
    return replace(config, model=model, attack=replace(config.attack, pairs=["image-gender", "backbone-gender"]))


def with_finished_target(config: Config) -> Faces:
    """A target network that is finished, without having been trained."""
    faces = Faces(config.data, ALONE)
    plan = plan_target(config, faces, ALONE)
    weights = {f"network.{name}": value for name, value in build_network(plan.spec).state_dict().items()}
    state = {
        "stage": "target",
        "identity": plan.identity,
        "spec": asdict(plan.spec),
        "schema": faces.schema.to_dict(),
    }
    checkpoint.save(plan.folder / "final", {"model": weights}, FINISHED_STATE | state)
    return faces


def test_image_adversaries_start_from_the_named_weights_and_all_take_the_networks_affinity(config: Config) -> None:
    faces = with_finished_target(config)
    adversaries = plan_adversary(config, faces, ALONE).job().task.adversaries
    torch.manual_seed(9)
    expected = build_backbone("resnet18").state_dict()
    image, tap = adversaries["image-gender"], adversaries["backbone-gender"]
    assert isinstance(image, ImageAdversary)
    assert isinstance(tap, ArmAdversary)
    for name, tensor in image.network.backbone.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert (image.network.head.affinity, tap.head.affinity) == ("batch", "batch")


def test_known_adversaries_are_asked_for_only_where_a_term_needs_one(config: Config) -> None:
    faces = with_finished_target(config)
    with pytest.raises(ConfigError, match=r"protect\.adversaries: there is no finished stage"):
        plan_private(config, faces, ALONE)


def test_an_objective_that_looks_at_pictures_is_built_with_the_image_adversary_that_was_trained(config: Config) -> None:
    terms = [{"at": f"{tap}-gender", "objective": "distance_correlation"} for tap in ("layer4", "arm")]
    config = replace(config, attack=replace(config.attack, pairs=["arm-gender"]), protect=ProtectConfig(terms))
    faces = with_finished_target(config)
    plan = plan_adversary(config, faces, ALONE)
    assert plan.identity["pairs"] == ["arm-gender", "layer4-gender", "image-gender"]
    adversaries = plan.job().task.adversaries
    weights = {f"adversaries.{name}": value for name, value in adversaries.state_dict().items()}
    state = {
        "stage": "adversary", "identity": plan.identity, "spec": asdict(plan.spec), "schema": faces.schema.to_dict()
    }  # fmt: skip
    checkpoint.save(plan.folder / "final", {"model": weights}, FINISHED_STATE | state)

    task = plan_private(config, faces, ALONE).job().task
    batch = next(iter(faces.batches(faces.training(["gender"]), 8)))
    losses = task(prepare(batch.images, 64), batch.labels)
    losses["loss"].backward()
    assert 0 < losses["distance_correlation/arm-gender"] < 1
    assert all(tensor.grad is not None for tensor in task.network.backbone.parameters())
    for name in ("layer4", "arm"):
        term = task.terms[f"distance_correlation/{name}-gender"]
        for key, tensor in term.attribute_network.state_dict().items():
            assert torch.equal(tensor, adversaries["image-gender"].state_dict()[key]), key
        assert not any(tensor.requires_grad for tensor in term.parameters())


def test_a_stage_is_known_by_what_decides_its_result_and_by_nothing_else(config: Config) -> None:
    faces = with_finished_target(config)
    identity = plan_target(config, faces, ALONE).identity
    elsewhere = replace(config, output="other", engine=replace(config.engine, zero_stage=2, checkpoint_minutes=0))
    assert plan_target(elsewhere, faces, ALONE).identity == identity
    for changed in (
        replace(config, seed=1),
        replace(config, target=replace(config.target, lr=0.5)),
        replace(config, engine=replace(config.engine, clip=3.0)),
        replace(config, data=replace(config.data, validation=0.5)),
    ):
        assert plan_target(changed, faces, ALONE).identity != identity


def test_a_channels_newer_settings_count_only_where_they_are_used(config: Config) -> None:
    faces = with_finished_target(config)
    config = replace(config, protect=ProtectConfig([{"at": "backbone-gender", "objective": "hsic"}]))
    before = {"kind": "none", "at": "logits", "norm": 12.0, "sigma": 1.0, "codes": 8}
    assert plan_private(config, faces, ALONE).identity["channel"] == before
    with pytest.raises(ConfigError, match=r"channel\.erase: 'hat' is no private attribute: accepted are gender"):
        plan_private(replace(config, channel=ChannelSpec("plain", erase=["hat"])), faces, ALONE)
    narrow = replace(config, channel=ChannelSpec("plain", "layer3", numbers=4))
    assert plan_private(narrow, faces, ALONE).identity["channel"] == {
        **before, "kind": "plain", "at": "layer3", "numbers": 4
    }  # fmt: skip
