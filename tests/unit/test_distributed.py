"""The pure parts of a run: settings, schedule, scores, checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from support import FINISHED_STATE, TRAINING_STATE

from privatenet.data_shards.errors import DataError
from privatenet.distributed import checkpoint, snapshot
from privatenet.distributed.config import Config, FitConfig, to_yaml
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.metrics import score
from privatenet.distributed.place import requested_threads
from privatenet.distributed.resolve import resolve_config
from privatenet.distributed.schedule import learning_rate
from privatenet.distributed.stages.trained import load_network
from privatenet.launch import cli, train
from privatenet.launch.exits import guarded
from privatenet.launch.ready import ready_configs, with_ready_configs


def resolve(*arguments: str) -> Config:
    parser: ArgumentParser = train.parser()
    return resolve_config(parser, ["target", *arguments])[0]


def test_flags_override_the_file_which_overrides_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("protect: {lambda: 0.2, start: elsewhere}\ntarget: {epochs: 3}\n")
    config = resolve("--config", str(tmp_path / "a.yaml"), "--target.epochs", "4")
    assert (config.protect.lambda_, config.protect.start, config.target.epochs) == (0.2, "elsewhere", 4)
    assert config.target.lr == FitConfig.lr


def test_the_resolved_configuration_reads_back_as_itself(tmp_path: Path) -> None:
    terms = "[{at: arm-race, known: {steps: 3}}, {at: arm-race, objective: adversarial, weight: 0.5}]"
    config = resolve("--protect.terms", terms, "--attack.pairs", "[arm-race]", "--data.shards", "x")
    (tmp_path / "b.yaml").write_text(to_yaml(config))
    assert resolve("--config", str(tmp_path / "b.yaml")).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", ready_configs())
def test_every_ready_configuration_is_accepted(name: str) -> None:
    config, _ = train.parse(["run", *with_ready_configs(["--config", name])])
    assert config.output.startswith("runs/")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protect.lambda", "1.5"], "protect.lambda is 1.5: accepted are numbers from 0 to 1"),
        (["--protect.lambda", "nan"], "protect.lambda.*nan"),
        (["--target.epoch", "3"], "target.epoch"),
        (["--engine.precision", "fp8"], "engine.precision.*bf16"),
        (["--target.lr", "fast"], "target.lr"),
        (["--model.backbone", "resnet"], "model.backbone 'resnet' is unknown; accepted: resnet"),
        (
            ["--protect.terms", "[{at: arm-gender, objective: magic}]"],
            "protect.terms: .*'magic'.*confusion, adv",
        ),
        (["--adversary.label_smoothing", "0.1"], "adversary.label_smoothing"),
        (["--adversary.class_weights", "balanced"], "adversary.class_weights"),
        (["--attack.pairs", "[]"], "attack.pairs is empty"),
        (["--attack.pairs", "[gender]"], "attack.pairs.*TAP-ATTRIBUTE"),
        (["--protect.terms", "[{at: image-gender}]"], "image-gender cannot be protected"),
        (["--protect.terms", "[]"], "protect.terms: there is no term"),
        (["--augment.flip", "0.8", "--augment.noise", "0.4"], "augment.flip . augment.noise"),
        (["--target.batch_size", "0"], "target.batch_size is 0"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--seed", "-1"], "seed is -1: accepted are numbers from 0 to 4294967295"),
        (["--private.lr", ".inf"], "private.lr is inf: accepted are numbers of at least 0"),
        (["--private.weight_decay", "-0.1"], "private.weight_decay is -0.1"),
        (["--target.decay", "1.5"], "target.decay is 1.5"),
        (["--adversary.warmup_epochs", "-1"], "adversary.warmup_epochs is -1"),
        (["--augment.erase_min_area", "0.3"], "augment.erase_min_area is 0.3: accepted are numbers from 0 to 0.1"),
        (["--augment.noise_variance", "-1"], "augment.noise_variance is -1"),
        (["--augment.scale", "1"], "augment.scale is 1"),
        (["--data.cache_gib", "nan"], "data.cache_gib.*nan"),
        (["--output", ""], "output is empty"),
    ],
)
def test_impossible_settings_name_their_key_and_what_is_accepted(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(*arguments)


@pytest.mark.parametrize(
    ("text", "key"),
    [("protect:\n", "protect"), ("target:\n  lr:\n", "target.lr"), ("protect: {terms: }", "protect.terms")],
)
def test_an_empty_section_or_key_of_a_file_is_named(text: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=key):
        resolve("--config", str(tmp_path / "c.yaml"))


def test_an_unknown_key_in_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("target: {epohcs: 3}\n")
    with pytest.raises(ConfigError, match="epohcs"):
        resolve("--config", str(tmp_path / "c.yaml"))


def test_an_error_hands_signs_to_the_terminal_that_it_acts_upon(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise ConfigError("label '\x1b[2J\u202e\r' is \u00e4rger, see\nbelow")

    assert guarded(fail) == 2
    assert capsys.readouterr().err == "privatenet: error: label '\\x1b[2J\\u202e\\r' is \u00e4rger, see\nbelow\n"


@pytest.mark.parametrize("flag", [["--config", "{}"], ["--config={}"]])
def test_a_key_twice_in_a_file_is_named(flag: list[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("target: {lr: 0.1}\nprivate: {lr: 0.2}\ntarget: {lr: 0.3}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: line 3: the key 'target' is there twice"):
        resolve(*(word.format(tmp_path / "c.yaml") for word in flag))


def test_schedules_warm_up_and_fall_as_they_say() -> None:
    cosine = FitConfig(epochs=10, lr=1.0, schedule="cosine", warmup_epochs=1)
    rates = [learning_rate(cosine, step, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    exponential = FitConfig(lr=1e-3, schedule="exponential", decay=0.9)
    assert learning_rate(exponential, 29, 10) == pytest.approx(1e-3 * 0.81)
    assert learning_rate(FitConfig(lr=0.1, schedule="constant"), 999, 10) == 0.1


def test_scores_are_those_of_the_confusion_matrix_and_leave_out_empty_classes() -> None:
    result = score(torch.tensor([[8, 2, 0], [1, 1, 0], [0, 0, 0]]), 6.0)
    assert (result.accuracy, result.majority, result.samples) == pytest.approx((9 / 12, 10 / 12, 12))
    assert result.balanced_accuracy == pytest.approx((0.8 + 0.5) / 2)
    assert result.cross_entropy == pytest.approx(0.5)
    assert score(torch.zeros(3, 3, dtype=torch.int64), 0.0).samples == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "hacked"}, "stage: Input should be 'target', 'adversary' or 'private', not 'hacked'"),
        ({"files": {"../../x.safetensors": "0" * 64}}, r"files.*\.\./\.\./x"),
        ({"files": {"model.safetensors": "no sum"}}, r"files\.model\.safetensors: String should match"),
        ({"spec": {"backbone": "resnet19"}}, "spec: backbone 'resnet19' is unknown"),
        ({"spec": {"backbones": "resnet18"}}, "spec: .*unexpected keyword argument 'backbones'"),
        ({"schema": {"name": "faces"}}, "schema: a schema has no `"),
        ({"identity": []}, r"identity: Input should be an object, not \[\]"),
        ({"test": None}, "test: Input should be an object"),
    ],
)
def test_a_checkpoint_says_what_no_checkpoint_can(change: dict[str, object], message: str, tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path / "final", {"model": {"x": torch.ones(1)}}, FINISHED_STATE)
    assert checkpoint.load(saved.folder) == saved
    (saved.folder / "state.json").write_text(json.dumps(saved.state | change))
    with pytest.raises(ConfigError, match=f"state.json: is no state of a finished stage: {message}"):
        checkpoint.load(saved.folder)


def test_weights_of_another_network_end_in_a_traceback(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path / "final", {"model": {"network.x": torch.ones(1)}}, FINISHED_STATE)
    with pytest.raises(ConfigError, match="final: its weights are of another network"):
        load_network(saved)


@pytest.mark.parametrize(
    "change", [{"step": -1}, {"data": {"epoch": "0"}}, {"best": {"network": 0.5}}, {"waited": None}]
)
def test_training_goes_on_from_a_place_that_cannot_be(change: dict[str, object], tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "step-00000001", {"model": {"x": torch.ones(1)}}, TRAINING_STATE | change)
    with pytest.raises(ConfigError, match=f"is no state of a stage in training: {next(iter(change))}"):
        checkpoint.load_training(tmp_path / "step-00000001")


def test_a_checkpoint_comes_back_as_it_was_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(3, 4), "n": torch.tensor(3)}
    saved = checkpoint.save(tmp_path / "root" / "step-00000007", {"model": tensors}, {**TRAINING_STATE, "step": 7})
    (folder,) = checkpoint.Store(tmp_path / "root").folders()
    found = checkpoint.load_training(folder)
    assert found.state["step"] == 7
    assert found.hash == saved.hash
    assert all(torch.equal(found.tensors()[name], value) for name, value in tensors.items())
    (found.folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError, match="changed since it was written"):
        found.tensors()


def test_a_half_written_checkpoint_is_not_seen_and_goes_with_the_next(tmp_path: Path) -> None:
    store = checkpoint.Store(tmp_path)
    store.write(1, {"model": {"x": torch.ones(1)}}, TRAINING_STATE)
    store.wait()
    half = tmp_path / "step-00000002.tmp"
    half.mkdir()
    (half / "state.json").write_text(json.dumps({"files": {}}))
    assert [folder.name for folder in store.folders()] == ["step-00000001"]
    store.write(3, {"model": {"x": torch.ones(1)}}, TRAINING_STATE)
    store.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_where_the_newest_checkpoint_is_damaged_the_one_before_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = checkpoint.Store(tmp_path, kept=2)
    for step in (1, 2, 3):
        store.write(step, {"model": {"x": torch.full((1,), float(step))}}, {**TRAINING_STATE, "step": step})
    store.wait()
    assert [folder.name for folder in store.folders()] == ["step-00000002", "step-00000003"]
    (tmp_path / "step-00000003" / "model.safetensors").write_bytes(b"other")
    found = snapshot.read_newest(store)
    assert found is not None
    assert (found[1]["step"], float(found[0]["model"]["x"])) == (2, 2.0)
    assert "step-00000003/model.safetensors: missing or changed" in capsys.readouterr().err
    (tmp_path / "step-00000002" / "state.json").write_text("{")
    with pytest.raises(ConfigError, match="step-00000002"):
        snapshot.read_newest(store)


def test_what_went_wrong_with_a_checkpoint_is_raised_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file where a folder should be")
    store = checkpoint.Store(tmp_path / "root")
    store.write(1, {"model": {"x": torch.ones(1)}}, {})
    with pytest.raises(DataError, match=r"root.*cannot be written"):
        store.write(2, {"model": {"x": torch.ones(1)}}, {})


@pytest.mark.parametrize("command", ["run", "reproduce", "audit", "certify"])
@pytest.mark.parametrize("ranks", ["0", "-1", "two"])
def test_ranks_are_started_that_cannot_be(command: str, ranks: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [command, *(["runs/x"] if command in ("audit", "certify") else []), f"--ranks={ranks}"]
    try:
        code: object = cli.main(words)
    except SystemExit as stop:  # argparse's own
        code = stop.code
    assert code == 2
    assert "ranks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        ({"OMP_NUM_THREADS": "6"}, 6),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, 0),  # torchrun's word, not a person's
        ({"OMP_NUM_THREADS": "2", "TORCHELASTIC_RUN_ID": "none"}, 2),
        ({"OMP_NUM_THREADS": "many"}, 0),
    ],
)
def test_threads_are_those_that_a_person_asked_for(
    environment: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert requested_threads() == expected
