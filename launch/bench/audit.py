"""An audit of one network beside the paper's way: one adversary after the other, on pictures, for 70 epochs."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from privatenet.audit.attack.audit import audit
from privatenet.audit.settings import AuditConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.progress import silent
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.run import run_stage
from privatenet.distributed.trainer import EpochEnd
from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.settings import PAIRS, stage_config

CPU_SIZE, GPU_SIZE = (72, 32), (224, 256)
TAPS, ATTRIBUTES, SEEDS, EPOCHS = ["backbone", "arm"], ["gender", "age_group"], 3, 70


def audit_figures(folder: Path, ranks: Ranks) -> list[Figure]:
    """The whole fleet at two taps and the logits, after two attributes, three seeds, features and judgement too.

    The paper's way is measured over two epochs of one adversary, of which the second counts.
    """
    size, batch = GPU_SIZE if ranks.device.type == "cuda" else CPU_SIZE
    with tempfile.TemporaryDirectory() as output:
        config = stage_config(folder, Path(output), size, batch)
        faces = Faces(config.data, ranks)
        source = run_stage("target", config, faces, ranks, silent, testing=False)
        epochs: list[float] = []

        def after(end: EpochEnd) -> None:
            epochs.append(end.seconds["steps"] + end.seconds["evaluation"])

        one = replace(config.attack, pairs=PAIRS[:1])
        terms = replace(config.protect, terms=config.protect.terms[:1])
        paper = replace(config, attack=one, protect=terms, adversary=replace(config.adversary, epochs=2))
        run_stage("adversary", paper, faces, ranks, silent, testing=False, after_epoch=after)
        settings = AuditConfig(taps=TAPS, attributes=ATTRIBUTES, seeds=SEEDS, references=[], cache=f"{output}/cache")
        began = time.perf_counter()
        audit(settings, source, faces, config.engine, ranks, lambda what, done, total: None)
        spent = time.perf_counter() - began
    theirs = epochs[-1] * EPOCHS * (len(TAPS) + 1) * len(ATTRIBUTES) * SEEDS
    way = f"audit {size} px: the paper's way, {EPOCHS} epochs from one"
    return [Figure(f"audit {size} px: whole fleet", "s", (spent,), way, (theirs,)), Figure(way, "s", (theirs,))]
