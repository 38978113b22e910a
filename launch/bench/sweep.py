"""A sweep of eight trials beside eight runs of one network each, all as commands."""

import tempfile
from dataclasses import replace
from pathlib import Path

from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.settings import settings_file, stage_config
from privatenet.launch.bench.timing import command_seconds

SIZE, BATCH, TRIALS = 72, 32, 8
ATTACKERS = "[logistic, mlp1]"


def sweep_figures(folder: Path) -> list[Figure]:
    """One sweep, and one run with an audit on the same data, which counts eight times."""
    with tempfile.TemporaryDirectory() as output:
        config = stage_config(folder, Path(output) / "run", SIZE, BATCH)
        config = replace(config, data=replace(config.data, validation=0.25))
        settings = settings_file(config, Path(output))
        run = command_seconds("run", "--ranks", "1", "--config", settings)
        audit = command_seconds("audit", f"{output}/run/private", "--attackers", ATTACKERS, "--references", "[]")
        space = ("--space.lambda", "{low: 0.2, high: 0.9}", "--search.trials", str(TRIALS), "--search.audit", "none")
        search = ("--search.attackers", ATTACKERS, "--output", f"{output}/sweep")
        sweep = command_seconds("sweep", "--config", settings, *space, *search)
    runs = f"sweep: {TRIALS} runs, from one"
    alone = TRIALS * (run + audit)
    return [Figure(f"sweep: {TRIALS} trials", "s", (sweep,), runs, (alone,)), Figure(runs, "s", (alone,))]
