"""Networks as MLflow's models: logged with a run, and registered under a name."""

import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING

from privatenet.data_shards.uri import Uri
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.tracking.store import TrackedRun, connect, existing_accepted, reaching

if TYPE_CHECKING:
    from torch import nn


def register(
    uri: Uri, run: TrackedRun, model_name: str, alias: str, network: "nn.Module | None", image_size: int
) -> str:
    """Register the model of `run` as the next version of `model_name`, known as `alias`; returns the version.

    Where the run has no model, `network` is logged as one first. Raises `ConfigError` where there is neither.
    """
    with reaching(uri):
        client = connect(uri)
        outputs = client.get_run(run.run_id).outputs
        models = [client.get_logged_model(output.model_id) for output in (outputs.model_outputs if outputs else [])]
    ready = [str(model.model_id) for model in models if model.status == "READY"]
    with reaching(uri):
        if ready:
            model_id = ready[-1]
        elif network is not None:
            model_id = log_model(uri, run.run_id, network, image_size)
        else:
            raise ConfigError(f"run {run.run_id} ({run.name}) has no model, and there is no network to log as one")
        with existing_accepted():
            client.create_registered_model(model_name)
        created = client.create_model_version(model_name, f"models:/{model_id}", run.run_id, model_id=model_id)
        client.set_registered_model_alias(model_name, alias, created.version)
    return str(created.version)


def log_model(uri: Uri, run_id: str, network: "nn.Module", image_size: int) -> str:
    """Log the network as a served model of a run, with its signature; returns the model's id."""
    client = connect(uri)
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import infer_signature

    from privatenet.distributed.tracking.served import Logits

    mlflow.set_tracking_uri(uri.full)  # its way of logging a model takes no client
    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id, "model", source_run_id=run_id, params=run.data.params, model_type="classifier"
    )
    model = Logits(network.cpu().eval())
    images = np.zeros((2, 3, image_size, image_size), dtype=np.float32)
    with torch.inference_mode():
        logits = model(torch.from_numpy(images)).numpy()
    requirements = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "privatenet")]
    with warnings.catch_warnings():
        for harmless in ("No complete tensor found", ".*Any type hint is inferred"):  # nothing for a person to do
            warnings.filterwarnings("ignore", message=harmless, category=UserWarning)
        mlflow.pytorch.log_model(
            model, signature=infer_signature(images, logits), input_example=images, pip_requirements=requirements,
            model_id=logged.model_id, run_id=run_id,
        )  # fmt: skip
    return str(logged.model_id)
