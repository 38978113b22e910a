"""From a command to its first training step, in a new process, on a machine that has run it before."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from privatenet.distributed.errors import ConfigError
from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.first_step import FIRST_STEP
from privatenet.launch.bench.settings import settings_file, stage_config

SIZE, BATCH = 72, 32
"""Side of the pictures in pixels, and how many are in a batch."""


def start_figures(folder: Path, repeats: int) -> list[Figure]:
    """`privatenet train target` on one rank, and beside it what importing torch and DeepSpeed takes at least."""
    name, imports = "start: command to first step", "start: import of torch and deepspeed"
    _first_step(folder), _imports()
    turns = [(_first_step(folder), _imports()) for _ in range(repeats)]
    values, limits = (tuple(each) for each in zip(*turns, strict=True))
    return [Figure(name, "s", values, imports, limits), Figure(imports, "s", limits)]


def _first_step(folder: Path) -> float:
    with tempfile.TemporaryDirectory() as output:
        settings = settings_file(stage_config(folder, Path(output), SIZE, BATCH), Path(output))
        command = [sys.executable, "-m", "privatenet.launch.bench.first_step", "target", "--config", settings]
        began = time.time()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith(FIRST_STEP)]
    if not lines:
        raise ConfigError(f"no first step: {done.stderr.strip()[-500:]}")
    return float(lines[0].removeprefix(FIRST_STEP)) - began


def _imports() -> float:
    began = time.perf_counter()
    command = [sys.executable, "-c", "import torch, deepspeed"]
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - began
