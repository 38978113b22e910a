"""Where figures go: MLflow if it is installed, and always a JSONL file that outlives any server. Rank 0 only.

All that is said to MLflow goes through the outbox in the run's folder: written there first, then sent in order. A
server that is gone for a while costs training next to nothing and loses nothing; what is unsent at the end,
`privatenet send` sends.
"""

import importlib.util
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from privatenet.distributed.config import ConfigError, TrackingConfig
from privatenet.distributed.signals import Interrupted
from privatenet.distributed.tracking import outbox
from privatenet.distributed.tracking.outbox import Message, Sent
from privatenet.distributed.tracking.store import PARENT, cause, children, connect, experiment_id, log_model, reaching

MLFLOW = importlib.util.find_spec("mlflow") is not None
PARAM_LENGTH = 6000
TAG_LENGTH = 500
PAUSE_S = 30
PAUSE_FACTOR = 20
REFUSALS = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST")
"""What MLflow answers to a message that it will never take; after anything else it is asked again later."""

Say = Callable[[str], None]


class Tracker:
    """One part's run: parameters and data set at the start, metrics as they come, checkpoint and model at the end.

    The run's id is kept in `folder`/mlflow.json, so that an interrupted part goes on in its own run; a trial's run is
    found again by its name among its parent's. Raises `ConfigError` where the server cannot be reached at the start
    of a run that is nested in none: most likely its address is wrong.
    """

    def __init__(self, config: TrackingConfig, folder: Path, stage: str, settings: dict[str, Any], say: Say) -> None:
        self.config, self.folder, self.say = config, folder, say
        self.lines = folder / "metrics.jsonl"
        self.post: _Post | None = None
        if not MLFLOW:
            say(f"mlflow is not installed: figures go to {self.lines} only")
            return
        self.post = _Post(folder, tracking_uri(config, folder), say)
        tags = {"stage": stage, "part": folder.name, "output": str(folder.parent.resolve())}
        name = f"{config.trial or folder.parent.name}/{folder.name}"
        created = _created(config, name, tags, folder, ("trial", "part"))
        first = [created, _params(flatten(settings)), _files(folder / "config.yaml", folder)]
        self.post.begin(first, must_answer=not config.parent)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; none before it is there."""
        return (self.post and self.post.run_id) or None

    def data(self, name: str, source: str, fingerprint: str) -> None:
        """Record the data set as the run's input, by its fingerprint."""
        where = {"name": name, "source": str(Path(source).resolve()), "digest": fingerprint[:36]}
        self._say({"what": "data", **where}, _tags({"data.fingerprint": fingerprint}))

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record figures of an epoch."""
        now = round(time.time(), 3)
        with self.lines.open("a") as file:
            file.write(json.dumps({"time": now, "epoch": epoch, **metrics}) + "\n")
        numbers = {name: value for name, value in metrics.items() if not math.isnan(value)}
        self._say({"what": "metrics", "time": now, "step": epoch, "values": numbers})

    def params(self, values: Mapping[str, Any]) -> None:
        """Record further parameters; one that is there already stays as it is."""
        self._say(_params(values))

    def tag(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._say(_tags(values))

    def artifacts(self, folder: Path) -> None:
        """Record everything in `folder` as files of the run, under its name."""
        self._say(_files(folder, self.folder))

    def finish(self, checkpoint_hash: str, network: nn.Module | None, image_size: int) -> None:
        """Record the finished checkpoint's hash and, if asked for, the network as a model with its signature."""
        if not self.post:
            return
        self.post.add(_tags({"checkpoint.sha256": checkpoint_hash}))
        there = self.post.send(now=True)
        if network is not None and self.config.model:
            if there:
                self._log_model(network, image_size)
            else:
                self.say("the model is left out: MLflow is away")
        self.post.add(_status("FINISHED"))
        self.post.close(now=there)

    def stop(self, status: str, reason: str = "") -> None:
        """End the run as `status` (KILLED or FAILED), with what led to it as the tag `failure`."""
        if self.post:
            self.post.add(*_ended(status, reason))
            self.post.close()

    def _say(self, *messages: Message) -> None:
        if self.post:
            self.post.add(*messages)
            self.post.send()

    def _log_model(self, network: nn.Module, image_size: int) -> None:
        assert self.run_id is not None
        try:
            log_model(tracking_uri(self.config, self.folder), self.run_id, network, image_size)
        except Exception as error:  # every kind of store has its own; the network is in the checkpoint
            self.say(f"the model is left out: {cause(error)}")


def deliver(folder: Path, say: Say = print) -> int:
    """Send what waits in the outbox in `folder`, in order, and remember how far; returns the number of things sent.

    Not while the run goes on in another process. What the server refuses for good is said and left out.
    Raises `ConfigError` where there is no outbox, or the server cannot be reached.
    """
    sent = outbox.read_sent(folder)
    if sent is None:
        raise ConfigError(f"{folder} has no {outbox.SENT}: it is no folder of a run")
    if not MLFLOW:
        raise ConfigError("mlflow is not installed")
    waiting = outbox.read(folder)[sent.messages :]
    if not waiting:
        return 0
    with reaching(sent.uri):
        client = connect(sent.uri)
        for message in waiting:
            run_id = _send(client, folder, sent.run_id, message, say)
            sent = Sent(sent.uri, run_id, sent.messages + 1)
            outbox.write_sent(folder, sent)
    return len(waiting)


