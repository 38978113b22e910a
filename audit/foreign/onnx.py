"""Features of any network in an ONNX file."""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from privatenet.audit.attack.features import Key, PictureNoise
from privatenet.audit.errors import AuditError
from privatenet.audit.foreign.preprocessing import Preprocessing
from privatenet.audit.foreign.taps import OUTPUT, in_form, named_output
from privatenet.data_shards.files import file_sha256
from privatenet.distributed.config import digest
from privatenet.distributed.ranks import Ranks
from privatenet.models.channel import NO_CHANNEL
from privatenet.models.onnx_files import OnnxNetwork


class OnnxExtractor:
    """Features of an ONNX file's network at what its nodes give out, by those names, and at its first output.

    A name's slashes are dots in that of the tap. The output is as in `ModuleExtractor`.
    """

    channel = NO_CHANNEL

    def __init__(
        self, path: Path, fingerprint: str, taps: Sequence[str], num_classes: int, preprocessing: Preprocessing,
        image_size: tuple[int, int], ranks: Ranks,
    ) -> None:  # fmt: skip
        """Raises `AuditError` for an unknown tap and for other inputs, `ModelError` for a file that is none."""
        names = {_tap(name): name for name in OnnxNetwork(path).values} if taps else {}
        self.nodes = {tap: _node(tap, names) for tap in taps}
        self.network = OnnxNetwork(path, list(self.nodes.values()))
        self.preprocessing, self.output = preprocessing, OUTPUT
        if len(self.network.inputs) != 1:
            raise AuditError(f"{path}: has the inputs {', '.join(self.network.inputs)}; accepted: one, of pictures")
        ((self.input, self.given),) = self.network.inputs.items()
        self.key = Key(digest([file_sha256(path), vars(preprocessing)]), fingerprint, "fp32", preprocessing.size)
        features = self._run(torch.zeros(2, 3, *image_size, dtype=torch.uint8))
        self.output, self.shapes = named_output(features, num_classes)

    def compute(self, images: Tensor, taps: Collection[str], noise: PictureNoise) -> Mapping[str, Tensor]:
        return self._run(images.cpu())

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        pixels = self.preprocessing.apply(images).numpy()
        pixels = pixels.astype(np.float16) if self.given.type == "tensor(float16)" else pixels
        # A file may be made for batches of one picture.
        batches = np.split(pixels, len(pixels)) if self.given.shape and self.given.shape[0] == 1 else [pixels]
        nodes = {**self.nodes, self.output: self.network.outputs[0]}
        runs = [self.network.run({self.input: batch}, list(nodes.values())) for batch in batches]
        values = (np.concatenate(each) for each in zip(*runs, strict=True))
        return {tap: in_form(torch.from_numpy(value)) for tap, value in zip(nodes, values, strict=True)}


def _tap(name: str) -> str:
    return name.strip("/").replace("/", ".")


def _node(tap: str, names: Mapping[str, str]) -> str:
    if tap not in names:
        near = get_close_matches(tap, names, n=5, cutoff=0.3) or list(names)[:5]
        raise AuditError(f"taps: no node gives out {tap!r}; there are {', '.join(near)}, ...")
    return names[tap]
