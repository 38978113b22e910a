"""Being asked to stop reaches every rank, whoever is told: they finish their step, save, and nobody stays behind."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from support import Start

from privatenet.distributed.place import free_port

LIMIT_S = 30
COMMAND = [sys.executable, "-m", "privatenet.launch.cli", "run", "--ranks"]
DEEPSPEED = [sys.executable, "-m", "deepspeed.launcher.runner", "--quiet", "--no_local_rank", "--num_gpus"]
MODULE = ["--module", "privatenet.launch.train", "run"]
EPOCHS = 500


class Training:
    """A command that trains in the background, its output in a file in `folder`."""

    def __init__(self, command: list[str], settings: list[str], folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.log = folder, folder / "output.txt"
        with self.log.open("w") as stream:
            environment = os.environ | {"DS_ACCELERATOR": "cpu"}
            whole = [*command, *settings, "--output", str(folder / "run")]
            self.process = psutil.Popen(whole, stdout=stream, stderr=stream, env=environment)
        self.family: list[psutil.Process] = []

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Signal the command in the second epoch, and see that all of its processes end; its code and output."""
        deadline = time.monotonic() + 240
        while f"epoch 2/{EPOCHS}" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, "it does not begin"
            time.sleep(0.2)
        self.family = self.process.children(recursive=True)
        began = time.monotonic()
        self.process.send_signal(number)
        _, alive = psutil.wait_procs(self.family, LIMIT_S)
        assert not alive, f"{len(alive)} processes live on {LIMIT_S} s later"
        print(f"ended after {time.monotonic() - began:.1f} s")
        return self.process.wait(LIMIT_S), self.log.read_text()

    def saved(self) -> Path:
        """The one checkpoint that it has left."""
        (checkpoint,) = (self.folder / "run" / "target" / "checkpoints").iterdir()
        assert (checkpoint / "state.json").is_file()
        return checkpoint

    def kill(self) -> None:
        for each in [*self.family, self.process]:
            if each.is_running():
                each.kill()


@pytest.fixture
def settings(tiny_config: Path) -> list[str]:
    settings = ["--config", str(tiny_config), "--target.epochs", str(EPOCHS), "--target.ema", "0"]
    return [*settings, "--tracking.model", "false", "--model.image_size", "64"]


def test_two_ranks_stop_at_a_batch_systems_signal_and_go_on_in_their_own_mlflow_run(
    settings: list[str], tmp_path: Path, start: Start
) -> None:
    mlflow = pytest.importorskip("mlflow")
    training = Training([*COMMAND, "2"], settings, tmp_path)
    try:
        code, output = training.stop(signal.SIGUSR1)
    finally:
        training.kill()
    assert code == 130
    assert output.count("privatenet: interrupted: target stopped at step") == 1
    assert "Traceback" not in output
    state_file = training.saved() / "state.json"
    state = json.loads(state_file.read_text())
    state_file.write_text(json.dumps({**state, "step": EPOCHS * 4}))  # as if the last epoch had just ended
    alone = ("-m", "privatenet.launch.cli", "train", "target", *settings, "--output", str(tmp_path / "run"))
    assert start(*alone).returncode == 0
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    (run,) = mlflow.search_runs(experiment_names=["privatenet"], output_format="list")
    assert run.info.status == "FINISHED"


def test_ranks_save_and_end_whoever_is_told_and_however(settings: list[str], tmp_path: Path) -> None:
    cases = {
        "Ctrl-C": ([*COMMAND, "1"], signal.SIGINT, 130),
        "launcher": ([*DEEPSPEED, "1", "--master_port", str(free_port()), *MODULE], signal.SIGTERM, -signal.SIGTERM),
    }
    trainings = {name: Training(command, settings, tmp_path / name) for name, (command, _, _) in cases.items()}
    try:
        for name, (_, number, code) in cases.items():
            ended, output = trainings[name].stop(number)
            assert ended == code, name
            assert output.count("privatenet: interrupted: target stopped at step") == 1, output[-2000:]
            assert "Traceback" not in output
            trainings[name].saved()
    finally:
        for training in trainings.values():
            training.kill()
