"""What a run reports: to MLflow if it is installed, and always to a JSONL file that outlives any server. Rank 0 only.

All that is for MLflow goes through the outbox in the run's folder: written there first, then sent in order. A server
that is gone for a while costs training next to nothing and loses nothing; what is unsent at the end, `privatenet send`
sends.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from privatenet.data_shards.files import cut_unfinished_line
from privatenet.data_shards.uri import Uri, scrub
from privatenet.distributed.config import TrackingConfig
from privatenet.distributed.errors import ConfigError, Interrupted
from privatenet.distributed.progress import Say
from privatenet.distributed.provenance import code_version, flatten
from privatenet.distributed.tracking import outbox, registry, store
from privatenet.distributed.tracking.outbox import (
    CreateRun,
    LogDataset,
    LogFiles,
    LogMetrics,
    LogParams,
    Message,
    SetStatus,
    SetTags,
)
from privatenet.distributed.tracking.sender import Sender

if TYPE_CHECKING:
    from torch import nn

SPEED = "images_per_s"
"""The name of a metric that is another each time."""
PARAM_LENGTH = 6000
TAG_LENGTH = 500


class Tracker:
    """One stage's run: parameters and data set at the start, metrics as they come, checkpoint and model at the end.

    The run's id is kept in `folder`/mlflow.json, so that an interrupted stage goes on in its own run; a trial's run is
    found again by its name among its parent's. Raises `ConfigError` where the server cannot be reached at the start
    of a run that is nested in none: most likely its address is wrong.
    """

    def __init__(
        self, config: TrackingConfig, folder: Path, stage: str, settings: dict[str, Any], say: Say,
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.config, self.folder, self.say = config, folder, say
        self.lines = folder / "metrics.jsonl"
        self.recorded = set(_recorded(self.lines))
        self.reported = set(_reported(folder))
        self.sender: Sender | None = None
        if not store.MLFLOW:
            say(f"mlflow is not installed: figures go to {self.lines} only")
            return
        self.sender = Sender(folder, tracking_uri(config, folder), say)
        tags = {"stage": stage, "folder": folder.name, "output": str(folder.parent.resolve()), **tags}
        name = f"{config.trial or folder.resolve().parent.name}/{folder.name}"
        created = _create_run(config, name, tags, folder, ("trial", "folder"))
        first: list[Message] = [created, _params(flatten(settings)), _files(folder / "config.yaml", folder)]
        if outbox.is_server(self.sender.uri):
            self.sender.begin(first, must_answer=not config.parent)
        else:
            self.sender.prepare(first)  # a file here is opened, which takes seconds, with the first metrics

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; none before it is there."""
        return (self.sender and self.sender.run_id) or None

    def data(self, name: str, source: str, fingerprint: str) -> None:
        """Record the data set, a folder's or a URL's, as the run's input, by its fingerprint."""
        source = source if "://" in source else str(Path(source).resolve())
        if self.sender:  # sent with the first metrics
            self.sender.add(LogDataset(name, source, fingerprint[:36]), SetTags({"data.fingerprint": fingerprint}))

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record metrics of an epoch, once: one that ended just before a kill may end again, as it was."""
        now, record = round(time.time(), 3), _record(epoch, metrics)
        if record not in self.recorded:
            with self.lines.open("a") as file:
                file.write(json.dumps({"time": now, "epoch": epoch, **metrics}) + "\n")
        if record not in self.reported:
            numbers = {name: value for name, value in metrics.items() if not math.isnan(value)}
            self._report(LogMetrics(numbers, epoch, now))

    def params(self, values: Mapping[str, Any]) -> None:
        """Record further parameters; those that the run has already stay as they are."""
        self._report(_params(values))

    def tag(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._report(SetTags(dict(values)))

    def artifacts(self, folder: Path) -> None:
        """Record everything in `folder` as files of the run, under its name."""
        self._report(_files(folder, self.folder))

    def finish(self, checkpoint_hash: str, network: "nn.Module | None", image_size: int) -> None:
        """Record the finished checkpoint's hash and, if asked for, the network as a model with its signature."""
        if not self.sender:
            return
        self.sender.add(SetTags({"checkpoint.sha256": checkpoint_hash}))
        reachable = self.sender.send(now=True)
        if network is not None and self.config.model:
            if reachable:
                self._log_model(network, image_size)
            else:
                self.say("the model is left out: MLflow is away")
        self.sender.add(SetStatus("FINISHED"))
        self.sender.close(now=reachable)

    def stop(self, status: str, reason: str = "") -> None:
        """End the run as `status` (KILLED or FAILED), with what led to it as the tag `failure`."""
        if self.sender:
            self.sender.add(*_ended(status, reason))
            self.sender.close()

    def _report(self, *messages: Message) -> None:
        if self.sender:
            self.sender.add(*messages)
            self.sender.send()

    def _log_model(self, network: "nn.Module", image_size: int) -> None:
        assert self.run_id is not None
        uri = tracking_uri(self.config, self.folder)
        try:
            registry.log_model(uri, self.run_id, network, image_size)
        except Exception as error:  # every kind of store has its own; the network is in the checkpoint
            self.say(f"the model is left out: {store.cause(error, uri)}")


