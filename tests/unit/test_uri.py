"""Addresses show themselves without what opens them, wherever they go."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import yaml
from jsonargparse import ArgumentParser

from privatenet.data_shards.uri import CREDENTIALS, Uri, conceal, scrub
from privatenet.distributed.config import Config, DataConfig, TrackingConfig, to_yaml
from privatenet.distributed.resolve import add_config_arguments

FULL = "https://kim:pa%20ss@host:5000/faces?version=2&token=abc"
PUBLIC = "https://host:5000/faces?version=2"


@pytest.mark.parametrize(
    ("full", "public"),
    [
        (FULL, PUBLIC),
        ("postgresql://kim:secret@host/db", "postgresql://host/db"),
        ("postgresql+psycopg2://kim:se/cr@et@host/db?sslmode=require", "postgresql+psycopg2://host/db?sslmode=require"),
        ("sqlite:////home/a:b@c/mlflow.db", "sqlite:////home/a:b@c/mlflow.db"),
        ("http://host:5000/faces@2", "http://host:5000/faces@2"),
        ("s3://bucket/faces", "s3://bucket/faces"),
        ("hdfs://kim@host/faces", "hdfs://host/faces"),
        ("abfs://faces@account.dfs.core.windows.net/a?sv=1&sig=x", "abfs://faces@account.dfs.core.windows.net/a?sv=1"),
        ("https://bucket/a?X-Amz-Credential=a&X-Amz-Signature=b", "https://bucket/a"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dkim%3BPWD%3Dx", "mssql+pyodbc:///"),
        ("shards/a?b:c@d", "shards/a?b:c@d"),
        ("", ""),
    ],
)
def test_only_what_opens_an_address_is_hidden(full: str, public: str) -> None:
    uri = Uri(full)
    assert (f"{uri}", uri.full, Uri(uri).full) == (public, full, full)
    assert uri == Uri(public)


def test_what_lies_in_a_folder_is_opened_by_the_folders_credentials() -> None:
    assert (Uri(FULL) / "a.tar").full == "https://kim:pa%20ss@host:5000/faces/a.tar?version=2&token=abc"
    assert Uri("shards/a?b/") / "a.tar" == "shards/a?b/a.tar"


def test_an_address_is_whole_in_memory_and_hidden_in_every_text() -> None:
    uri = Uri(FULL)
    assert pickle.loads(pickle.dumps(uri)).full == copy.deepcopy(uri).full == FULL
    config = Config(data=DataConfig(shards=uri), tracking=TrackingConfig(uri=uri))
    texts = [repr(config), to_yaml(config), json.dumps(config.to_dict()), yaml.safe_dump(config.to_dict()), f"{uri}"]
    for text in texts:
        assert PUBLIC in text
        assert not {word for word in ("kim", "pa%20ss", "abc") if word in text}


def test_settings_take_an_address_as_plain_text_and_read_back_what_they_wrote() -> None:
    parser = ArgumentParser(exit_on_error=False)
    add_config_arguments(parser)
    parsed = parser.parse_args(["--tracking.uri", FULL])
    assert parsed["tracking.uri"].full == FULL
    written = to_yaml(Config(tracking=TrackingConfig(uri=parsed["tracking.uri"])))
    again = parser.parse_string(written)
    assert again["tracking.uri"].full == PUBLIC
    assert isinstance(again["data.shards"], Uri)


def test_text_of_others_is_cleared_of_what_an_address_hides() -> None:
    error = f"cannot open {FULL}: kim may not, password 'pa ss', akimbo"
    assert Uri(FULL).scrub(error) == f"cannot open {PUBLIC}: *** may not, password '***', akimbo"
    assert (
        scrub(f'{{"remote": "https://kim:x@git/a", "n": "{FULL}"}}')
        == f'{{"remote": "https://git/a", "n": "{PUBLIC}"}}'
    )


def test_another_process_finds_in_its_environment_what_its_arguments_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, environment = conceal(["--tracking.uri", FULL, "--data.shards=http://kim:x@host/a", "--seed", "1"])
    assert arguments == ["--tracking.uri", PUBLIC, "--data.shards=http://host/a", "--seed", "1"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Uri(PUBLIC).full == FULL
    assert Uri("http://host/a").full == "http://kim:x@host/a"
    assert Uri("http://host/b").full == "http://host/b"
    assert conceal(["http://kim:y@host/c"])[1][CREDENTIALS].splitlines()[1:] == environment[CREDENTIALS].splitlines()
    assert conceal(["--seed"]) == (["--seed"], {})


def test_what_waits_for_a_store_is_read_without_torch_and_mlflow() -> None:
    modules = "privatenet.distributed.provenance, privatenet.distributed.tracking.outbox"
    code = f"import sys, {modules}; assert not {{'torch', 'mlflow'}} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", code], check=True)
