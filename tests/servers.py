"""Servers for tests: MLflow's own, files by HTTP, and a gate before either that asks for a password and can be shut."""

import base64
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from privatenet.data_shards.uri import Uri
from privatenet.distributed.place import free_port


class MlflowServer:
    """`mlflow server`; stopped and started again it has the same address and content.

    Its database is a SQLite file in `folder`, and its files are there, unless `database` and `files` say otherwise.
    """

    def __init__(self, folder: Path, database: str = "", files: str = "", *options: str) -> None:
        self.folder, self.port = folder, free_port()
        self.database = database or f"sqlite:///{folder / 'server.db'}"
        self.files, self.options = files or str(folder / "files"), options
        self.uri = Uri(f"http://127.0.0.1:{self.port}")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.process:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.database, "--artifacts-destination", self.files]
        command += self.options
        plain = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else eight more processes
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=plain, stdout=log, stderr=log, start_new_session=True)
        for _ in range(600):
            assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(f"no MLflow server at {self.uri}")

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)  # it and its workers, as a machine that fails
            self.process.wait(60)
            self.process = None


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A running MLflow server."""
    pytest.importorskip("mlflow")
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


class ObjectStore:
    """An S3 server with an empty bucket `runs`; its `environment` is what a client finds it by."""

    def __init__(self, log: Path) -> None:
        port = free_port()
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "name",
            "AWS_SECRET_ACCESS_KEY": "password",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for _ in range(300):
            assert self.process.poll() is None, log.read_text()[-2000:]
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("PUT", "/runs")
                assert connection.getresponse().status == 200
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("no S3 server")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A running S3 server."""
    pytest.importorskip("s3fs")
    store = ObjectStore(tmp_path_factory.mktemp("s3") / "log")
    yield store
    store.stop()


class Postgres:
    """PostgreSQL with a new database `mlflow`, in a folder of its own. It refuses to be root: then it is `postgres`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="privatenet-postgres-"))  # pytest's folders are closed to others
        self.port = free_port()
        self.address = f"postgresql://keeper:secret@127.0.0.1:{self.port}/mlflow"
        self.uri = self.address.replace("://", "+psycopg2://")  # SQLAlchemy 2.1 would take psycopg
        self.account: dict[str, Any] = {"user": "postgres"} if os.getuid() == 0 else {}
        if self.account:
            shutil.chown(self.folder, "postgres")
        (self.folder / "password").write_text("secret\n")
        (self.folder / "password").chmod(0o644)
        data = str(self.folder / "data")
        self._run("initdb", "--pgdata", data, "--username=keeper", "--auth=scram-sha-256", "--pwfile=password")
        options = ["-p", str(self.port), "-k", str(self.folder), "-c", "listen_addresses=127.0.0.1"]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [self.program("postgres"), "-D", data, *options], stderr=log, **self.account
            )
        for _ in range(100):
            if self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), check=False) == 0:
                break
            time.sleep(0.1)
        self._run("createdb", "--maintenance-db", self.address.replace("/mlflow", "/postgres"), "mlflow")

    @staticmethod
    def program(name: str) -> str:
        """The path of one of PostgreSQL's programs, empty where it is not installed."""
        places = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
        return shutil.which(name, path=os.pathsep.join([*places, os.environ["PATH"]])) or ""

    def _run(self, name: str, *arguments: str, check: bool = True) -> int:
        return subprocess.run([self.program(name), *arguments], cwd=self.folder, check=check, **self.account).returncode

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        shutil.rmtree(self.folder)


class Gate:
    """An address before the HTTP server at `port` that answers only while it is open.

    With `user` it asks for that name and `password`, with `token` for that query parameter.
    """

    def __init__(self, port: int, user: str = "", password: str = "", token: str = "") -> None:
        self.port = free_port()
        self.server: ThreadingHTTPServer | None = None
        basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if (user and self.headers["Authorization"] != basic) or (token and f"token={token}" not in self.path):
                    self.send_error(401, "give name, password and token")
                    return
                server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                server.request(self.command, self.path, body, dict(self.headers.items()))
                answer = server.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", answer.headers["Content-Length"] or str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                server.close()

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = forward

            def log_message(self, *_: Any) -> None:
                pass

        self.handler = Handler
        self.open()

    @property
    def uri(self) -> Uri:
        return Uri(f"http://127.0.0.1:{self.port}")

    def open(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def shut(self) -> None:
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


@contextmanager
def gate(port: int, user: str = "", password: str = "", token: str = "") -> Iterator[Gate]:
    """An open `Gate`, shut at the end."""
    made = Gate(port, user, password, token)
    try:
        yield made
    finally:
        made.shut()


@contextmanager
def file_server(folder: Path) -> Iterator[int]:
    """The port of a web server over `folder`."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
