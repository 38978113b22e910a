"""What tests share: a tiny sharded data set, settings that train on it in seconds, and a way to start ranks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # many processes on few cores: those that wait must not spin

import pytest
import torch
from filelock import FileLock
from support import ROOT, TINY, Start, tracked_files
from watched import Watched

from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.synthetic import synthetic_source
from privatenet.distributed.place import free_port

LONG = ("test_sweep.py", "test_two_machines.py", "test_training.py", "test_secrets.py", "test_audit.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests are marked by the folder that they are in; those that need a GPU are skipped without one, recipes unless
    `-m recipes` asks for them. Files with the longest tests come first, so that processes end together."""
    items.sort(key=lambda item: (item.path.name not in LONG, ("e2e", "dist", "unit").index(item.path.parent.name)))
    for item in items:
        if item.path.parent.name in ("dist", "e2e"):
            item.add_marker(item.path.parent.name)
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"))
        if item.get_closest_marker("recipes") and "recipes" not in item.config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason="takes minutes, and programs of a cluster: pytest -m recipes"))


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit within a test is done by the test's own process, whose output is at hand, unless it asks for ranks."""
    monkeypatch.setattr("privatenet.launch.commands.audit.usual_ranks", lambda: 1)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty training and forty test faces in shards of sixteen."""
    out = tmp_path_factory.mktemp("shards") / "tiny"
    build(synthetic_source(80, 40, seed=3), out, samples_per_shard=16)
    return out


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> tuple[Path, str]:
    """A whole run on two ranks, one for all of pytest's processes: its configuration file and what it printed. It is
    watched, and without a network where that can be."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    base = tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent
    folder = base / "finished"
    config, printed = folder / "tiny.yaml", folder / "printed.txt"
    with FileLock(f"{folder}.lock"):
        if not printed.exists():
            folder.mkdir()
            watched = Watched(folder / "watched")
            config.write_text(TINY.format(shards=shards, output=folder / "run"))
            command = [sys.executable, "-m", "privatenet.launch.cli", "run", "--ranks", "2", "--config", str(config)]
            done = subprocess.run(
                [*watched.command, *command],
                capture_output=True,
                text=True,
                timeout=500,
                cwd=folder,
                env=watched.environment,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            assert watched.tries == [], "a run reaches out of this machine, or calls programs"
            printed.write_text(done.stdout)
    return config, printed.read_text()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel, built from a tree without what earlier builds have left."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in tracked_files():
        (folder / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / "tree" / path)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(folder / "tree")], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def tiny_config(shards: Path, tmp_path: Path) -> Path:
    """A configuration that runs every stage on `shards` in seconds, into a fresh output folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(shards=shards, output=tmp_path / "run"))
    return path


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Run Python arguments in a subprocess, away from the source tree, and return what it printed."""

    def run(*arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "RANK"))}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, env={**inherited, **environment}, capture_output=True, text=True, timeout=timeout, cwd=tmp_path
        )

    return run


@pytest.fixture
def torchrun(start: Start) -> Start:
    """Run a module or script on `ranks` processes by torchrun."""

    def run(ranks: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        launcher = ("-m", "torch.distributed.run", f"--nproc_per_node={ranks}", f"--master_port={free_port()}")
        return start(*launcher, *arguments, **environment)

    return run
