"""The code of an exported network's MLflow model: pictures in, class and probabilities out.

MLflow copies this file into the model and runs it wherever that is served, without the rest of this package.
"""

import io
import json
import random
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pandas
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP")
LARGEST = 2**25
"""Pixels of a picture."""


class FaceModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Runs network.onnx on the pictures of a table's column `picture`, as bytes."""

    def load_context(self, context: Any) -> None:
        self.session = onnxruntime.InferenceSession(context.artifacts["network"])
        description = json.loads(Path(context.artifacts["description"]).read_text())
        self.classes, self.size = description["classes"], description["image_size"]
        self.noise = [given for given in self.session.get_inputs() if given.name == "noise"]

    def predict(self, context: Any, model_input: pandas.DataFrame) -> pandas.DataFrame:
        pictures = np.stack([self._picture(content) for content in model_input["picture"]])
        feed = {"pictures": pictures} | {
            given.name: self._noise(len(pictures), given.shape[1:]) for given in self.noise
        }
        (logits,) = self.session.run(None, feed)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return pandas.DataFrame([self._answer(row.tolist()) for row in shares])

    def _answer(self, shares: list[float]) -> dict[str, Any]:
        by_class = dict(zip(self.classes, shares, strict=True))
        return {"class": max(by_class, key=by_class.__getitem__)} | {f"p_{name}": p for name, p in by_class.items()}

    def _picture(self, content: bytes) -> Any:
        """Uint8 [3, S, S]."""
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > LARGEST:
            raise ValueError(f"a picture of {image.width} x {image.height} pixels; accepted: {LARGEST:,} at most")
        upright = ImageOps.exif_transpose(image).convert("RGB")
        resized = upright.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(resized).transpose(2, 0, 1)

    def _noise(self, count: int, shape: list[int]) -> Any:
        """Of the operating system's generator, which nobody can follow."""
        draw = random.SystemRandom().gauss
        numbers = [draw(0.0, 1.0) for _ in range(count * int(np.prod(shape)))]
        return np.array(numbers, dtype=np.float32).reshape(count, *shape)


mlflow.models.set_model(FaceModel())