def conclude(
    config: TrackingConfig, folder: Path, stage: str, params: Mapping[str, Any], tags: Mapping[str, str],
    status: str = "", say: Say = print,
) -> None:  # fmt: skip
    """Say of a trial, from outside, what it could not say itself: in its run or, if it never had one, in a new one.

    `config.trial` names it among those of `config.parent`. A `status` (KILLED or FAILED) ends it. What MLflow cannot be
    told now waits in `folder`.
    """
    if MLFLOW:
        post = _Post(folder, config.uri, say)
        created = _created(config, config.trial, {"stage": stage, "part": stage}, folder, ("trial", "stage"))
        created["reopen"] = False
        cut = {name: value[:TAG_LENGTH] for name, value in tags.items()}
        folder.mkdir(parents=True, exist_ok=True)
        outbox.remove(folder)  # what was concluded before is said anew
        post.begin([created, _params(params), _tags(cut), *([_status(status)] if status else [])], must_answer=False)


@contextmanager
def parent_run(config: TrackingConfig, output: Path, stage: str, say: Say = print) -> Iterator[TrackingConfig]:
    """Within the block, settings by which all parts, wherever below `output`, are runs nested in one. Rank 0 only.

    The run's id is kept in `output`/mlflow.json, so that what was interrupted goes on in it. It ends with the block.
    Without MLflow the settings are as they were. Raises `ConfigError` where the server cannot be reached at first.
    """
    if not MLFLOW:
        yield config
        return
    output.mkdir(parents=True, exist_ok=True)
    uri = tracking_uri(config, output / stage)
    post = _Post(output, uri, say)
    tags = {"stage": stage, "output": str(output.resolve())}
    post.begin([_created(config, output.name, tags, output / stage)], must_answer=True)
    try:
        yield replace(config, uri=uri, parent=post.run_id)
    except BaseException as error:
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
        post.add(*(_ended("KILLED") if stopped else _ended("FAILED", f"{type(error).__name__}: {error}")))
        post.close()
        raise
    post.add(_status("FINISHED"))
    post.close()


def log_files(config: TrackingConfig, paths: Sequence[Path], say: Say = print) -> None:
    """Keep copies of files with the run that `config.parent` names, if it names one; the first is in its folder."""
    if config.parent:
        post = _Post(paths[0].parent, config.uri, say)
        post.add(*(_files(path, post.folder) for path in paths))
        post.send()


def tracking_uri(config: TrackingConfig, folder: Path) -> str:
    """The configured MLflow store, or the SQLite file beside the parts."""
    return config.uri or f"sqlite:///{(folder.parent / 'mlflow.db').resolve()}"


