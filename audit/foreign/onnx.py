"""Any network as an ONNX file, run by onnxruntime: nothing in it is code. Nobody else knows those two libraries."""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from privatenet.audit.attack.features import LOGITS, Key
from privatenet.audit.errors import AuditError
from privatenet.audit.foreign.preprocessing import Preprocessing
from privatenet.audit.foreign.taps import OUTPUT, check_form, in_form
from privatenet.data_shards.files import file_sha256
from privatenet.distributed.config import digest
from privatenet.distributed.ranks import Ranks
from privatenet.models.channel import NO_CHANNEL


class OnnxExtractor:
    """Features of an ONNX file's network at what its nodes give out, by those names, and at its first output.

    A name's slashes are dots in that of the tap. The output is as in `ModuleExtractor`.
    """

    channel = NO_CHANNEL

    def __init__(
        self, path: Path, fingerprint: str, taps: Sequence[str], num_classes: int, preprocessing: Preprocessing,
        image_size: tuple[int, int], ranks: Ranks,
    ) -> None:  # fmt: skip
        """Raises `AuditError` for a file that is none, and for an unknown tap."""
        self.preprocessing = preprocessing
        self.session, self.nodes = _open(path, taps)
        (self.input, *others) = self.session.get_inputs()
        if others:
            raise AuditError(f"{path}: has {len(others) + 1} inputs; accepted: one, of pictures")
        self.key = Key(digest([file_sha256(path), vars(preprocessing)]), fingerprint, "fp32", preprocessing.size)
        features = self._run(torch.zeros(2, 3, *image_size, dtype=torch.uint8))
        shapes = {tap: check_form(tap, values.shape[1:]) for tap, values in features.items()}
        self.answers = LOGITS if shapes[OUTPUT] == (num_classes,) else OUTPUT
        self.shapes = {self.answers if tap == OUTPUT else tap: shape for tap, shape in shapes.items()}

    def compute(self, images: Tensor, taps: Collection[str]) -> Mapping[str, Tensor]:
        features = self._run(images.cpu())
        return {self.answers if tap == OUTPUT else tap: values for tap, values in features.items()}

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        pixels = self.preprocessing.apply(images).numpy()
        pixels = pixels.astype(np.float16) if self.input.type == "tensor(float16)" else pixels
        fixed = self.input.shape[0] if self.input.shape else None
        batches = np.split(pixels, len(pixels)) if fixed == 1 else [pixels]
        try:
            runs = [self.session.run([*self.nodes.values()], {self.input.name: batch}) for batch in batches]
        except Exception as error:  # onnxruntime has a class of its own for each cause, below no common one
            first = str(error).splitlines()[0][:300]
            raise AuditError(f"the network does not take pictures of {list(pixels.shape)} ({first})") from error
        values = (np.concatenate(each) for each in zip(*runs, strict=True))
        return {tap: in_form(torch.from_numpy(value)) for tap, value in zip(self.nodes, values, strict=True)}


def _open(path: Path, taps: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """A session on the network of `path`, which gives out what `taps` are of, too; and by tap that name in the file."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise AuditError(f"{path}: needs onnx and onnxruntime: pip install 'privatenet[onnx]'") from error
    try:
        model = onnx.load(path)
        names = {name.strip("/").replace("/", "."): name for node in model.graph.node for name in node.output if name}
        nodes = {tap: _node(tap, names) for tap in taps}
        outputs = [output.name for output in model.graph.output]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in nodes.values() if name not in outputs)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        content = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except AuditError:
        raise
    except Exception as error:  # as above; onnx's reader raises protobuf's, the file system's and its own
        first = str(error).splitlines()[0][:300]
        raise AuditError(f"{path}: is no ONNX file that can be run ({first})") from error
    return session, {**nodes, OUTPUT: outputs[0]}


def _node(tap: str, names: Mapping[str, str]) -> str:
    if tap not in names:
        near = get_close_matches(tap, names, n=5, cutoff=0.3) or list(names)[:5]
        raise AuditError(f"taps: no node gives out {tap!r}; there are {', '.join(near)}, ...")
    return names[tap]
