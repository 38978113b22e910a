"""A network in a folder by itself: weights and what they mean, for whoever only uses it.

network = privatenet.models.load("exported")
network.predict(pictures)        # uint8 [B, 3, H, W], RGB: class names and probabilities
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from privatenet.models.answers import probabilities
from privatenet.models.errors import ModelError
from privatenet.models.network import Network, NetworkSpec, build_network
from privatenet.models.parts import Normalisation, Normalise

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Description:
    """What config.json holds: the network's specification, what it names, and how pictures are normalised."""

    spec: Mapping[str, Any]
    target: str
    classes: Sequence[str]
    normalisation: Normalisation


_DESCRIPTION = TypeAdapter(Description)


class ExportedNetwork(nn.Module):
    """Pictures to probabilities of the classes, as the network answers in evaluation, each picture by itself."""

    def __init__(self, network: Network, description: Description) -> None:
        super().__init__()
        self.network, self.description = network, description
        self.normalise = Normalise(description.normalisation)
        self.eval()

    @property
    def classes(self) -> Sequence[str]:
        return self.description.classes

    def forward(self, pictures: Tensor) -> Tensor:
        """Probabilities float32 [B, K] of pictures [B, 3, H, W], RGB, 0 to 255, of any size."""
        size = self.network.spec.image_size
        pixels = pictures.float()
        if pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        return probabilities(self.network, self.normalise(pixels))

    @torch.inference_mode()
    def predict(self, pictures: Tensor) -> list[tuple[str, float]]:
        """The likeliest class of each picture, and its probability."""
        shares, places = self(pictures).max(dim=1)
        return [(self.classes[place], share) for place, share in zip(places.tolist(), shares.tolist(), strict=True)]


def write_exported(network: Network, description: Description, folder: Path) -> None:
    """Write weights and description into `folder`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(asdict(description), indent=1) + "\n")


def load(folder: Path | str) -> ExportedNetwork:
    """The network that `privatenet export` has written into `folder`. Raises ModelError where there is none."""
    folder = Path(folder)
    try:
        description = _DESCRIPTION.validate_json((folder / CONFIG).read_bytes())
        network = build_network(NetworkSpec(**description.spec))
        network.load_state_dict(load_file(folder / WEIGHTS))
        if len(description.classes) != network.spec.num_classes:
            raise ValueError(f"{len(description.classes)} classes for {network.spec.num_classes} answers")
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: holds no exported network ({str(error).splitlines()[0][:200]})") from error
    return ExportedNetwork(network, description)