def code_version() -> str:
    """The package's version and, in a checkout, its commit."""
    here = Path(__file__).resolve().parent
    answer = subprocess.run(["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    commit = answer.stdout.strip() if answer.returncode == 0 else ""
    return version("privatenet") + (f"+{commit}" if commit else "")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys: {"a": {"b": 1}} to {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first four of nested settings that are not what they were, in words; empty where all are."""
    old, new = flatten(before), flatten(now)
    changed = [key for key in sorted({*new, *old}) if new.get(key) != old.get(key)]
    return "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed[:4])


class _Post:
    """The way of one run's messages: to the outbox in `folder` at once, to the server `uri` while it is there."""

    def __init__(self, folder: Path, uri: str, say: Say) -> None:
        self.folder, self.uri, self.say = folder, uri, say
        self.lost = False
        self.again = 0.0

    @property
    def run_id(self) -> str:
        sent = outbox.read_sent(self.folder)
        return sent.run_id if sent else ""

    def begin(self, first: Sequence[Message], must_answer: bool) -> None:
        """Make the run by the messages `first`, or go on in the one that was made; in another store, say all again.

        Raises `ConfigError` and leaves nothing where a run is to be made, and the server does not answer but must.
        """
        outbox.mend(self.folder)
        before = outbox.read_sent(self.folder)
        if before is None or before.uri != self.uri:
            before = Sent(self.uri)
            outbox.write_sent(self.folder, before)
        self.add(*([_status("RUNNING")] if before.run_id or outbox.read(self.folder) else first))
        if before.run_id or not must_answer:
            self.send()
            return
        try:
            deliver(self.folder, self.say)
        except ConfigError:
            outbox.remove(self.folder)
            raise

    def add(self, *messages: Message) -> None:
        for message in messages:
            outbox.append(self.folder, message)

    def send(self, now: bool = False) -> bool:
        """Send what waits, but a lost server is left in peace for a while unless it is to be `now`; whether all went.

        Says once when the server is lost, and once when it is back.
        """
        began = time.monotonic()
        if self.lost and not now and began < self.again:
            return False
        try:
            count = deliver(self.folder, self.say)
        except ConfigError as error:
            if not self.lost:
                self.say(f"{error} The work goes on; what it has to say waits in {self.folder / outbox.OUTBOX}")
            self.lost, self.again = True, time.monotonic() + pause_s(time.monotonic() - began)
            return False
        if self.lost:
            self.say(f"{self.uri} is back and was told what waited: {count} messages")
        self.lost = False
        return True

    def close(self, now: bool = True) -> None:
        """Send what waits once more, and say how to send what is left."""
        if not self.send(now):
            self.say(f"MLflow was not told all: once it is back, `privatenet send {self.folder}` sends the rest")


def pause_s(took_s: float) -> float:
    """Seconds in which a lost server is not tried, so that trying in vain takes a twentieth of the time at most."""
    return max(PAUSE_S, PAUSE_FACTOR * took_s)


def _created(
    config: TrackingConfig, name: str, tags: Mapping[str, str], folder: Path, known_by: Sequence[str] = ()
) -> Message:
    """The message that makes a run; a trial's is found again by its parent and the tags `known_by`."""
    from mlflow.tracking.context.registry import resolve_tags

    nested = {PARENT: config.parent} if config.parent else {}
    trial = {"trial": config.trial} if config.trial else {}
    return {
        "what": "create",
        "time": time.time(),
        "experiment": config.experiment,
        "files": "" if config.uri else (folder.parent / "mlartifacts").resolve().as_uri(),
        "name": name,
        "tags": resolve_tags({**tags, **trial, **nested, "version": code_version()}),
        "known_by": list(known_by) if nested and trial else [],
    }


def _params(values: Mapping[str, Any]) -> Message:
    return {"what": "params", "values": {name: str(value)[:PARAM_LENGTH] for name, value in values.items()}}


def _tags(values: Mapping[str, str]) -> Message:
    return {"what": "tags", "values": dict(values)}


def _files(path: Path, folder: Path) -> Message:
    return {"what": "files", "path": os.path.relpath(path, folder)}


def _status(status: str) -> Message:
    return {"what": "status", "time": time.time(), "status": status}


def _ended(status: str, reason: str = "") -> list[Message]:
    return [*([_tags({"failure": reason[:TAG_LENGTH]})] if reason else []), _status(status)]


def _send(client: Any, folder: Path, run_id: str, message: Message, say: Say) -> str:
    """Tell MLflow one thing, or say that it refuses it; returns the run's id."""
    from mlflow.exceptions import MlflowException

    try:
        return _tell(client, folder, run_id, message)
    except (MlflowException, FileNotFoundError) as error:
        refused = isinstance(error, FileNotFoundError) or error.error_code in REFUSALS
        if not (run_id and refused):
            raise
        say(f"MLflow refused {message['what']} of run {run_id}: {cause(error)}")
        return run_id


def _tell(client: Any, folder: Path, run_id: str, message: Message) -> str:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    values = message.get("values", {})
    if message["what"] == "create":
        return _create(client, message)
    if message["what"] == "params":
        known = client.get_run(run_id).data.params
        params = [Param(name, value) for name, value in values.items() if name not in known]
        client.log_batch(run_id, params=params, synchronous=True)
    elif message["what"] == "tags":
        client.log_batch(run_id, tags=[RunTag(*item) for item in values.items()], synchronous=True)
    elif message["what"] == "metrics":
        metrics = [Metric(*item, _ms(message["time"]), message["step"]) for item in values.items()]
        client.log_batch(run_id, metrics=metrics, synchronous=True)
    elif message["what"] == "data":
        data = Dataset(message["name"], message["digest"], "local", json.dumps({"uri": message["source"]}))
        client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    elif message["what"] == "files":
        path = (folder / message["path"]).resolve()
        if path.is_dir():
            client.log_artifacts(run_id, path, path.name)
        else:
            client.log_artifact(run_id, path)
    elif message["status"] == "RUNNING":
        _reopen(client, client.get_run(run_id))
    else:
        client.set_terminated(run_id, message["status"], _ms(message["time"]))
    return run_id


def _create(client: Any, message: Message) -> str:
    """Make a run, or find the trial's that an earlier process made; returns its id."""
    experiment = experiment_id(client, message["experiment"], message["files"])
    tags, known_by = message["tags"], message["known_by"]
    for run in children(client, experiment, tags[PARENT]) if known_by else []:
        if all(run.data.tags.get(name) == tags[name] for name in known_by):
            return _reopen(client, run) if message.get("reopen", True) else str(run.info.run_id)
    made = client.create_run(experiment, _ms(message["time"]), tags, message["name"])
    return str(made.info.run_id)


def _reopen(client: Any, run: Any) -> str:
    if "failure" in run.data.tags:
        client.delete_tag(run.info.run_id, "failure")
    client.update_run(run.info.run_id, status="RUNNING")
    return str(run.info.run_id)


def _ms(time_s: float) -> int:
    return int(1000 * time_s)
