"""Being asked to stop reaches every rank, whoever is told: they finish their step, save, and nobody stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

LIMIT_S = 30
COMMAND = [sys.executable, "-m", "privatenet.launch.cli", "run", "--ranks", "2"]
DEEPSPEED = [sys.executable, "-m", "deepspeed.launcher.runner", "--quiet", "--num_gpus", "2", "--no_local_rank",
             "--module", "privatenet.launch.train", "run"]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "signals"),
    [
        (COMMAND, [signal.SIGTERM]),
        (COMMAND, [signal.SIGINT]),
        (COMMAND, [signal.SIGKILL]),
        (DEEPSPEED, [signal.SIGTERM]),
    ],
    ids=["run, SIGTERM", "run, Ctrl-C", "run, SIGKILL", "deepspeed, SIGTERM"],
)
def test_ranks_save_and_end_when_their_command_is_told_to(
    command: list[str], signals: list[signal.Signals], tiny_config: Path
) -> None:
    settings = ["--config", str(tiny_config), "--target.epochs", "500", "--target.ema", "0"]
    settings += ["--tracking.model", "false", "--model.image_size", "64"]
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    output = tiny_config.parent / "output.txt"
    with output.open("w") as stream:
        process = subprocess.Popen(
            [*command, *settings], stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
    family: list[psutil.Process] = []
    try:
        _wait(lambda: "epoch 2/500" in output.read_text(), 300)
        family = psutil.Process(process.pid).children(recursive=True)
        for number in signals:
            process.send_signal(number)
        began = time.monotonic()
        _, alive = psutil.wait_procs(family, LIMIT_S)
        assert not alive, f"{len(alive)} processes live on {LIMIT_S} s later"
        code = process.wait(LIMIT_S)
        print(f"ended after {time.monotonic() - began:.1f} s with {code}")
        text = output.read_text()
        assert code == (130 if command is COMMAND and signals != [signal.SIGKILL] else -signals[0]), text[-2000:]
        assert text.count("privatenet: interrupted: target stopped at step") == 1, text[-2000:]
        assert "Traceback" not in text
        (checkpoint,) = (tiny_config.parent / "run" / "target" / "checkpoints").iterdir()
        assert (checkpoint / "state.json").is_file()
    finally:
        for each in [*family, process]:
            if psutil.pid_exists(each.pid):
                each.kill()


def _wait(condition: object, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it does not begin"
        time.sleep(0.2)
