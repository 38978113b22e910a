"""An exported network as an MLflow model that `mlflow models serve` serves from pictures."""

import warnings
from importlib.metadata import version
from pathlib import Path

CODE = Path(__file__).with_name("face_model.py")
REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "pillow")


def save_served(network: Path, description: Path, classes: tuple[str, ...], folder: Path) -> None:
    """Write the model into `folder`, new: of an ONNX file from pictures to logits, and export.json beside it."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    outputs = [ColSpec("string", "class"), *(ColSpec("double", f"p_{name}") for name in classes)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # advice: of type hints, and of an example
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(CODE),
            artifacts={"network": str(network), "description": str(description)},
            signature=ModelSignature(Schema([ColSpec("binary", "picture")]), Schema(outputs)),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
