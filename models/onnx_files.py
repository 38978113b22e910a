"""ONNX files: written from torch modules, made smaller, and run. Nobody else knows onnx and onnxruntime.

They are an extra: pip install 'privatenet[onnx]'.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram

from privatenet.models.errors import ModelError

OPSET = 18
"""Version of ONNX's operators that files are written for."""
PROVIDERS = ["CPUExecutionProvider"]

Feed = Mapping[str, npt.NDArray[Any]]
"""A batch by the names of a network's inputs."""


class OnnxNetwork:
    """A network in an ONNX file, run by onnxruntime; nothing in the file is code.

    Gives out its own `outputs` and the values called `further`. Raises ModelError for a file that is none, or has no
    such value.
    """

    def __init__(self, path: Path, further: Sequence[str] = (), threads: int = 0) -> None:
        onnx, runtime = _libraries()
        self.path = path
        try:
            model = onnx.load(path)
            self.values = [name for node in model.graph.node for name in node.output if name]
            self.outputs = [output.name for output in model.graph.output]
            missing = [name for name in further if name not in self.values]
            if not missing:
                self.session = _session(
                    runtime, onnx, model, [name for name in further if name not in self.outputs], threads
                )
        except Exception as error:  # protobuf, the file system and onnxruntime have nothing in common
            raise ModelError(f"{path}: is no ONNX file that can be run ({_first_line(error)})") from error
        if missing:
            raise ModelError(f"{path}: no node gives out {', '.join(missing)}")
        self.inputs: dict[str, Any] = {given.name: given for given in self.session.get_inputs()}

    def run(self, feed: Feed, names: Sequence[str] = ()) -> list[npt.NDArray[Any]]:
        """The values called `names`, or all outputs, of one batch. Raises ModelError where it is not taken."""
        try:
            results: list[npt.NDArray[Any]] = self.session.run(list(names) or self.outputs, dict(feed))
        except Exception as error:  # onnxruntime has a class of its own for each cause
            shapes = {name: list(values.shape) for name, values in feed.items()}
            raise ModelError(f"{self.path}: does not take {shapes} ({_first_line(error)})") from error
        return results


def write_onnx(program: ExportedProgram, inputs: Sequence[str], output: str, path: Path) -> None:
    """Write what torch.export has traced, by the names of what it takes and gives.

    Raises ModelError where it holds something that ONNX has no operator for.
    """
    _libraries()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about itself
            written = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=[output],
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ModelError(f"{path}: cannot be written as ONNX ({_first_line(error)})") from error
    assert written is not None
    written.save(path, external_data=False)


def write_fp16(source: Path, path: Path) -> None:
    """Write a network's numbers in half precision; what goes in and comes out stays as it is."""
    onnx, _ = _libraries()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that are too small for half precision
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), path)


def write_int8(source: Path, path: Path, batches: Sequence[Feed]) -> None:
    """Write a network in 8-bit integers, weights by channel; `batches` of ordinary inputs say how large values are."""
    _libraries()
    from onnxruntime.quantization import quantize_static

    logger, level = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)  # it advises, for each layer, what changes nothing here
    try:
        quantize_static(source, path, _Calibration(iter(batches)), per_channel=True)
    finally:
        logger.setLevel(level)


def versions() -> dict[str, str]:
    """Of what writes and runs the files."""
    onnx, runtime = _libraries()
    return {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": runtime.__version__}


class _Calibration:
    """Batches as onnxruntime asks for them."""

    def __init__(self, batches: Iterator[Feed]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {name: np.ascontiguousarray(values) for name, values in batch.items()}

    def set_range(self, start_index: int, end_index: int) -> None:
        raise NotImplementedError  # asked for only where batches are told to be read in strides


def _session(runtime: Any, onnx: Any, model: Any, further: Sequence[str], threads: int) -> Any:
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in further)
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    return runtime.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS)


def _libraries() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ModelError("files of ONNX need onnx and onnxruntime: pip install 'privatenet[onnx]'") from error
    return onnx, onnxruntime


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
