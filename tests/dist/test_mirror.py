"""Checkpoints kept elsewhere too: what a machine that was taken away with its disk had done is not done again."""

import shutil
from dataclasses import replace
from pathlib import Path

import dist_cases as cases
import fsspec
import pytest
import torch
from forks import on_ranks, start
from safetensors.torch import load_file
from servers import ObjectStore, object_store
from support import FINISHED_STATE, TRAINING_STATE, wait_for

from privatenet.data_shards.uri import Uri
from privatenet.distributed import checkpoint
from privatenet.distributed.config import Config
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.mirror import Mirror, check_mirror
from privatenet.distributed.place import free_port
from privatenet.distributed.tracking import outbox

__all__ = ["object_store"]
QUICK = (0.0,)


def _weights(config: Config) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(f"{config.output}/target/final/model.safetensors")
    return weights


def test_a_new_machine_goes_on_from_an_object_store_as_if_nothing_had_happened(
    object_store: ObjectStore, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    files = fsspec.filesystem("s3", use_listings_cache=False)
    straight = cases.tiny(shards, tmp_path / "straight")
    (steps,) = on_ranks(1, cases.run_one_stage, "target", straight)
    config = replace(straight, output=str(tmp_path / "here"), mirror=Uri("s3://runs/faces"))
    work = start(1, cases.run_one_stage_in, object_store.environment, QUICK, config)
    wait_for(lambda: files.glob("runs/faces/target/checkpoints/*/state.json"))
    work.kill()
    shutil.rmtree(config.output)
    done = max(int(path[-19:-11]) for path in files.glob("runs/faces/target/checkpoints/*/state.json"))
    begun = cases.tiny(shards, tmp_path / "there")
    there = replace(begun, mirror=config.mirror)
    assert on_ranks(2, cases.run_one_stage_in, object_store.environment, QUICK, there) == [steps - done] * 2
    assert sorted(path.rpartition("/")[2] for path in files.ls("runs/faces/target", detail=False)) == [
        "config.yaml", "final", "identity.json", "metrics.jsonl",
    ]  # fmt: skip
    fetched = replace(straight, output=str(tmp_path / "third"), mirror=config.mirror)
    assert on_ranks(1, cases.run_one_stage_in, object_store.environment, QUICK, fetched) == [0]
    assert all(torch.equal(tensor, _weights(begun)[name]) for name, tensor in _weights(fetched).items())


def test_what_is_trained_on_another_disk_is_the_same_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    straight = cases.tiny(shards, tmp_path / "straight")
    config = replace(straight, output=str(tmp_path / "here"), mirror=Uri(f"file://{tmp_path / 'mirror'}"))
    work = start(1, cases.run_one_stage, "target", config)
    wait_for(lambda: list(tmp_path.glob("mirror/target/checkpoints/*/state.json")))
    work.kill()
    shutil.rmtree(config.output)
    done = max(int(path.parent.name[5:]) for path in tmp_path.glob("mirror/target/checkpoints/*/state.json"))
    resumed, whole = (on_ranks(1, cases.run_one_stage, "target", each)[0] for each in (config, straight))
    assert 0 < resumed == whole - done < whole
    assert all(torch.equal(tensor, _weights(config)[name]) for name, tensor in _weights(straight).items())
    shutil.rmtree(config.output)
    on_ranks(1, cases.run_one_stage, "adversary", config)  # stands on what only the mirror has


def _without_a_server() -> dict[str, str]:
    address = f"http://127.0.0.1:{free_port()}"
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_MAX_ATTEMPTS")
    return dict(zip(names, (address, "name", "password", "us-east-1", "1"), strict=True))


def test_where_the_mirror_cannot_be_reached_nothing_is_begun(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    config = replace(cases.tiny(shards, tmp_path / "here"), mirror=Uri("s3://runs/faces"))
    with pytest.raises(AssertionError, match="DataError: s3://runs/faces/target: cannot be used as a mirror"):
        on_ranks(1, cases.run_one_stage_in, _without_a_server(), QUICK, config)
    assert not Path(config.output).exists(), "it may have been begun elsewhere"


def test_a_mirror_that_is_away_for_a_while_does_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("s3fs")
    for name, value in _without_a_server().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("privatenet.distributed.mirror.WAITS_S", QUICK)
    Mirror(Uri("s3://runs/away"), tmp_path / "target").keep([tmp_path / "target/checkpoints/step-00000001"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("privatenet: s3://runs/away/target: cannot be used as a mirror (")
    assert line.endswith("training goes on, and the next checkpoint is copied")


def test_a_half_copied_checkpoint_is_not_taken_and_another_run_is_refused(tmp_path: Path) -> None:
    there = tmp_path / "mirror" / "target"
    (there / "checkpoints" / "step-00000002").mkdir(parents=True)
    (there / "checkpoints" / "step-00000002" / "model.safetensors").write_bytes(b"half")
    (there / "identity.json").write_text('{"seed": 1}')
    mirror = Mirror(Uri(str(tmp_path / "mirror")), tmp_path / "here" / "target")
    mirror.pull({"seed": 1})
    assert not (tmp_path / "here").exists()
    with pytest.raises(ConfigError, match=r"mirror/target holds another run \(seed was 1, is 2\)"):
        mirror.pull({"seed": 2})


def test_what_is_further_counts_wherever_it_lies(tmp_path: Path) -> None:
    here, there = tmp_path / "here/target", tmp_path / "mirror/target"
    for folder, step in ((here, 2), (there, 5)):
        state = {**TRAINING_STATE, "step": step}
        checkpoint.save(folder / f"checkpoints/step-0000000{step}", {"model": {"x": torch.ones(1)}}, state)
        (folder / "identity.json").write_text('{"seed": 1}')
    mirror = Mirror(Uri(str(tmp_path / "mirror")), here)
    mirror.keep([here / "checkpoints/step-00000002"])
    assert (there / "checkpoints/step-00000005/state.json").is_file(), "a machine that was behind took away what is newer"
    mirror.pull({"seed": 1})
    assert checkpoint.load_training(here / "checkpoints/step-00000005").state["step"] == 5


@pytest.mark.parametrize(("store", "copied"), [("sqlite:///here.db", False), ("http://127.0.0.1:5000", True)])
def test_the_runs_place_in_a_store_is_copied_where_another_machine_has_that_store(
    store: str, copied: bool, tmp_path: Path
) -> None:
    here = tmp_path / "here/target"
    saved = checkpoint.save(here / "final", {"model": {"x": torch.ones(1)}}, FINISHED_STATE)
    outbox.write_sent(here, outbox.Sent(Uri(store), "a" * 32, 3))
    Mirror(Uri(str(tmp_path / "mirror")), here).push(saved.folder)
    assert (tmp_path / "mirror/target/mlflow.json").exists() == copied


@pytest.mark.parametrize("address", ["http://host/runs", "memory://runs", "sh://runs"])
def test_a_mirror_that_cannot_be_written_to_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="mirror is .* accepted are a folder, or a URL"):
        check_mirror(Uri(address))
