"""Whole runs, each killed again and again: SIGKILL of one of its processes by chance, command or rank, at any moment.

`python tests/soak.py 30` kills that often, and fails where a result differs in one bit from that of a run left alone,
or a process outlives another's death by a minute.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file
from support import TINY

from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.synthetic import synthetic_source

CASES = {
    "resnet18 with an average, two ranks": ["--ranks", "2", "--model.image_size", "64"],
    "efficientnet, which draws, one rank": [
        "--ranks", "1", "--model.backbone", "efficientnet_b0", "--model.head", "linear", "--model.image_size", "64",
        "--attack.pairs", "[backbone-gender]", "--protect.terms", "[{at: backbone-gender}]",
    ],
}  # fmt: skip
STAGES = ("target", "known", "private", "unknown")
LIMIT_S = 60


def command(folder: Path, shards: Path, settings: list[str]) -> list[str]:
    """What trains every stage into `folder`, with a checkpoint at each step."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(TINY.format(shards=shards, output=folder / "run"))
    start = [sys.executable, "-m", "privatenet.launch.cli", "run", "--config", str(folder / "tiny.yaml"), *settings]
    return [*start, "--tracking.model", "false", "--engine.checkpoint_minutes", "0.0001"]


def begin(arguments: list[str], folder: Path) -> psutil.Popen:
    with (folder / "output.txt").open("a") as stream:
        return psutil.Popen(arguments, stdout=stream, stderr=stream, env=os.environ | {"OMP_WAIT_POLICY": "passive"})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors that a run has ended with."""
    files = {stage: folder / "run" / stage / "final" / "model.safetensors" for stage in STAGES}
    return {f"{stage}/{name}": tensor for stage, path in files.items() for name, tensor in load_file(path).items()}


def stage_of(folder: Path) -> str:
    """The stage that is trained now, or the next."""
    return next((stage for stage in STAGES if not (folder / "run" / stage / "final").exists()), "the end")


def kill_one(work: psutil.Popen, chance: random.Random) -> str:
    """Kill a process of the run by chance, and see the others end; what it was."""
    family = [work, *work.children(recursive=True)]
    victim, what = chance.choice([(each, name) for each in family if (name := role(each))])
    with suppress(psutil.NoSuchProcess):
        victim.kill()
    _, alive = psutil.wait_procs(family, LIMIT_S)
    if alive:
        sys.exit(f"{len(alive)} processes outlive the death of {victim}")
    return what


def role(process: psutil.Process) -> str:
    """What a process of a run is; nothing where it has ended, or is no part of ours."""
    words = ""
    with suppress(psutil.Error):
        words = " ".join(process.cmdline())
    roles = {"launch.cli": "command", "launch.train": "rank"}
    return next((name for word, name in roles.items() if word in words), "")


def soak(folder: Path, arguments: list[str], straight_s: float, chance: random.Random) -> Counter[tuple[str, str]]:
    """Run the command until it ends, and kill it before that as often as it comes; what was killed, in which stage."""
    kills: Counter[tuple[str, str]] = Counter()
    while True:
        work = begin(arguments, folder)
        try:
            code = work.wait(chance.uniform(0.1, 0.9) * straight_s)
        except psutil.TimeoutExpired:
            stage = stage_of(folder)
            kills[kill_one(work, chance), stage] += 1
            continue
        if code:
            sys.exit((folder / "output.txt").read_text()[-3000:])
        return kills


def main() -> None:
    wanted, chance, kills = int(sys.argv[1]), random.Random(1), 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        build(synthetic_source(80, 40, seed=3), base / "shards", samples_per_shard=16)
        for case, settings in CASES.items():
            began = time.monotonic()
            subprocess.run(command(base / "straight", base / "shards", settings), check=True, capture_output=True)
            straight_s, expected = time.monotonic() - began, weights(base / "straight")
            print(f"{case}: {straight_s:.0f} s when it is left alone", flush=True)
            of_case, spent_s, runs = 0, 0.0, 0
            while of_case < wanted / len(CASES):
                began = time.monotonic()
                found = soak(base / "killed", command(base / "killed", base / "shards", settings), straight_s, chance)
                spent_s, runs, of_case = spent_s + time.monotonic() - began, runs + 1, of_case + found.total()
                different = [
                    name for name, tensor in weights(base / "killed").items() if not expected[name].equal(tensor)
                ]
                if different:
                    sys.exit(f"{len(different)} of {len(expected)} tensors differ")
                print(f"  exact after {dict(found)}", flush=True)
                shutil.rmtree(base / "killed")
            shutil.rmtree(base / "straight")
            kills += of_case
            print(f"  {of_case} kills, {(spent_s - runs * straight_s) / of_case:.1f} s lost with each", flush=True)
    print(f"{kills} kills, every result exact")


if __name__ == "__main__":
    main()
