"""Several ranks on this machine: the joint step on 1, 2 and 4 of them, against one and against torch's own DDP.

Weak: every rank has a batch of its own. Strong: ranks share one batch; without GPUs they share the cores anyway.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from torch.nn.parallel import DistributedDataParallel

from privatenet.distributed.config import EngineConfig
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.ranks import Ranks, joined
from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.timing import Case, measure
from privatenet.launch.launcher import launch

SIZE, BATCH = 112, 64
"""Side of the pictures in pixels, and how many of them are in a batch."""
PARAMETERS = 11_178_000

NVLINK, NETWORK = 300e9, 25e9
"""Bytes a second that a GPU sends to others of its machine, and to other machines: assumptions of the projection."""


def scale_figures(repeats: int, ranks: Sequence[int], notes: list[str]) -> list[Figure]:
    """Images a second over all ranks; every repetition starts them anew, and all numbers of ranks take turns.

    What more GPUs would do is added to `notes`, with its assumptions.
    """
    runs: dict[str, tuple[Figure, list[float]]] = {}
    for _ in range(repeats):
        for number in ranks:
            for figure in _on_ranks(number):
                runs.setdefault(figure.name, (figure, []))[1].append(figure.value.median)
    figures = []
    for name, (first, values) in runs.items():
        limit = name.replace("engine", "DDP") if "engine" in name else f"scale strong, {ranks[0]} ranks: DDP"
        limits = runs[limit][1] if limit in runs and limit != name else []
        figures.append(Figure(name, first.unit, tuple(values), limit if limits else "", tuple(limits)))
        alone = f"scale strong, {ranks[0]} ranks: engine"
        if name.startswith("scale strong") and name.endswith("engine") and name != alone:
            figures.append(Figure(f"{name}, against one", first.unit, tuple(values), alone, tuple(runs[alone][1])))
    rates = runs[f"scale weak, {ranks[0]} ranks: engine"][1]
    notes += projection(median(rates) / ranks[0], BATCH, PARAMETERS)
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
        devices = [ranks.device] if ranks.device.type == "cuda" else None
        wrapped = fast(task)
        ddp = (
            DistributedDataParallel(wrapped, devices, gradient_as_bucket_view=True) if ranks.world_size > 1 else wrapped
        )
        label = f"scale {kind}, {ranks.world_size} ranks"
        cases = [
            Case(f"{label}: engine", engine_step(task, inputs, config, ranks), share * ranks.world_size),
            Case(f"{label}: DDP", bare_step(ddp, inputs, config), share * ranks.world_size),
        ]
        figures += measure(cases, 3, ranks.device)
    return figures


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
