"""The files of an export: each part as ONNX, in each number format, compared with PyTorch on real pictures."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from privatenet.audit.errors import AuditError
from privatenet.models.onnx_files import OnnxNetwork, write_fp16, write_int8, write_onnx
from privatenet.models.parts import NOISE, RELEASE, Part

CLOSE = 1e-4
"""How far a number in fp32 may be from PyTorch's, relative to the largest one where that is above 1."""
RARE = 0.01
"""The share of pictures that may get another code, or another point of the grid: those right between two."""
BATCH = 32
RUNS = 30
SEED = 0

SENT = "sent"
"""What a channel sends, as quick attackers see it: numbers like any others."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Sample:
    """Real pictures, uint8 [N, 3, S, S], and noise float32 [N, ...] for a channel that wants some."""

    pictures: Tensor
    noise: Tensor | None

    @classmethod
    def of(cls, pictures: Tensor, noise_shape: Sequence[int] | None) -> "Sample":
        generator = torch.Generator().manual_seed(SEED)
        noise = None if noise_shape is None else torch.randn(len(pictures), *noise_shape, generator=generator)
        return cls(pictures, noise)

    def rows(self, rows: slice) -> "Sample":
        """Some of the pictures, with their noise."""
        return Sample(self.pictures[rows], None if self.noise is None else self.noise[rows])

    def inputs(self, part: Part, first: Tensor) -> dict[str, Tensor]:
        """What `part` takes, where its first input is `first`."""
        return {name: self.noise if name == NOISE and self.noise is not None else first for name in part.inputs}


def part_file(folder: Path, part: Part, variant: str = "fp32") -> Path:
    """NAME.onnx, or NAME-VARIANT.onnx of a number format other than fp32."""
    return folder / (f"{part.name}.onnx" if variant == "fp32" else f"{part.name}-{variant}.onnx")


@torch.no_grad()
def write_parts(parts: Sequence[Part], sample: Sample, folder: Path) -> dict[str, float]:
    """Write NAME.onnx and NAME.pt2 of each part in fp32; by name how far ONNX is from PyTorch, at most, on `sample`.

    Raises `AuditError` where one is further than `CLOSE`, and `ModelError` where it cannot be written.
    """
    batch = torch.export.Dim("batch", min=1, max=65536)
    distances = {}
    values = sample.pictures
    for part in parts:
        inputs, path = sample.inputs(part, values), part_file(folder, part)
        few = tuple(tensor[:2] for tensor in inputs.values())
        program = torch.export.export(part.eval(), few, dynamic_shapes=tuple({0: batch} for _ in few))
        torch.export.save(program, path.with_suffix(".pt2"))
        write_onnx(program, part.inputs, part.output, path)
        values = part(*inputs.values())
        (answers,) = OnnxNetwork(path).run({name: tensor.numpy() for name, tensor in inputs.items()})
        distances[part.name] = _compare(path, answers, values.numpy(), discrete=part.output == RELEASE)
    return distances


def write_variant(variant: str, parts: Sequence[Part], calibration: Sample, folder: Path) -> None:
    """Write NAME-VARIANT.onnx of each part from its file in fp32; int8 is fitted to `calibration`."""
    values = calibration.pictures
    for part in parts:
        source, path = part_file(folder, part), part_file(folder, part, variant)
        inputs = {name: tensor.numpy() for name, tensor in calibration.inputs(part, values).items()}
        if variant == "fp16":
            write_fp16(source, path)
        elif next(part.parameters(), None) is None:  # nothing to make smaller
            path.write_bytes(source.read_bytes())
        else:
            batches = [{n: a[row : row + BATCH] for n, a in inputs.items()} for row in range(0, len(values), BATCH)]
            write_int8(source, path, batches)
        values = torch.from_numpy(OnnxNetwork(source).run(inputs)[0])


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a batch, on one thread."""

    batch: int
    median_ms: float
    p99_ms: float


class Chain:
    """The parts of a variant one after the other, as they will run: pictures to logits, and what is between."""

    def __init__(self, parts: Sequence[Part], paths: Sequence[Path]) -> None:
        self.parts = [(part, OnnxNetwork(path)) for part, path in zip(parts, paths, strict=True)]

    def run(self, sample: Sample) -> dict[str, Array]:
        """What each part gives, by its name: features or release, and logits."""
        results = [self._run(batch) for batch in _batches(sample)]
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    def latencies(self, sample: Sample, batch: int) -> dict[str, Latency]:
        """By part, on one thread; the first few runs are not counted."""
        few = sample.rows(slice(batch))
        values, latencies = few.pictures, {}
        for part, network in self.parts:
            alone = OnnxNetwork(network.path, threads=1)
            feed = {name: tensor.numpy() for name, tensor in few.inputs(part, values).items()}
            times = [_seconds(alone, feed) for _ in range(RUNS + 3)][3:]
            median, worst = (1000 * float(np.quantile(times, share)) for share in (0.5, 0.99))
            latencies[part.name] = Latency(len(few.pictures), median, worst)
            values = torch.from_numpy(alone.run(feed)[0])
        return latencies

    def _run(self, sample: Sample) -> dict[str, Array]:
        results, values = {}, sample.pictures
        for part, network in self.parts:
            (result,) = network.run({name: tensor.numpy() for name, tensor in sample.inputs(part, values).items()})
            results[part.output], values = result, torch.from_numpy(result)
        return results


def onlookers(results: Mapping[str, Array]) -> dict[str, Array]:
    """What somebody outside of the trusted part gets: features before an enclave, or what is sent; and logits."""
    return {SENT if name == RELEASE else name: values for name, values in results.items()}


def _batches(sample: Sample) -> Iterator[Sample]:
    for row in range(0, len(sample.pictures), BATCH):
        yield sample.rows(slice(row, row + BATCH))


def _seconds(network: OnnxNetwork, feed: Mapping[str, Array]) -> float:
    began = time.perf_counter()
    network.run(feed)
    return time.perf_counter() - began


def _compare(path: Path, answers: Array, expected: Array, discrete: bool) -> float:
    distances = np.abs(answers - expected).reshape(len(expected), -1).max(axis=1) / max(1.0, np.abs(expected).max())
    close = distances[distances <= CLOSE]
    if len(close) < len(distances) * (1 - RARE if discrete else 1):
        path.unlink()
        raise AuditError(
            f"{path}: was {distances.max():.2g} from PyTorch on real pictures, accepted: {CLOSE:g}; it is removed"
        )
    return float(close.max(initial=0.0))
