"""Where figures go: MLflow if it is installed, and always a JSONL file that outlives any server. Rank 0 only."""

import importlib.util
import json
import logging
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from privatenet.distributed.config import TrackingConfig
from privatenet.distributed.signals import Interrupted

MLFLOW = importlib.util.find_spec("mlflow") is not None


class Tracker:
    """One part's run: parameters and data set at the start, metrics as they come, checkpoint and model at the end.

    The run's id is kept in `folder`/mlflow.json, so that an interrupted part goes on in its own run.
    """

    def __init__(self, config: TrackingConfig, folder: Path, stage: str, settings: dict[str, Any], say: Any) -> None:
        self.config, self.folder = config, folder
        self.lines = folder / "metrics.jsonl"
        self.run_id: str | None = None
        if not MLFLOW:
            say(f"mlflow is not installed: figures go to {self.lines} only")
            return
        import mlflow

        _connect(config, folder)
        known = folder / "mlflow.json"
        if known.is_file():
            self.run_id = json.loads(known.read_text())["run_id"]
            mlflow.start_run(run_id=self.run_id)
            return
        tags = {"stage": stage, "part": folder.name, "output": str(folder.parent.resolve()), "version": code_version()}
        name = f"{folder.parent.name}/{folder.name}"
        run = mlflow.start_run(run_name=name, tags=tags, parent_run_id=config.parent or None)
        self.run_id = run.info.run_id
        known.write_text(json.dumps({"run_id": self.run_id, "uri": mlflow.get_tracking_uri()}) + "\n")
        mlflow.log_params(flatten(settings))
        mlflow.log_artifact(str(folder / "config.yaml"))

    def data(self, name: str, source: str, fingerprint: str) -> None:
        """Record the data set as the run's input, by its fingerprint."""
        if self.run_id:
            import mlflow
            from mlflow.data.dataset_source_registry import resolve_dataset_source
            from mlflow.data.meta_dataset import MetaDataset

            with warnings.catch_warnings():  # two of its kinds of local source are the same
                warnings.filterwarnings("ignore", message="The specified dataset source can be", category=UserWarning)
                origin = resolve_dataset_source(str(Path(source).resolve()))
            mlflow.log_input(MetaDataset(origin, name=name, digest=fingerprint[:36]), context="training")
            mlflow.set_tag("data.fingerprint", fingerprint)

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record figures of an epoch."""
        with self.lines.open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), "epoch": epoch, **metrics}) + "\n")
        if self.run_id:
            import mlflow

            mlflow.log_metrics(dict(metrics), step=epoch)

    def artifacts(self, folder: Path) -> None:
        """Record everything in `folder` as files of the run, under its name."""
        if self.run_id:
            import mlflow

            mlflow.log_artifacts(str(folder), folder.name)

    def finish(self, checkpoint_hash: str, network: nn.Module | None, image_size: int) -> None:
        """Record the finished checkpoint's hash and, if asked for, the network as a model with its signature."""
        if not self.run_id:
            return
        import mlflow

        mlflow.set_tag("checkpoint.sha256", checkpoint_hash)
        if network is not None and self.config.model:
            _log_model(network, image_size)
        mlflow.end_run()

    def stop(self, status: str) -> None:
        """End the run as `status` (KILLED or FAILED)."""
        if self.run_id:
            import mlflow

            mlflow.end_run(status)


@contextmanager
def parent_run(config: TrackingConfig, output: Path, stage: str) -> Iterator[TrackingConfig]:
    """Within the block, settings by which all parts, wherever below `output`, are runs nested in one. Rank 0 only.

    The run's id is kept in `output`/mlflow.json, so that what was interrupted goes on in it. It ends with the block.
    Without MLflow the settings are as they were.
    """
    if not MLFLOW:
        yield config
        return
    import mlflow

    output.mkdir(parents=True, exist_ok=True)
    experiment = _connect(config, output / "target")
    client, known = mlflow.MlflowClient(), output / "mlflow.json"
    here = {"uri": mlflow.get_tracking_uri()}
    before = json.loads(known.read_text()) if known.is_file() else {}
    if before.get("uri") == here["uri"]:
        run_id = before["run_id"]
        client.update_run(run_id, status="RUNNING")
    else:
        tags = {"stage": stage, "output": str(output.resolve()), "version": code_version()}
        run_id = client.create_run(experiment, tags=tags, run_name=output.name).info.run_id
        known.write_text(json.dumps({"run_id": run_id} | here) + "\n")
    try:
        yield replace(config, uri=here["uri"], parent=run_id)
    except BaseException as error:
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
        client.set_terminated(run_id, "KILLED" if stopped else "FAILED")
        raise
    client.set_terminated(run_id)


def log_files(config: TrackingConfig, paths: Sequence[Path]) -> None:
    """Keep copies of files with the run that `config.parent` names, if it names one."""
    if config.parent:
        import mlflow

        for path in paths:
            mlflow.MlflowClient(config.uri).log_artifact(config.parent, str(path))


def tracking_uri(config: TrackingConfig, folder: Path) -> str:
    """The configured MLflow store, or the SQLite file beside the parts."""
    return config.uri or f"sqlite:///{(folder.parent / 'mlflow.db').resolve()}"


def code_version() -> str:
    """The package's version and, in a checkout, its commit."""
    here = Path(__file__).resolve().parent
    answer = subprocess.run(["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    commit = answer.stdout.strip() if answer.returncode == 0 else ""
    return version("privatenet") + (f"+{commit}" if commit else "")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys: {"a": {"b": 1}} to {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _connect(config: TrackingConfig, folder: Path) -> str:
    """Choose store and experiment, and return its id; a new one of our own keeps its artifacts beside the database."""
    import mlflow

    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(tracking_uri(config, folder))
    if not config.uri and mlflow.get_experiment_by_name(config.experiment) is None:
        mlflow.create_experiment(config.experiment, (folder.parent / "mlartifacts").resolve().as_uri())
    return str(mlflow.set_experiment(config.experiment).experiment_id)


class _Logits(nn.Module):
    """The network as a served model: normalised pictures in, logits out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)[0]
        return logits


def _log_model(network: nn.Module, image_size: int) -> None:
    import mlflow
    from mlflow.models import infer_signature

    model = _Logits(network.cpu().eval())
    images = np.zeros((2, 3, image_size, image_size), dtype=np.float32)
    with torch.inference_mode():
        logits = model(torch.from_numpy(images)).numpy()
    requirements = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "privatenet")]
    signature = infer_signature(images, logits)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found", category=UserWarning)
        mlflow.pytorch.log_model(
            model, name="model", signature=signature, input_example=images, pip_requirements=requirements
        )
