"""What the tracking store holds: runs, found and read, and models, logged and registered under a name."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from privatenet.distributed.config import ConfigError
from privatenet.distributed.tracking import outbox

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""How long a request waits for a server that does not answer, in seconds, and how often; unless it is set already."""
PARENT = "mlflow.parentRunId"
SHOWN = 8


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


def find_runs(uri: str, names: Sequence[str]) -> list[TrackedRun]:
    """The runs that `names` mean, each once: those of an experiment, of a run's id, or of a folder with mlflow.json.

    A folder brings its own store; the others are in `uri`. A run that has children stands for these, not for itself.
    Raises `ConfigError` where a name is unknown or the store cannot be reached.
    """
    found: dict[str, TrackedRun] = {}
    for name in names:
        sent = outbox.read_sent(Path(name))
        if sent and not sent.run_id:
            raise ConfigError(f"{name}: its run is not in MLflow yet; `privatenet send {name}` sends it there")
        if not (sent or uri):
            raise ConfigError(f"{name!r} is no folder with {outbox.SENT}: for an experiment or run give tracking.uri")
        store, wanted = (sent.uri, sent.run_id) if sent else (uri, name)
        with reaching(store):
            found |= {run.run_id: run for run in _find(connect(store), wanted, store)}
    return list(found.values())


def register(uri: str, run: TrackedRun, model_name: str, alias: str, network: nn.Module | None, image_size: int) -> str:
    """Register the model of `run` as the next version of `model_name`, known as `alias`; returns the version.

    Where the run has no model, `network` is logged as one first. Raises `ConfigError` where there is neither.
    """
    with reaching(uri):
        client = connect(uri)
        outputs = client.get_run(run.run_id).outputs
        models = [client.get_logged_model(output.model_id) for output in (outputs.model_outputs if outputs else [])]
    ready = [str(model.model_id) for model in models if model.status == "READY"]
    if ready:
        model_id = ready[-1]
    elif network is not None:
        model_id = log_model(uri, run.run_id, network, image_size)
    else:
        raise ConfigError(f"run {run.run_id} ({run.name}) has no model, and there is no network to log as one")
    with reaching(uri):
        with _made_already():
            client.create_registered_model(model_name)
        made = client.create_model_version(model_name, f"models:/{model_id}", run.run_id, model_id=model_id)
        client.set_registered_model_alias(model_name, alias, made.version)
    return str(made.version)


def connect(uri: str) -> Any:
    """An MLflow client that says little and does not wait long."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    for chatty, level in (("alembic", "WARNING"), ("mlflow", "WARNING"), ("urllib3.connectionpool", "ERROR")):
        logging.getLogger(chatty).setLevel(level)
    return mlflow.MlflowClient(uri)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Within the block, any error of the store `uri` is a `ConfigError` that names it."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # every kind of store, and every kind of store of files, has its own
        raise ConfigError(
            f"tracking.uri: {uri} cannot be used ({cause(error)}): is the address right, and the server running?"
        ) from error


def cause(error: BaseException) -> str:
    """Where an error began, in one line: of many layers of clients the innermost one knows."""
    while error.__context__:
        error = error.__context__
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def experiment_id(client: Any, name: str, artifacts: str = "") -> str:
    """The id of the experiment `name`; a new one keeps its files under the URI `artifacts` if that is given."""
    found = client.get_experiment_by_name(name)
    if found is None:
        with _made_already():
            return str(client.create_experiment(name, artifacts or None))
        found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


def children(client: Any, experiment: str, parent: str) -> list[Any]:
    """The runs nested directly in run `parent`, oldest first."""
    return list(_search(client, experiment, f"tags.`{PARENT}` = '{parent}'"))


def log_model(uri: str, run_id: str, network: nn.Module, image_size: int) -> str:
    """Log the network as a served model of a run, with its signature; returns the model's id."""
    client = connect(uri)
    import mlflow
    from mlflow.models import infer_signature

    mlflow.set_tracking_uri(uri)  # its way of logging a model takes no client
    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id, "model", source_run_id=run_id, params=run.data.params, model_type="classifier"
    )
    model = _Logits(network.cpu().eval())
    images = np.zeros((2, 3, image_size, image_size), dtype=np.float32)
    with torch.inference_mode():
        logits = model(torch.from_numpy(images)).numpy()
    requirements = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "privatenet")]
    with warnings.catch_warnings():
        for known in ("No complete tensor found", ".*Any type hint is inferred"):  # nothing for a person to do
            warnings.filterwarnings("ignore", message=known, category=UserWarning)
        mlflow.pytorch.log_model(
            model, signature=infer_signature(images, logits), input_example=images, pip_requirements=requirements,
            model_id=logged.model_id, run_id=run_id,
        )  # fmt: skip
    return str(logged.model_id)


class _Logits(nn.Module):
    """The network as a served model: normalised pictures in, logits out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)[0]
        return logits


@contextmanager
def _made_already() -> Iterator[None]:
    """Let what is made in the block have been made before, maybe just now by another process."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _find(client: Any, name: str, uri: str) -> list[TrackedRun]:
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
        there = ", ".join(known.name for known in client.search_experiments(max_results=SHOWN))
        raise ConfigError(f"{uri} has no experiment and no run {name!r}: its experiments are {there}") from error
    where = client.get_experiment(run.info.experiment_id)
    nested = children(client, where.experiment_id, run.info.run_id)
    return [_tracked(each, where.name) for each in nested or [run]]


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
