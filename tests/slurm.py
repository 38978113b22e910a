"""A real SLURM of one node on this machine, in a folder of its own: munged, slurmctld and slurmd as Debian has them."""

import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support import wait_for

from privatenet.distributed.place import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
PLACES = f"{os.environ['PATH']}:/usr/sbin:/sbin"

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=60
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} Gres=gpu:2
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """The running cluster: two GPUs by name, of which nothing asks for the device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PLACES}
        self.processes: list[subprocess.Popen[bytes]] = []
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        host = os.uname().nodename.split(".")[0]
        values = {"folder": folder, "user": getpass.getuser(), "host": host, "cores": os.cpu_count()}
        ports = {"controller_port": free_port(), "node_port": free_port()}
        (folder / "slurm.conf").write_text(CONF.format(**values, **ports))
        (folder / "gres.conf").write_text(
            "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"
        )  # it asks for a file each

    def start(self) -> None:
        files = {
            name: f"--{name}={self.folder}/munge.{name}" for name in ("socket", "log-file", "pid-file", "seed-file")
        }
        munged = ["munged", "--foreground", "--force", f"--key-file={self.folder / 'munge.key'}", *files.values()]
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (self.folder / f"{command[0]}.log").open("wb") as log:
                self.processes.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))
            time.sleep(0.5)
        wait_for(lambda: "State=IDLE" in self.say("scontrol", "show", "node"), 60)

    def say(self, *command: str) -> str:
        """What a command prints, its errors too."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout + done.stderr

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str], **environment: str) -> str:
        """The number of a job of `script`."""
        command = ["sbatch", "--parsable", *options, str(script), *arguments]
        done = subprocess.run(command, env=self.environment | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """What SLURM says of a job, by key: JobState, Restarts, ExitCode and others."""
        words = self.say("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def stop(self) -> None:
        self.say("scancel", "--user", getpass.getuser())
        time.sleep(1)
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def missing() -> str:
    """The first program that is not there; empty where SLURM can be started."""
    return next((name for name in PROGRAMS if not shutil.which(name, path=PLACES)), "")


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """A running SLURM, stopped at the end."""
    cluster = Slurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
