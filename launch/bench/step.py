"""The joint step: through the engine, bare, compiled, and in the paper's way; beside the machine's best matrix product.

The task is the private network's: ResNet-18 and ARM, confusion at `backbone-gender` and `arm-gender`.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from privatenet.distributed.config import EngineConfig
from privatenet.distributed.engine import Engine, new_optimizer
from privatenet.distributed.precision import DTYPES, channels_last, fast_bf16, precision
from privatenet.distributed.ranks import Ranks
from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.settings import FIT
from privatenet.launch.bench.timing import Case, in_another_unit, measure, write_trace
from privatenet.models import arm
from privatenet.models.adversary import build_adversary
from privatenet.models.network import NetworkSpec, build_network
from privatenet.models.objectives.registry import parse_terms
from privatenet.models.objectives.term import TermContext
from privatenet.models.tasks import PrivateTask

CPU_SIZES = ((224, 32), (112, 64), (72, 32))
GPU_SIZES = ((224, 256), (112, 256))
EMOTIONS, GENDERS = 7, 2

AnyTask = TypeVar("AnyTask", bound=nn.Module)


@dataclass(frozen=True)
class Inputs:
    """One batch on the device."""

    images: Tensor
    labels: dict[str, Tensor]


def step_figures(
    ranks: Ranks, repeats: int, sizes: Sequence[tuple[int, int]] = (), traces: Path | None = None
) -> list[Figure]:
    """Every way at every size (side in pixels, batch), on the device of `ranks`, which is one rank, and in the
    precisions that it is made for. Traces of the engine's steps go to the folder `traces`."""
    figures = []
    for size, batch in sizes or (GPU_SIZES if ranks.device.type == "cuda" else CPU_SIZES):
        for name in ("bf16", "fp32") if fast_bf16(ranks.device) else ("fp32",):
            figures += _at(size, batch, EngineConfig(precision=name), ranks, repeats, traces)
    return figures


def _at(size: int, batch: int, config: EngineConfig, ranks: Ranks, repeats: int, traces: Path | None) -> list[Figure]:
    label = f"step {size} px B{batch} {config.precision}"
    inputs, task = random_inputs(size, batch, ranks.device), private_task(size).to(ranks.device)
    bare = f"{label}: bare"
    product = f"{label}: matrix product"
    cases = [
        Case(f"{label}: engine", engine_step(task, inputs, config, ranks), batch, limit=bare),
        Case(bare, bare_step(fast(task), inputs, config), batch),
        Case(f"{label}: the paper's way, in fp32", _as_written(copy.deepcopy(task), inputs), batch, limit=bare),
    ]
    if ranks.device.type == "cuda" and config.precision == "bf16":  # a minute, and no gain elsewhere
        alone, compiled = f"{label}: bare, compiled", cast(nn.Module, torch.compile(fast(task)))
        ours = engine_step(task, inputs, replace(config, compile=True), ranks)
        cases.append(Case(alone, bare_step(compiled, inputs, config), batch, limit=bare))
        cases.append(Case(f"{label}: engine, compiled", ours, batch, limit=alone))
    cases.append(matrix_product(product, DTYPES[config.precision], ranks.device))
    figures = measure(cases, repeats, ranks)
    for case in cases:
        if traces and ": engine" in case.name:
            write_trace(case, traces, ranks.device)
    by_name = {figure.name: figure for figure in figures}
    best = max((f for f in figures if ": bare" in f.name), key=lambda figure: figure.value.median)
    operations = step_operations(copy.deepcopy(task), inputs) / batch
    share = in_another_unit(best, f"{best.name}, arithmetic", "TFLOP/s", operations / 1e12, by_name[product])
    return [*figures, share]


def fast(task: AnyTask) -> AnyTask:
    """A copy of `task` in the memory layout that is fastest."""
    task = copy.deepcopy(task)
    channels_last(task)
    return task


def private_task(size: int) -> PrivateTask:
    """The task at pictures of `size`, with new weights, known adversaries too."""
    network = build_network(NetworkSpec(image_size=size, num_classes=EMOTIONS))
    terms = {}
    for spec in parse_terms([{"at": "backbone-gender"}, {"at": "arm-gender"}]):
        known = build_adversary(network.spec, network.tap_shapes, spec.pair.tap, GENDERS)
        shape, shares = network.tap_shapes[spec.pair.tap], torch.full((GENDERS,), 1 / GENDERS)
        terms[spec] = spec.build(TermContext(shape, shares, known, partial(copy.deepcopy, known), EMOTIONS))
    return PrivateTask(network, terms, "emotion", 0.5)


def random_inputs(size: int, batch: int, device: torch.device) -> Inputs:
    """Noise in place of pictures, with labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=generator).to(device, memory_format=torch.channels_last)
    labels = {
        name: torch.randint(classes, (batch,), generator=generator).to(device)
        for name, classes in {"emotion": EMOTIONS, "gender": GENDERS}.items()
    }
    return Inputs(images, labels)


def engine_step(task: nn.Module, inputs: Inputs, config: EngineConfig, ranks: Ranks) -> Callable[[], object]:
    """A step as training does it."""
    fit = replace(FIT, batch_size=len(inputs.images) * ranks.world_size)
    engine = Engine(copy.deepcopy(task), fit, config, ranks)
    return lambda: engine.step(inputs.images, inputs.labels, FIT.lr)


def bare_step(task: nn.Module, inputs: Inputs, config: EngineConfig) -> Callable[[], object]:
    """A step in torch alone: autocast, backward, fused optimiser."""
    optimizer = new_optimizer(FIT, [parameter for parameter in task.parameters() if parameter.requires_grad])
    dtype = DTYPES[precision(config, inputs.images.device)]

    def step() -> None:
        with torch.autocast(inputs.images.device.type, dtype, enabled=dtype != torch.float32):
            losses = task(inputs.images, inputs.labels)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def matrix_product(name: str, dtype: torch.dtype, device: torch.device) -> Case:
    """The product of two square matrices, as large as keeps the machine busy."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True  # as convolutions are computed, also in fp32
        left @ right
        torch.backends.cuda.matmul.allow_tf32 = before

    return Case(name, product, 2 * side**3 / 1e12, "TFLOP/s")


def step_operations(task: nn.Module, inputs: Inputs) -> int:
    """Floating-point operations of forward and backward of one batch: of products and convolutions, two for each
    multiplication."""
    with FlopCounterMode(display=False) as counter:
        task(inputs.images, inputs.labels)["loss"].backward()
    return int(counter.get_total_flops())


def _as_written(task: nn.Module, inputs: Inputs) -> Callable[[], object]:
    """A step as the paper's code does it: single precision, channels first, a 32x32 convolution in the amend module."""
    config = EngineConfig(precision="fp32", channels_last=False)
    plain = Inputs(inputs.images.contiguous(), inputs.labels)
    step = bare_step(task, plain, config)

    def run() -> None:
        with _literal_amend_module():
            step()

    return run


@contextmanager
def _literal_amend_module() -> Iterator[None]:
    ours = arm._shuffle_and_convolve
    arm._shuffle_and_convolve = _shuffle_and_convolve
    try:
        yield
    finally:
        arm._shuffle_and_convolve = ours


def _shuffle_and_convolve(features: Tensor, kernel: Tensor) -> Tensor:
    picture = F.pixel_shuffle(features, 16)
    groups = picture.shape[1]
    return F.conv2d(picture, kernel.repeat(groups, 1, 1, 1), stride=8, groups=groups)
