"""What opens a store or a data set is in no file that a run, an audit and a sweep leave, and in nothing they print."""

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec.config
import pyarrow.fs
import pytest
from servers import MlflowServer, file_server, gate, mlflow_server

from privatenet.tune.storage import UrlFileSystem

mlflow = pytest.importorskip("mlflow")
__all__ = ["mlflow_server"]

SECRETS = ("face-reader", "pUwqZr81xK", "tRk4nV02bQ", "run-writer", "mLdc93Yw", "wRng7pQ2")
"""Two users, their passwords, a token and a password that is refused: all made up."""

CONFIG = """
data: {{validation: 0.25, cache: {folder}/cache}}
model: {{backbone: mobilenet_v3_large, weights: none, image_size: 64}}
engine: {{precision: fp32}}
target: {{epochs: 1, batch_size: 16}}
adversary: {{epochs: 1, batch_size: 16}}
private: {{epochs: 1, batch_size: 16}}
attack: {{pairs: [backbone-gender]}}
output: {folder}/run
"""
SWEEP = """
tracking: {{model: false}}
protect: {{start: {folder}/run/target/final, adversaries: {folder}/run/known/final}}
space: {{lambda: {{low: 0.4, high: 0.6}}}}
search: {{trials: 1, attackers: [logistic], audit: none}}
output: {folder}/sweep
"""


COMMANDS = """
import json, sys
from privatenet.launch import cli
for arguments in json.loads(sys.argv[1]):
    print("exit code", cli.main(arguments), *arguments[:1], flush=True)
"""
"""Several commands in one process: most of a short one's time is its imports."""


@dataclass(frozen=True)
class Work:
    """What commands left in `folder` and printed, and the addresses that they had, without credentials."""

    folder: Path
    shards: str
    tracking: str
    printed: str


@pytest.fixture(scope="module")
def work(shards: Path, mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    """A run, an audit and a sweep, then errors: one of a rank that another process starts, and others."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "run.yaml").write_text(CONFIG.format(folder=folder))
    (folder / "sweep.yaml").write_text(CONFIG.replace("output: {folder}/run\n", SWEEP).format(folder=folder))
    reader, password, token, writer, key, wrong = SECRETS
    with (
        file_server(shards.parent) as port,
        gate(port, reader, password, token) as data,
        gate(mlflow_server.port, writer, key) as tracking,
    ):
        url = f"{data.uri.replace('//', f'//{reader}:{password}@')}/{shards.name}?token={token}"
        uri = tracking.uri.replace("//", f"//{writer}:{key}@")
        refused = uri.replace(key, wrong)
        run, audit = ["run", "--config", "run.yaml", "--data.shards", url], ["audit", "run/private", "--seeds", "1"]
        audit += ["--taps", "[backbone]", "--attributes", "[gender]", "--attackers", "[logistic]", "--references", "[]"]
        commands = [
            ["train", *run, "--tracking.uri", uri],
            [*audit, "--shards", url, "--tracking.uri", uri],
            ["sweep", "--config", "sweep.yaml", "--data.shards", url, "--tracking.uri", uri],
            audit,
            [*run, f"--tracking.url={uri}"],
            [
                "sweep",
                "--config",
                "sweep.yaml",
                "--data.shards",
                url,
                "--output",
                "new",
                "--ray.storage",
                f"s3://{reader}:{password}@bucket",
            ],
            ["send", "run", "--uri", refused],
        ]
        printed = _printed(folder, "-c", COMMANDS, json.dumps(commands))
        rank = ["run", "--ranks", "2", *run[1:], "--output", "new", "--tracking.uri", refused]
        yield Work(
            folder,
            f"{data.uri}/{shards.name}",
            tracking.uri,
            printed + _printed(folder, "-m", "privatenet.launch.cli", *rank),
        )


def test_no_file_and_no_line_of_a_run_an_audit_and_a_sweep_has_them(work: Work, mlflow_server: MlflowServer) -> None:
    files = [path for folder in (work.folder, mlflow_server.folder) for path in folder.rglob("*") if path.is_file()]
    expected = {"config.yaml", "identity.json", "state.json", "mlflow.json", "mlflow-outbox.jsonl", "audit.json"}
    expected |= {"report.html", "model_card.md", "sweep.yaml", "tuner.pkl", "front.csv", "server.db", "MLmodel"}
    assert expected <= {path.name for path in files}
    assert {str(path): found for path in files if (found := _secrets(path.read_bytes()))} == {}
    assert {line for line in work.printed.splitlines() if _secrets(line.encode())} == set()


def test_the_address_of_the_data_is_in_the_checkpoint_and_in_mlflow(work: Work, mlflow_server: MlflowServer) -> None:
    state = json.loads((work.folder / "run" / "private" / "final" / "state.json").read_text())
    assert state["config"]["data"]["shards"] == work.shards
    assert state["config"]["tracking"]["uri"] == work.tracking
    run_id = json.loads((work.folder / "run" / "private" / "mlflow.json").read_text())["run_id"]
    run = mlflow.MlflowClient(mlflow_server.uri).get_run(run_id)
    assert json.loads(run.inputs.dataset_inputs[0].dataset.source) == {"uri": work.shards}
    assert run.data.params["data.shards"] == work.shards


def test_an_error_says_where_credentials_are_missing_and_what_to_give(work: Work) -> None:
    codes = re.findall(r"^exit code (\d+) (\w+)", work.printed, re.MULTILINE)
    assert codes == [
        ("0", "train"),
        ("0", "audit"),
        ("0", "sweep"),
        ("2", "audit"),
        ("2", "run"),
        ("2", "sweep"),
        ("0", "send"),
    ]
    errors = [line for line in work.printed.splitlines() if line.startswith("privatenet: error: ")]
    assert len(errors) == 4
    assert f"{work.shards}/manifest.json: cannot be fetched (401" in errors[0]
    assert "--shards" in errors[0]
    assert "tracking.url" in errors[1]
    assert "ray.storage: s3://bucket: Ray would write" in errors[2]
    assert f"tracking.uri: {work.tracking} cannot be used" in errors[3], "the rank had the data's credentials"
    assert work.printed.endswith("ended with 2\n")


def test_what_the_environment_gave_for_a_sweeps_storage_is_in_no_pickle_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "file", {"password": SECRETS[1]})
    storage = pyarrow.fs.PyFileSystem(UrlFileSystem(f"file://{tmp_path}"))
    assert storage.handler.fs.storage_options == {"password": SECRETS[1]}
    pickled = pickle.dumps(storage)
    assert not _secrets(pickled)
    pickle.loads(pickled).create_dir(f"{tmp_path}/trials")
    assert (tmp_path / "trials").is_dir()


def _printed(folder: Path, *arguments: str) -> str:
    """What Python prints when it is given these arguments in `folder`."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        timeout=500,
    )
    return f"{done.stdout}ended with {done.returncode}\n"


def _secrets(content: bytes) -> list[str]:
    """The secrets in some bytes, as they are or in hexadecimal, in which Ray keeps pickles."""
    return [word for word in SECRETS if word.encode() in content or word.encode().hex().encode() in content]
