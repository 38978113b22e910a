"""Whether a sweep begins, goes on or is refused, by what its output folder and its storage hold."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privatenet.data_shards.uri import Uri
from privatenet.distributed.config import Config
from privatenet.distributed.errors import ConfigError
from privatenet.tune.settings import RayConfig, SearchConfig, SpaceConfig, SweepConfig
from privatenet.tune.storage import Identity, begin, check_begun, check_own, storage_of

THIS: Identity = {"space": {"lambda": [0.9]}}
OTHER: Identity = {"space": {"lambda": [0.3]}}


@pytest.mark.parametrize(
    ("resume", "output", "storage"),
    [(False, None, None), (True, THIS, THIS), (True, None, THIS)],
    ids=["a new one begins", "one that was stopped goes on", "one whose output folder is lost goes on"],
)
def test_a_sweep_begins_or_goes_on(resume: bool, output: Identity | None, storage: Identity | None) -> None:
    check_begun(THIS, resume, {"OUTPUT": output, "STORAGE": storage})


@pytest.mark.parametrize(
    ("resume", "output", "storage", "message"),
    [
        (False, THIS, THIS, "^OUTPUT holds a sweep: --resume goes on with it"),
        (False, None, THIS, "^STORAGE holds a sweep: --resume goes on with it"),
        (False, None, OTHER, "^STORAGE holds a sweep"),
        (False, None, {}, "^STORAGE holds a sweep"),
        (True, None, None, "OUTPUT holds no sweep; leave --resume out"),
        (True, THIS, None, r"STORAGE holds no trials of the sweep in OUTPUT: give its ray\.storage"),
        (True, OTHER, OTHER, r"OUTPUT holds another sweep \(space\.lambda was \[0\.3\], is \[0\.9\]\)"),
        (True, THIS, OTHER, "STORAGE holds another sweep"),
        (True, None, OTHER, "STORAGE holds another sweep"),
        (True, None, {}, "STORAGE holds another sweep"),
    ],
)
def test_trials_of_another_sweep_are_never_taken_up(
    resume: bool, output: Identity | None, storage: Identity | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_begun(THIS, resume, {"OUTPUT": output, "STORAGE": storage})


@pytest.fixture
def sweep(tmp_path: Path) -> SweepConfig:
    ray = RayConfig(storage=Uri(f"file://{tmp_path}/storage"))
    config = Config(output=str(tmp_path / "runs" / "first"))
    return SweepConfig(config, SpaceConfig(lambda_=[0.3]), SearchConfig(), ray, "a1b2")


def changed(sweep: SweepConfig, **fields: Any) -> SweepConfig:
    return replace(sweep, **{"space": SpaceConfig(lambda_=[0.9]), **fields})


def test_a_sweep_that_shares_a_storage_has_a_folder_of_its_own(sweep: SweepConfig, tmp_path: Path) -> None:
    second = changed(sweep, config=replace(sweep.config, output=str(tmp_path / "runs" / "second")))
    assert begin(sweep, resume=False).path == f"{tmp_path}/storage/first"
    assert begin(second, resume=False).path == f"{tmp_path}/storage/second"
    assert begin(sweep, resume=True) == storage_of(sweep)


def test_a_sweep_of_the_same_name_elsewhere_is_refused_and_leaves_nothing(sweep: SweepConfig, tmp_path: Path) -> None:
    begin(sweep, resume=False)
    namesake = changed(sweep, config=replace(sweep.config, output=str(tmp_path / "elsewhere" / "first")))
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"the folder 'first' in ray\.storage holds a"):
            begin(namesake, resume)
    assert not (tmp_path / "elsewhere").exists()


def test_a_sweep_whose_output_folder_is_lost_goes_on_with_the_same_settings_only(sweep: SweepConfig) -> None:
    storage = begin(sweep, resume=False)
    output = Path(sweep.config.output)
    settings = (output / "sweep.yaml").read_text()
    shutil.rmtree(output)
    with pytest.raises(ConfigError, match=r"space\.lambda was \[0\.3\], is \[0\.9\]"):
        begin(changed(sweep), resume=True)
    assert not output.exists()
    assert begin(sweep, resume=True) == storage
    assert (output / "sweep.yaml").read_text() == settings


def test_trials_of_other_data_are_another_sweep(sweep: SweepConfig) -> None:
    begin(sweep, resume=False)
    with pytest.raises(ConfigError, match=r"data\.fingerprint was a1b2, is c3d4"):
        begin(replace(sweep, fingerprint="c3d4"), resume=True)


def test_a_storage_that_nothing_here_reads_is_refused(sweep: SweepConfig) -> None:
    with pytest.raises(ConfigError, match=r"ray\.storage: Protocol not known: tape"):
        storage_of(replace(sweep, ray=RayConfig(storage=Uri("tape://reel"))))


def test_a_storage_with_a_password_in_its_url_is_refused_without_showing_it(sweep: SweepConfig) -> None:
    url = Uri("http://me:secret@host/bucket")
    with pytest.raises(ConfigError, match="would write its name, password or token down") as refusal:
        storage_of(replace(sweep, ray=RayConfig(storage=url)))
    assert "secret" not in str(refusal.value)


def test_a_storage_that_somebody_else_can_write_to_is_not_resumed_from(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir(mode=0o755)
    (tmp_path / "trials" / "tuner.pkl").write_bytes(b"")
    check_own(tmp_path)
    (tmp_path / "trials" / "tuner.pkl").chmod(0o666)
    with pytest.raises(ConfigError, match=r"tuner\.pkl: is another user's, or may be written to by all"):
        check_own(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_storage_of_another_user_is_not_resumed_from(tmp_path: Path) -> None:
    (tmp_path / "tuner.pkl").write_bytes(b"")
    os.chown(tmp_path / "tuner.pkl", 12345, 12345)
    with pytest.raises(ConfigError, match=r"tuner\.pkl: is another user's"):
        check_own(tmp_path)
