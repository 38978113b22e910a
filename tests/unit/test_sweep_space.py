"""What a sweep varies: points, the settings that follow from them, and what is refused before anything starts."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from privatenet.data_shards.sources.rafdb import RAFDB_SCHEMA
from privatenet.distributed.config import Config, ProtectConfig
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.resolve import check_config
from privatenet.launch import cli
from privatenet.launch.ready import ready_configs
from privatenet.models.channel import ChannelSpec
from privatenet.tune.settings import Range, RayConfig, SearchConfig, SpaceConfig
from privatenet.tune.space import (
    check_search,
    check_space,
    corners,
    describe,
    dimensions,
    opposed,
    protected,
    settings,
    suggest,
    watched,
)

WIDE = SpaceConfig(
    taps=["backbone", "arm", "backbone+arm"],
    attributes=["gender", "gender+age_group"],
    objective=["confusion", "adversarial"],
    options={"prior": ["uniform", "class"], "known": ["frozen", "alternating"]},
    lr=Range(1e-4, 1e-2, log=True),
    seed=[0, 1],
    lambda_=Range(0.1, 0.9),
)


def test_a_point_becomes_settings_whose_pairs_share_a_weight_of_one() -> None:
    point = {
        "lambda": 0.3,
        "objective": "adversarial",
        "taps": "backbone+arm",
        "attributes": "gender+age_group",
        "seed": 4,
    }
    config = settings(point, Config())
    assert {(spec.name, spec.weight) for spec in config.protect.specs} == {
        (f"adversarial/{tap}-{name}", 0.25) for name in ("gender", "age_group") for tap in ("backbone", "arm")
    }
    assert (config.protect.lambda_, config.seed) == (0.3, 4)
    (spec,) = settings({"taps": "arm", "prior": "class"}, Config()).protect.specs
    assert (spec.name, spec.weight, spec.options.prior) == ("confusion/arm-gender", 1.0, "class")
    two = replace(Config(), protect=ProtectConfig(terms=[{"at": "arm-gender", "weight": 2}, {"at": "backbone-gender"}]))
    assert [spec.weight for spec in settings({"known": "alternating"}, two).protect.specs] == [2, 1]
    assert {spec.options.known for spec in settings({"known": "alternating"}, two).protect.specs} == {"alternating"}
    changed = settings({"lr": 0.5, "backbone": "resnet50"}, Config())
    assert (changed.private.lr, changed.model.backbone) == (0.5, "resnet50")
    assert changed.protect.specs == Config().protect.specs
    check_config(config)
    noisy = replace(Config(), channel=ChannelSpec("noise", sigma=2.0))
    point = {"norm": 20.0, "at": "layer3", "numbers": 4}
    assert settings(point, noisy).channel == ChannelSpec("noise", "layer3", norm=20.0, sigma=2.0, numbers=4)


def test_optuna_chooses_points_that_can_be_run_and_a_prior_only_for_confusion() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    seen = []
    for _ in range(60):
        trial = study.ask()
        suggest(WIDE, Config(), trial)
        seen.append(dict(trial.params))
        check_config(settings(trial.params, Config()))
    assert {("prior" in point) == (point["objective"] == "confusion") for point in seen} == {True}
    assert all(0.1 <= point["lambda"] <= 0.9 and 1e-4 <= point["lr"] <= 1e-2 for point in seen)
    for name, values in dimensions(WIDE).items():
        if isinstance(values, list):
            assert {point[name] for point in seen if name in point} == set(values)


def test_settings_of_the_channel_are_chosen_as_they_are_written(tiny_config: Path) -> None:
    from privatenet.launch.commands.sweep import read

    written = (
        "{norm: {low: 6, high: 24}, sigma: [0.5, 1], numbers: {low: 2, high: 16, log: true}, at: [layer3, layer4]}"
    )
    config, space, search, *_ = read(
        ["--config", str(tiny_config), "--channel.kind", "noise", "--channel.at", "layer2", "--space.channel", written]
    )
    check_space(space, search, config, RAFDB_SCHEMA)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = []
    for _ in range(30):
        trial = study.ask()
        suggest(space, config, trial)
        points.append(trial.params)
    channels = [settings(point, config).channel for point in points]
    assert {channel.at for channel in channels} == {"layer3", "layer4"}
    assert {channel.sigma for channel in channels} == {0.5, 1}
    assert all(isinstance(channel.numbers, int) and 2 <= channel.numbers <= 16 for channel in channels)
    assert all(6 <= channel.norm <= 24 for channel in channels)
    assert len({channel.norm for channel in channels}) == 30
    assert describe({"norm": 8.1234, "numbers": 4, "at": "layer3"}) == "norm 8.12, numbers 4, at layer3"


def test_a_grid_holds_every_combination_that_means_something_once() -> None:
    space = SpaceConfig(
        objective=["confusion", "adversarial"], options={"prior": ["uniform", "class"]}, lambda_=[0.3, 0.6]
    )
    points = list(corners(space, Config()))
    assert len(points) == 2 * (2 + 1)
    assert len({tuple(point.items()) for point in points}) == len(points)
    assert list(points[0]) == ["lambda", "objective", "prior"]


def test_every_trial_is_looked_at_wherever_one_of_them_protects() -> None:
    assert watched(WIDE, SearchConfig(), Config()) == (["backbone", "arm"], ["gender", "age_group"])
    assert watched(WIDE, SearchConfig(taps=["layer4"]), Config())[0] == ["layer4"]
    assert set(protected(WIDE, Config())) == {f"{t}-{a}" for t in ("backbone", "arm") for a in ("gender", "age_group")}
    assert protected(SpaceConfig(lambda_=[0.5, 0.6]), Config()) == ["backbone-gender"]


def test_known_adversaries_are_trained_only_where_an_objective_starts_from_one() -> None:
    assert opposed(SpaceConfig(objective=["hsic", "confusion"], taps=["arm"]), Config()) == ["arm-gender"]
    assert opposed(SpaceConfig(objective=["hsic", "collapse"], taps=["arm"]), Config()) == []
    assert opposed(SpaceConfig(objective=["distance_correlation"], taps=["arm"]), Config()) == ["image-gender"]


def test_a_point_is_told_in_a_few_words() -> None:
    assert describe({"lambda": 0.123456, "objective": "confusion", "lr": 1e-4}) == "lambda 0.123, confusion, lr 0.0001"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space: nothing varies"),
        ({"lambda_": Range(0.5, 0.5)}, "space.lambda: from 0.5 to 0.5 there is nothing"),
        ({"lambda_": Range(0.5, 1.5)}, "space.lambda: 1.5 is not accepted"),
        ({"lambda_": []}, "space.lambda is empty"),
        ({"lambda_": [0.5, 0.5]}, "space.lambda names a value twice"),
        ({"lr": Range(0.0, 1.0, log=True)}, "space.lr: low is 0"),
        ({"lr": [0.0]}, "space.lr: 0 is not accepted"),
        ({"taps": ["backbone+elbow"]}, "space.taps: 'elbow' is not accepted: they are layer1"),
        ({"attributes": ["emotion"]}, "space.attributes: 'emotion' is not accepted: they are gender"),
        ({"objective": ["magic"]}, "space.objective: 'magic'"),
        (
            {"objective": ["adversarial"], "options": {"prior": ["class"]}},
            "space.options.prior: no objective of a trial",
        ),
        ({"options": {"known": ["asleep"]}}, "space.options: .*known 'asleep'"),
        ({"backbone": ["vgg"]}, "space.backbone 'vgg' is unknown; accepted: vgg19"),
    ],
)
def test_an_impossible_space_names_its_key(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(SpaceConfig(**space), SearchConfig(), Config(), RAFDB_SCHEMA)


@pytest.mark.parametrize(
    ("kind", "channel", "message"),
    [
        ("none", {"norm": [8, 16]}, "space.channel.norm: means nothing with channel.kind none; accepted: none"),
        ("noise", {"step": [1, 2]}, "space.channel.step: means nothing with channel.kind noise; accepted: at, "),
        ("noise", {"kind": ["noise", "plain"]}, "space.channel.kind: means nothing"),
        ("noise", {"norm": [0.0, 1.0]}, "space.channel.norm 0.0 is not accepted; accepted: above 0"),
        ("noise", {"norm": []}, "space.channel.norm is empty"),
        ("noise", {"at": ["layer3"], "numbers": Range(2.5, 8)}, "space.channel.numbers 2.5 is not accepted"),
        ("noise", {"at": ["layer3", "logits"], "numbers": [2, 8]}, "space.channel.numbers 2 is not accepted at logits"),
        ("noise", {"at": ["elbow"]}, "space.channel.at 'elbow' is unknown; accepted: layer1"),
    ],
)  # fmt: skip
def test_an_impossible_setting_of_the_channel_is_refused(kind: Any, channel: dict[str, Any], message: str) -> None:
    config = replace(Config(), channel=ChannelSpec(kind))
    with pytest.raises(ConfigError, match=message):
        check_space(SpaceConfig(channel=channel), SearchConfig(), config, RAFDB_SCHEMA)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"trials": 0}, "search.trials is 0"),
        ({"retries": -1}, "search.retries is -1"),
        ({"stop_early": True}, "search.stop_early needs a single goal"),
        ({"stop_early": True, "goal": "score"}, "search.stop_early by score needs it measured"),
        ({"stop_early": True, "goal": "utility", "grace": 99}, "search.grace is 99"),
    ],
)
def test_an_impossible_search_names_its_key(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_search(SearchConfig(**search), Config())


def test_a_grid_needs_lists() -> None:
    with pytest.raises(ConfigError, match=r"space\.lambda: a grid needs a list"):
        check_space(SpaceConfig(lambda_=Range(0.1, 0.2)), SearchConfig(algorithm="grid"), Config(), RAFDB_SCHEMA)


LAPTOP = [{"CPU": 2.0}]
NODE = {"CPU": 32.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("machines", "where", "limit", "expected"),
    [
        (LAPTOP, RayConfig(), 0, (1, 1, 0.0, 2)),
        (LAPTOP, RayConfig(), 1, (1, 2, 0.0, 1)),
        ([{"CPU": 64, "GPU": 8}], RayConfig(), 0, (1, 8, 1.0, 8)),
        ([{"CPU": 64, "GPU": 8}], RayConfig(workers=4), 0, (4, 8, 1.0, 2)),
        ([{"CPU": 64, "GPU": 2}], RayConfig(gpus=0.25), 0, (1, 8, 0.25, 8)),
        ([{"CPU": 16}], RayConfig(workers=2, cpus=4), 0, (2, 4, 0.0, 2)),
        ([NODE] * 4, RayConfig(), 0, (1, 8, 1.0, 16)),
        ([NODE] * 4, RayConfig(), 1, (1, 32, 1.0, 1)),
        ([{"CPU": 8.0}, NODE], RayConfig(), 0, (1, 8, 1.0, 4)),
        ([{}, {"CPU": 2.0}], RayConfig(workers=2), 0, (2, 1, 0.0, 1)),
    ],
)
def test_cores_are_shared_out_so_that_trials_do_not_fight_for_them(
    machines: list[dict[str, float]], where: RayConfig, limit: int, expected: tuple[Any, ...]
) -> None:
    from privatenet.tune.cluster import share

    workers, at_once = share(machines, where, 40, limit)
    assert (workers.count, workers.cpus, workers.gpus, at_once) == expected
    trial = workers.count * workers.cpus
    assert at_once <= sum(machine.get("CPU", 0) // trial for machine in machines)


def test_a_trial_that_fits_on_no_machine_is_refused() -> None:
    from privatenet.tune.cluster import share

    with pytest.raises(ConfigError, match=r"ray\.workers 4 of 1 cores and 0 GPUs each fit on no machine of 2 cores"):
        share([{"CPU": 2}, {"CPU": 2}], RayConfig(workers=4), 8, 0)


@pytest.mark.parametrize("name", ready_configs("sweep"))
def test_every_ready_sweep_is_accepted(name: str) -> None:
    from privatenet.launch.commands.sweep import read

    config, space, search, _, _ = read(["--config", name])
    assert config.output.startswith("runs/")
    check_search(search, config)
    check_space(space, search, config, RAFDB_SCHEMA)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space.lamda", "[0.1]"], "space.lamda"),
        (["--space.lambda", "{low: 0.1, hihg: 0.9}"], "hihg"),
        (["--space.lambda", "{low: 0.9, high: 0.1}"], "space.lambda: from 0.9 to 0.1 there is nothing"),
        (["--search.algorithm", "anneal"], "search.algorithm"),
        (["--ray.gpu", "1"], "ray.gpu"),
        (["--data.shards", "nowhere"], "nowhere"),
        (["--resume", "--space.lambda", "[0.1]"], "--resume: .* holds no sweep"),
        (["--space.lambda", "[0.1]", "--search.attackers", "[ghost]"], "search.attackers: 'ghost' is not accepted"),
    ],
)
def test_bad_settings_are_one_line_before_ray_starts(
    arguments: list[str], message: str, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sweep", "--config", str(tiny_config), *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("privatenet: error: ")
    assert "\n" not in said
    assert re.search(message, said)
    assert not (tiny_config.parent / "run").exists()
