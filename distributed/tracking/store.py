"""MLflow's own language: runs, made and reported to, found and read."""

import getpass
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privatenet.data_shards.uri import Uri
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.provenance import commit
from privatenet.distributed.tracking.outbox import (
    SENT,
    CreateRun,
    LogDataset,
    LogFiles,
    LogMetrics,
    LogParams,
    Message,
    SetTags,
    read_sent,
    send_command,
)

MLFLOW = importlib.util.find_spec("mlflow") is not None
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""How long a request waits for a server that does not answer, in seconds, and how often; that nobody else is told of
it. Unless it is set already."""
SQLITE = "sqlite:///"
PARENT = "mlflow.parentRunId"
REFUSALS = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST")
"""What MLflow answers to a message that it will never take; after anything else it is asked again later."""
EXAMPLES = 8
"""Experiments that an error names."""


class RefusedError(Exception):
    """The store will never take this message; the text says why."""


@dataclass(frozen=True)
class TrackedRun:
    """One run as the tracking store knows it; `parent` is empty where it is nested in none."""

    run_id: str
    name: str
    status: str
    parent: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    experiment: str


def find_runs(uri: Uri, names: Sequence[str]) -> list[TrackedRun]:
    """The runs that `names` mean, each once: those of an experiment, of a run's id, or of a folder with mlflow.json.

    A folder brings its own store; the others are in `uri`. A run that has children stands for these, not for itself.
    Raises `ConfigError` where a name is unknown or the store cannot be reached.
    """
    runs: dict[str, TrackedRun] = {}
    for name in names:
        sent = read_sent(Path(name))
        if sent and not sent.run_id:
            raise ConfigError(f"{name}: its run is not in MLflow yet; `{send_command(name, sent.uri)}` sends it there")
        if not (sent or uri):
            raise ConfigError(f"{name!r} is no folder with {SENT}: for an experiment or run give tracking.uri")
        address = sent.uri if sent and sent.uri != uri else uri
        with reaching(address):
            runs |= {run.run_id: run for run in _find(connect(address), sent.run_id if sent else name, address)}
    return list(runs.values())


def connect(uri: Uri) -> Any:
    """An MLflow client that prints little and does not wait long."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    for chatty, level in (("alembic", "WARNING"), ("mlflow", "WARNING"), ("urllib3.connectionpool", "ERROR")):
        logging.getLogger(chatty).setLevel(level)
    if uri.startswith(SQLITE) and not (file := Path(uri.removeprefix(SQLITE))).exists():
        _create_database(file, mlflow.MlflowClient)
    return mlflow.MlflowClient(uri.full)


def _create_database(file: Path, client: Any) -> None:
    """Make a new SQLite store under another name first: a kill while its tables are made would leave it useless."""
    work = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    work.unlink(missing_ok=True)
    client(f"{SQLITE}{work}").search_experiments(max_results=1)
    with suppress(FileExistsError):  # another process was first
        os.link(work, file)
    work.unlink()


@contextmanager
def reaching(uri: Uri) -> Iterator[None]:
    """Within the block, any error of the store `uri` is a `ConfigError` that names it, and none of its credentials."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # every kind of store, and every kind of store of files, has its own
        raise ConfigError(
            f"tracking.uri: {uri} cannot be used ({cause(error, uri)}): is the address right, the server "
            "running, and does it ask for a name and password? These are in no file: give them in the address again, "
            "or as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        ) from None  # the client's own error may repeat them


@contextmanager
def existing_accepted() -> Iterator[None]:
    """Let what is made in the block exist already, maybe since a moment, made by another process."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def cause(error: BaseException, uri: Uri) -> str:
    """Where an error of the store `uri` began, in one line: of many layers of clients the innermost one knows."""
    while error.__context__:
        error = error.__context__
    return uri.scrub(" ".join(f"{type(error).__name__}: {error}".split()))[:300]


def apply(client: Any, uri: Uri, run_id: str, message: Message, folder: Path, root: Path) -> str:
    """Do in MLflow what a message of the run's `folder` says, with files from below `root`; returns the run's id.

    Raises `RefusedError`.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _apply(client, run_id, message, folder, root)
    except (MlflowException, FileNotFoundError) as error:
        final = isinstance(error, FileNotFoundError) or error.error_code in REFUSALS
        if not (run_id and final):
            raise
        raise RefusedError(cause(error, uri)) from None


def context_tags() -> dict[str, str]:
    """What MLflow itself would say of whoever makes a run: the user, the program and its commit."""
    tags = {"mlflow.source.name": sys.argv[0], "mlflow.source.type": "LOCAL", "mlflow.source.git.commit": commit()}
    with suppress(OSError, KeyError):  # a user without a name
        tags["mlflow.user"] = getpass.getuser()
    return {name: value for name, value in tags.items() if value}


def experiment_id(client: Any, name: str, artifacts: str = "") -> str:
    """The id of the experiment `name`; a new one keeps its files under the URI `artifacts` if that is given."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        with existing_accepted():
            return str(client.create_experiment(name, artifacts or None))
        experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id)


