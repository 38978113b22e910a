"""Several ranks on this machine: the joint step on 1, 2 and 4 of them, against one and against torch's own DDP.

Weak: every rank has a batch of its own. Strong: ranks share one batch; without GPUs they share the cores anyway.
"""

import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from privatenet.distributed.config import EngineConfig
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.ranks import Ranks, joined
from privatenet.distributed.statistics import gather_batches
from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.timing import Case, measure
from privatenet.launch.launcher import launch

SIZE, BATCH = 112, 64
"""Side of the pictures in pixels, and how many of them are in a batch."""
PARAMETERS = 11_178_000
ENGINE, BARE = "engine", "torch alone"

NVLINK, NETWORK = 300e9, 25e9
"""Bytes a second that a GPU sends to others of its machine, and to other machines: assumptions of the projection."""


def scale_figures(repeats: int, numbers: Sequence[int], notes: list[str]) -> list[Figure]:
    """Images a second over all ranks, of each of `numbers` of ranks; every repetition starts them anew, in turn.

    On GPUs what more of them would do is added to `notes`, with its assumptions.
    """
    rates: dict[tuple[str, int, str], list[float]] = {}
    for _ in range(repeats):
        for number in numbers:
            for figure in _on_ranks(number):
                kind, way = figure.name.split(": ")
                rates.setdefault((kind, number, way), []).append(figure.value.median)
    figures = []
    for (kind, number, way), values in rates.items():
        limits = {"torch alone": rates[kind, number, BARE]} if way == ENGINE else {}
        if number > 1 and (kind, 1, way) in rates:
            limits["one rank"] = rates[kind, 1, way]
        name = f"scale {kind}, {number} rank{'s' * (number > 1)}: {way}"
        figures += [
            Figure(
                name if limit != "one rank" else f"{name}, against one rank",
                "images/s",
                tuple(values),
                limit,
                tuple(by),
            )
            for limit, by in (limits or {"": []}).items()
        ]
    if torch.cuda.is_available():
        alone = median(rates["weak", numbers[0], ENGINE]) / numbers[0]
        notes += projection(alone, BATCH, PARAMETERS)
    return figures


def projection(images_per_s: float, batch: int, parameters: int) -> list[str]:
    """What 8 GPUs of one machine and 512 of 64 would do, if nothing but the exchange of gradients were added."""
    seconds, lines = batch / images_per_s, []
    for gpus, rate in ((8, NVLINK), (512, NETWORK)):
        sent = bytes_sent(parameters, gpus)
        hidden, exposed = max(seconds, sent / rate), seconds + sent / rate
        lines.append(
            f"{gpus} GPUs: {gpus * batch / exposed:,.0f} to {gpus * batch / hidden:,.0f} images/s, from an exchange "
            f"after the backward pass to one that it hides; {sent / 1e6:.0f} MB a step and GPU at {rate / 1e9:.0f} "
            f"GB/s, batch {batch} each, pictures at hand"
        )
    return lines


def bytes_sent(parameters: int, ranks: int) -> float:
    """Bytes that each rank sends in a ring all-reduce of fp32 gradients."""
    return 4 * parameters * 2 * (ranks - 1) / ranks


def _parallel(task: nn.Module, ranks: Ranks) -> nn.Module:
    """torch's own data-parallel form of `task`, with statistics of each rank's own, as ours has them."""
    if ranks.world_size == 1:
        return task
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    with warnings.catch_warnings():  # newer versions have another word for it, older ones do not know that
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(task, devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def _on_ranks(number: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "figures.json"
        if code := launch("privatenet.launch.bench.scale", [str(answer)], number):
            raise ConfigError(f"{number} ranks ended with code {code}")
        return [Figure.from_dict(values) for values in json.loads(answer.read_text())]


def _main(answer: Path) -> None:
    """What each rank does; the first one writes the figures to `answer`."""
    with joined() as ranks:
        figures = _figures(ranks)
        if ranks.first:
            answer.write_text(json.dumps([figure.to_dict() for figure in figures]))


def _figures(ranks: Ranks) -> list[Figure]:
    from privatenet.launch.bench.step import bare_step, engine_step, fast, private_task, random_inputs

    figures = []
    for kind, share in {"weak": BATCH, "strong": BATCH // ranks.world_size}.items():
        inputs, config = random_inputs(SIZE, share, ranks.device), EngineConfig()
        task = private_task(SIZE).to(ranks.device)
        if ranks.world_size > 1:
            gather_batches(task)
        total = share * ranks.world_size
        cases = [
            Case(f"{kind}: {ENGINE}", engine_step(task, inputs, config, ranks), total),
            Case(f"{kind}: {BARE}", bare_step(_parallel(fast(task), ranks), inputs, config), total),
        ]
        figures += measure(cases, 3, ranks)
    return figures


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
