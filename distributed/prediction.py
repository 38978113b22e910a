"""A trained network asked about faces that nobody labelled: one forward pass a batch, each face answered by itself."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from privatenet.data_shards.photographs.faces import FrameFaces
from privatenet.data_shards.reading.transforms import prepare
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.precision import evaluation_precision, layout
from privatenet.distributed.stages.trained import load_network
from privatenet.models.answers import probabilities
from privatenet.models.arm import one_by_one

MOST_PIXELS = 2**26
"""Of the images that wait for their batch, where they are kept."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of the faces of a frame: float32 [N, K], on the CPU."""

    of: FrameFaces
    probabilities: Tensor


class Predictor:
    """The network of a checkpoint, in evaluation, in its precision. `ConfigError` for one that holds none."""

    def __init__(self, source: Checkpoint, device: torch.device) -> None:
        if source.state["stage"] == "adversary":
            raise ConfigError(f"{source.folder}: holds adversaries, accepted: a checkpoint of stage target or private")
        schema = Schema.from_dict(source.state["schema"])
        self.target, self.classes = schema.target, schema.attribute(schema.target).classes
        self.engine = EngineConfig(**source.state["config"]["engine"])
        self.device = device
        self.network = one_by_one(load_network(source)).to(device).eval()
        self.size = self.network.spec.image_size
        if len(self.classes) != (logits := self.network.spec.num_classes):
            raise ConfigError(f"{source.folder}: {self.target} has {len(self.classes)} classes, its network {logits}")

    def answer(self, faces: Tensor) -> Tensor:
        """Probabilities float32 [B, K], on the CPU, of faces float32 [B, 3, S, S] in 0 to 255."""
        with evaluation_precision(self.engine, self.device):
            images = layout(prepare(faces.to(self.device), self.size), self.engine)
            return probabilities(self.network, images).cpu()  # the host waits for the device here

    def predict(self, frames: Iterable[FrameFaces], batch_size: int) -> Iterator[Prediction]:
        """Yield a prediction for each frame, in order; faces of several frames share a batch."""
        waiting: list[FrameFaces] = []
        faces = pixels = 0
        for frame in frames:
            waiting.append(frame)
            faces += max(1, len(frame.faces))
            pixels += frame.frame.image.width * frame.frame.image.height if frame.frame.image else 0
            if faces >= batch_size or pixels >= MOST_PIXELS:
                yield from self._predict(waiting, batch_size)
                waiting, faces, pixels = [], 0, 0
        yield from self._predict(waiting, batch_size)

    def _predict(self, frames: list[FrameFaces], batch_size: int) -> Iterator[Prediction]:
        faces = torch.cat([torch.empty(0, 3, self.size, self.size), *(frame.faces for frame in frames)])
        answers = [self.answer(batch) for batch in faces.split(batch_size) if len(batch)]
        every = torch.cat([torch.empty(0, len(self.classes)), *answers])
        counts = [len(frame.faces) for frame in frames]
        for frame, own in zip(frames, every.split(counts), strict=True):
            yield Prediction(frame, own)