def children(client: Any, experiment: str, parent: str) -> list[Any]:
    """The runs nested directly in run `parent`, oldest first."""
    return list(_search(client, experiment, f"tags.`{PARENT}` = '{parent}'"))


def _create(client: Any, message: CreateRun) -> str:
    """Make a run, or find the trial's that an earlier process made; returns its id."""
    experiment = experiment_id(client, message.experiment, message.artifacts)
    for run in children(client, experiment, message.tags[PARENT]) if message.identity else []:
        if all(run.data.tags.get(name) == message.tags[name] for name in message.identity):
            if message.reopen:
                _reopen(client, run.info.run_id)
            return str(run.info.run_id)
    created = client.create_run(experiment, _ms(message.time_s), message.tags, message.name)
    return str(created.info.run_id)


def _apply(client: Any, run_id: str, message: Message, folder: Path, root: Path) -> str:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    if isinstance(message, CreateRun):
        return _create(client, message)
    if isinstance(message, LogParams):
        present = client.get_run(run_id).data.params
        params = [Param(name, value) for name, value in message.values.items() if name not in present]
        client.log_batch(run_id, params=params, synchronous=True)
    elif isinstance(message, SetTags):
        client.log_batch(run_id, tags=[RunTag(*item) for item in message.values.items()], synchronous=True)
    elif isinstance(message, LogMetrics):
        metrics = [Metric(*item, _ms(message.time_s), message.epoch) for item in message.values.items()]
        client.log_batch(run_id, metrics=metrics, synchronous=True)
    elif isinstance(message, LogDataset):
        dataset = Dataset(message.name, message.digest, "local", json.dumps({"uri": message.source}))
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    elif isinstance(message, LogFiles):
        path = _own(message.path, folder, root)
        if path.is_dir():
            client.log_artifacts(run_id, path, path.name)
        else:
            client.log_artifact(run_id, path)
    elif message.status == "RUNNING":
        _reopen(client, run_id)
    else:
        client.set_terminated(run_id, message.status, _ms(message.time_s))
    return run_id


def _own(name: str, folder: Path, root: Path) -> Path:
    """The file or folder `name` that a run's `folder` reports. Raises `RefusedError` for what is not below `root`, by
    its path or behind a link: an outbox may come from somebody else."""
    path, root = (folder / name).resolve(), root.resolve()
    for each in (path, *path.rglob("*")):
        if not each.resolve().is_relative_to(root):
            raise RefusedError(f"{each} is not below {root}: it is not sent")
    return path


def _reopen(client: Any, run_id: str) -> None:
    if "failure" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "failure")
    client.update_run(run_id, status="RUNNING")


def _find(client: Any, name: str, uri: Uri) -> list[TrackedRun]:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        runs = [_tracked(run, name) for run in _search(client, experiment.experiment_id)]
        parents = {run.parent for run in runs}
        return [run for run in runs if run.run_id not in parents]
    try:
        run = client.get_run(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        names = ", ".join(known.name for known in client.search_experiments(max_results=EXAMPLES))
        raise ConfigError(f"{uri} has no experiment and no run {name!r}: its experiments are {names}") from None
    experiment = client.get_experiment(run.info.experiment_id)
    nested = children(client, experiment.experiment_id, run.info.run_id)
    return [_tracked(each, experiment.name) for each in nested or [run]]


def _search(client: Any, experiment: str, condition: str = "") -> Iterator[Any]:
    """All runs of an experiment for which `condition` holds, oldest first, page by page."""
    token = None
    while True:
        page = client.search_runs([experiment], condition, order_by=["attributes.start_time ASC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _tracked(run: Any, experiment: str) -> TrackedRun:
    data, info = run.data, run.info
    parent = data.tags.get(PARENT, "")
    return TrackedRun(info.run_id, info.run_name, info.status, parent, data.params, data.metrics, data.tags, experiment)


def _ms(time_s: float) -> int:
    return int(1000 * time_s)