Record = tuple[int, frozenset[tuple[str, float]]]


def _record(epoch: int, metrics: Mapping[str, float]) -> Record:
    """Metrics of an epoch, by what is the same where it is trained again: not its speed."""
    same = ((name, value) for name, value in metrics.items() if name != SPEED and not math.isnan(value))
    return epoch, frozenset(same)


def _reported(folder: Path) -> Iterator[Record]:
    """What is in the outbox; of a damaged one nothing: who sends it says so."""
    with suppress(ConfigError):
        yield from (_record(each.epoch, each.values) for each in outbox.read(folder) if isinstance(each, LogMetrics))


def _recorded(path: Path) -> Iterator[Record]:
    """What is in a file of lines; one cut short by a kill is taken out of it."""
    cut_unfinished_line(path)
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # what is no such line is nothing of ours
            values = json.loads(line)
            del values["time"]
            yield _record(values.pop("epoch"), values)


def conclude(
    config: TrackingConfig, folder: Path, stage: str, params: Mapping[str, Any], tags: Mapping[str, str],
    status: str = "", say: Say = print,
) -> None:  # fmt: skip
    """Report of a trial, from outside, what it could not itself: in its run or, if it never had one, in a new one.

    `config.trial` names it among those of `config.parent`. A `status` (KILLED or FAILED) ends it. What cannot be sent
    now waits in `folder`.
    """
    if store.MLFLOW:
        sender = Sender(folder, config.uri, say)
        created = _create_run(config, config.trial, {"stage": stage, "folder": stage}, folder, ("trial", "stage"))
        short = SetTags({name: scrub(value)[:TAG_LENGTH] for name, value in tags.items()})
        end = [SetStatus(status)] if status else []
        folder.mkdir(parents=True, exist_ok=True)
        outbox.remove(folder)  # what was concluded before is reported anew
        sender.begin([replace(created, reopen=False), _params(params), short, *end], must_answer=False)


@contextmanager
def parent_run(config: TrackingConfig, output: Path, stage: str, say: Say = print) -> Iterator[TrackingConfig]:
    """Within the block, settings by which all stages, wherever below `output`, are runs nested in one. Rank 0 only.

    The run's id is kept in `output`/mlflow.json, so that what was interrupted goes on in it. It ends with the block.
    Without MLflow the settings are as they were. Raises `ConfigError` where the server cannot be reached at first.
    """
    if not store.MLFLOW:
        yield config
        return
    output.mkdir(parents=True, exist_ok=True)
    uri = tracking_uri(config, output / stage)
    sender = Sender(output, uri, say)
    tags = {"stage": stage, "output": str(output.resolve())}
    sender.begin([_create_run(config, output.name, tags, output / stage)], must_answer=True)
    try:
        yield replace(config, uri=uri, parent=sender.run_id)
    except BaseException as error:
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
        sender.add(*(_ended("KILLED") if stopped else _ended("FAILED", f"{type(error).__name__}: {error}")))
        sender.close()
        raise
    sender.add(SetStatus("FINISHED"))
    sender.close()


def log_files(config: TrackingConfig, paths: Sequence[Path], say: Say = print) -> None:
    """Keep copies of files with the run that `config.parent` names, if it names one; the first is in its folder."""
    if config.parent:
        sender = Sender(paths[0].parent, config.uri, say)
        sender.add(*(_files(path, sender.folder) for path in paths))
        sender.send()


def tracking_uri(config: TrackingConfig, folder: Path) -> Uri:
    """The configured MLflow store, or the SQLite file beside the stages' folders."""
    return config.uri or Uri(f"sqlite:///{(folder.parent / 'mlflow.db').resolve()}")


def _create_run(
    config: TrackingConfig, name: str, tags: Mapping[str, str], folder: Path, identity: Sequence[str] = ()
) -> CreateRun:
    """The message that makes a run; a trial's is found again by its parent and the tags `identity`."""
    nested = {store.PARENT: config.parent} if config.parent else {}
    trial = {"trial": config.trial} if config.trial else {}
    return CreateRun(
        experiment=config.experiment,
        artifacts="" if config.uri else (folder.parent / "mlartifacts").resolve().as_uri(),
        name=name,
        tags={**store.context_tags(), **tags, **trial, **nested, "version": code_version()},
        identity=tuple(identity) if nested and trial else (),
    )


def _params(values: Mapping[str, Any]) -> LogParams:
    return LogParams({name: str(value)[:PARAM_LENGTH] for name, value in values.items()})


def _files(path: Path, folder: Path) -> LogFiles:
    return LogFiles(os.path.relpath(path, folder))


def _ended(status: str, reason: str = "") -> list[Message]:
    return [*([SetTags({"failure": scrub(reason)[:TAG_LENGTH]})] if reason else []), SetStatus(status)]
