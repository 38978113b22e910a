"""A whole stage: what its epochs take against bare steps and forward passes, and what they are spent on."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from privatenet.distributed.config import Config
from privatenet.distributed.evaluate import EVALUATION_BATCH
from privatenet.distributed.faces import Faces
from privatenet.distributed.precision import evaluation_precision
from privatenet.distributed.progress import silent
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.run import run_stage
from privatenet.distributed.trainer import EpochEnd
from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.settings import stage_config
from privatenet.launch.bench.step import bare_step, fast, private_task, random_inputs
from privatenet.launch.bench.timing import wait

CPU_SIZES = ((224, 32), (72, 32))
GPU_SIZES = ((224, 256),)


def stage_figures(folder: Path, ranks: Ranks, repeats: int, sizes: Sequence[tuple[int, int]] = ()) -> list[Figure]:
    """The stage `private` at every size, on the shards in `folder`; bare steps take turns with its epochs."""
    figures = []
    cuda = ranks.device.type == "cuda"
    for size, batch in sizes or (GPU_SIZES if cuda else CPU_SIZES):
        for compiled in (False, True) if cuda else (False,):
            with tempfile.TemporaryDirectory() as output:
                config = stage_config(folder, Path(output), size, batch, 1 + repeats)
                config = replace(config, engine=replace(config.engine, compile=compiled))
                figures += _private_stage(config, ranks, f"stage {size} px B{batch}" + ", compiled" * compiled)
    return figures


def _private_stage(config: Config, ranks: Ranks, label: str) -> list[Figure]:
    faces = Faces(config.data, ranks)
    for stage in ("target", "adversary"):
        run_stage(stage, config, faces, ranks, silent, testing=False)
    size, batch = config.model.image_size, config.private.batch_size
    attributes = ["gender"]
    samples = len(faces.training(attributes, protecting=True).rows) // batch * batch
    judged = len(faces.validation(attributes, protecting=True).rows)
    inputs = random_inputs(size, batch, ranks.device)
    task = fast(private_task(size).to(ranks.device))
    if config.engine.compile:
        task.compile()
    step = bare_step(task, inputs, config.engine)
    pictures = random_inputs(size, min(judged, EVALUATION_BATCH), ranks.device).images
    seconds: dict[str, list[float]] = {}

    def after(end: EpochEnd) -> None:
        if end.epoch == 1:
            step()
            return
        for what, spent in end.seconds.items():
            seconds.setdefault(what, []).append(spent)
        with _timed(seconds, "bare steps", ranks.device):
            for _ in range(samples // batch):
                step()
        task.eval()
        with _timed(seconds, "bare forward", ranks.device), evaluation_precision(config.engine, ranks.device):
            for _ in range(max(1, judged // len(pictures))):
                task.predict(pictures)
        task.train()

    run_stage("private", config, faces, ranks, silent, testing=False, after_epoch=after)

    def rate(what: str, number: int) -> tuple[float, ...]:
        return tuple(number / each for each in seconds[what])

    forward = max(1, judged // len(pictures)) * len(pictures)
    bare, alone = f"{label}: bare steps", f"{label}: bare forward"
    figures = [
        Figure(bare, "images/s", rate("bare steps", samples)),
        Figure(f"{label}: loop", "images/s", rate("steps", samples), bare, rate("bare steps", samples)),
        Figure(alone, "images/s", rate("bare forward", forward)),
        Figure(f"{label}: evaluation", "images/s", rate("evaluation", judged), alone, rate("bare forward", forward)),
    ]
    return figures + [
        Figure(f"{label}: an epoch's {what}", "s", tuple(seconds[what]))
        for what in ("steps", "evaluation", "probes", "snapshot")
    ]


@contextmanager
def _timed(seconds: dict[str, list[float]], what: str, device: torch.device) -> Iterator[None]:
    wait(device)
    began = time.perf_counter()
    yield
    wait(device)
    seconds.setdefault(what, []).append(time.perf_counter() - began)
