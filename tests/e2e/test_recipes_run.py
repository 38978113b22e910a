"""The recipes for clusters under what they are written for: a real SLURM, a real database, a real Ray cluster.

They take minutes and packages of the system: `pytest -m recipes`, after `apt install slurm-wlm munge postgresql` and
`pip install psycopg2-binary`. The ordinary suite leaves them out.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm
from support import ROOT, TINY, wait_for

from privatenet.distributed.checkpoint import load

RECIPES = ROOT / "launch" / "recipes"

pytestmark = pytest.mark.recipes


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Settings of a run of seconds, without the data and the output, which recipes name themselves."""
    lines = TINY.format(shards="", output="").splitlines()
    path = tmp_path / "tiny.yaml"
    path.write_text("\n".join(line for line in lines if not line.startswith(("data:", "output:"))))
    return path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[slurm.Slurm]:
    if missing := slurm.missing():
        pytest.skip(f"there is no {missing} here: apt install slurm-wlm munge")
    with slurm.slurm(tmp_path / "slurm") as running:
        yield running


def test_a_slurm_job_that_is_told_that_its_time_is_up_saves_goes_back_into_the_queue_and_ends_what_it_began(
    cluster: slurm.Slurm, shards: Path, tiny: Path, tmp_path: Path
) -> None:
    activate = tmp_path / "privatenet/.venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    log, run = tmp_path / "log", tmp_path / "runs/rafdb"
    node = ["--nodes=1", "--gpus-per-node=2", "--cpus-per-task=2", "--time=30", f"--output={log}"]
    settings = [
        "--config",
        str(tiny),
        "--data.shards",
        str(shards),
        "--tracking.uri",
        f"sqlite:///{tmp_path}/mlflow.db",
    ]
    settings += ["--tracking.model=false", "--target.epochs=12", "--model.image_size=64"]
    alone = {"HOME": str(tmp_path), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    job = cluster.submit(RECIPES / "train.slurm", node, settings, **alone)
    wait_for(lambda: log.exists() and "epoch 2/12" in log.read_text(), 240)
    cluster.say("scancel", "--batch", "--signal=USR1", job)  # as SLURM does two minutes before the limit
    wait_for(lambda: cluster.state(job)["Restarts"] == "1", 120)
    assert "the same command goes on from there" in log.read_text()
    assert not (run / "target/final").exists(), "it was told too late to show anything"
    cluster.say("scontrol", "update", f"JobId={job}", "StartTime=now")  # else SLURM leaves it there for two minutes
    wait_for(lambda: cluster.state(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED"), 400)
    assert cluster.state(job)["JobState"] == "COMPLETED", log.read_text()[-3000:]
    for stage in ("target", "known", "private", "unknown"):
        assert load(run / stage / "final").state["test"]
    assert log.read_text().count("epoch 1/12") == 1, "it began anew"
