"""A place to run commands in that notes every try to reach out of it, by network or by programs of well-known names."""

import os
import subprocess
from pathlib import Path

PROGRAMS = ("sh", "bash", "curl", "wget", "ssh", "gs", "gsutil", "aws", "hdfs")
_PROGRAM = """#!/bin/sh
echo "program {name} $*" >> "{report}"
exit 1
"""
_HOOK = """
import sys


def _note(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if host not in (None, "", "localhost", "::1", "::", "0.0.0.0") and not host.startswith(("127.", "::ffff:127.")):
        import socket

        if host != socket.gethostname():
            with open({report!r}, "a") as file:
                file.write(event + " " + host + "\\n")


sys.addaudithook(_note)
"""
_WITHOUT_ROUTES = ("unshare", "--net", "--", "/bin/sh", "-c", 'ip link set lo up && exec "$@"', "sh")


class Watched:
    """`command` is what to put before a command, `environment` what to run it in, `report` what it then tried."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.report = folder / "report.txt"
        (folder / "sitecustomize.py").write_text(_HOOK.format(report=str(self.report)))
        for name in PROGRAMS:
            (folder / name).write_text(_PROGRAM.format(name=name, report=self.report))
            (folder / name).chmod(0o755)
        paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.environment = {**os.environ, "PYTHONPATH": paths, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        self.command = _WITHOUT_ROUTES if _allowed() else ()

    @property
    def tries(self) -> list[str]:
        return self.report.read_text().splitlines() if self.report.exists() else []


def _allowed() -> bool:
    try:
        return subprocess.run([*_WITHOUT_ROUTES, "true"], capture_output=True).returncode == 0
    except OSError:
        return False
