"""An audit of one network beside the paper's way: one adversary after the other, on pictures, for 70 epochs; all as
commands, as a person starts them."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.settings import PAIRS, settings_file, stage_config
from privatenet.launch.bench.timing import command_seconds

CPU_SIZE, GPU_SIZE = (72, 32), (224, 256)
TAPS, ATTRIBUTES, SEEDS, EPOCHS = ["backbone", "arm"], ["gender", "age_group"], 3, 70


def audit_figures(folder: Path) -> list[Figure]:
    """The whole fleet at two taps and the logits, after two attributes, three seeds; from the command to its report.

    The paper's way is measured over three epochs of one adversary, of which the last counts: runs are tracked from the
    first one's end, which takes seconds once.
    """
    cuda = torch.cuda.is_available()
    size, batch = GPU_SIZE if cuda else CPU_SIZE
    with tempfile.TemporaryDirectory() as output:
        config = stage_config(folder, Path(output), size, batch)
        config = replace(
            config,
            attack=replace(config.attack, pairs=PAIRS[:1]),
            protect=replace(config.protect, terms=config.protect.terms[:1]),
            adversary=replace(config.adversary, epochs=3),
        )
        settings = settings_file(config, Path(output))
        for stage in ("target", "adversary"):
            command_seconds("train", stage, "--config", settings)
        lines = (Path(output) / "known" / "metrics.jsonl").read_text().splitlines()
        ends = [json.loads(line)["time"] for line in lines]
        attacks = ("--taps", str(TAPS), "--attributes", str(ATTRIBUTES), "--seeds", str(SEEDS), "--references", "[]")
        one = ("--ranks", "1") if cuda else ()  # one GPU, as the adversaries have
        spent = command_seconds("audit", f"{output}/target", *attacks, *one)
    theirs = (ends[2] - ends[1]) * EPOCHS * (len(TAPS) + 1) * len(ATTRIBUTES) * SEEDS
    way = f"audit {size} px: the paper's way, {EPOCHS} epochs from one"
    return [Figure(f"audit {size} px: whole fleet", "s", (spent,), way, (theirs,)), Figure(way, "s", (theirs,))]
