"""Checkpoints: a folder of safetensors and one JSON file, the same whatever the ranks, precision or ZeRO stage.

    model.safetensors         the trained weights and statistics
    state.json                everything else, and the SHA-256 of the other files

and, while training:

    best.safetensors          weights and statistics of the best epoch so far
    average.safetensors       their moving average, where there is one
    optimizer.safetensors     the optimiser's tensors, by parameter
    adversaries.safetensors   the optimisers' tensors of adversaries that learn on
    ranks.safetensors         what is each rank's own: random states, batch statistics, sums of losses

A folder appears under its name complete or not at all. Nothing that is read is unpickled. Only the first rank reads and
writes: what it read, the others get from it.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import TypedDict

from privatenet.data_shards import records
from privatenet.data_shards.files import file_sha256, flush_to_disk, writing
from privatenet.data_shards.records import Count, Sha256
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.errors import ConfigError
from privatenet.models.errors import ModelError
from privatenet.models.network import NetworkSpec

STATE = "state.json"


def _schema(values: dict[str, Any]) -> dict[str, Any]:
    Schema.from_dict(values)
    return values


def _spec(values: dict[str, Any]) -> dict[str, Any]:
    try:
        NetworkSpec(**values)
    except (TypeError, ModelError) as error:
        raise ValueError(str(error)) from error
    return values


Files = dict[Annotated[str, Field(pattern=r"^[a-z]+\.safetensors$")], Sha256]


@with_config(ConfigDict(extra="allow"))
class _Finished(TypedDict):
    """state.json of a finished stage: what it is read for, and more."""

    stage: Literal["target", "adversary", "private"]
    identity: dict[str, Any]
    spec: Annotated[dict[str, Any], AfterValidator(_spec)]
    schema: Annotated[dict[str, Any], AfterValidator(_schema)]
    config: dict[str, Any]
    test: dict[str, dict[str, Any]]
    files: Files


@with_config(ConfigDict(extra="allow"))
class _Training(TypedDict):
    """state.json of a stage that is still trained."""

    step: Count
    data: dict[str, Count]
    best: dict[str, tuple[float, Count]]
    waited: Count
    optimizer_step: Count
    scaler: dict[str, Any]
    left_out: NotRequired[list[tuple[Count, Count]]]
    files: Files


_FINISHED, _TRAINING = TypeAdapter(_Finished), TypeAdapter(_Training)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: its folder and the content of its state.json."""

    folder: Path
    state: dict[str, Any]

    def tensors(self, name: str = "model") -> dict[str, Tensor]:
        """Read `name`.safetensors. Raises `ConfigError` where the file is not the one that was written."""
        path = self.folder / f"{name}.safetensors"
        if not path.is_file() or file_sha256(path) != self.state["files"].get(path.name):
            raise ConfigError(f"{path}: missing or changed since it was written; train this stage again")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConfigError(f"{path}: is no file of tensors ({error}); train this stage again") from error

    def load_into(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Load `tensors`, some of this checkpoint's. Raises `ConfigError` where they are not those of `module`."""
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            first = " ".join(str(error).split())[:200]
            raise ConfigError(f"{self.folder}: its weights are of another network ({first})") from error

    @property
    def hash(self) -> str:
        """SHA-256 of the weights: what caches and runs refer to."""
        return str(self.state["files"].get("model.safetensors", ""))


def save(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Checkpoint:
    """Write a checkpoint by one process: to a temporary folder, to the disk, then renamed to `folder`, which is new.

    Raises `DataError` where the disk is full or does not let us; nothing is left of it then.
    """
    work = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    with writing(folder):
        try:
            complete = _write(work, tensors, state)
            work.rename(folder)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        flush_to_disk(folder.parent)
    return Checkpoint(folder, complete)


def _write(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> dict[str, Any]:
    """Write the files of a checkpoint; returns what its state.json holds."""
    folder.mkdir(parents=True)
    files = {}
    for name, values in tensors.items():
        path = folder / f"{name}.safetensors"
        _save_file({key: value.detach().cpu().contiguous() for key, value in values.items()}, path)
        flush_to_disk(path)
        files[path.name] = file_sha256(path)
    complete = {**state, "files": files}
    (folder / STATE).write_text(json.dumps(complete, indent=1) + "\n")
    flush_to_disk(folder / STATE)
    flush_to_disk(folder)
    return complete


def _save_file(tensors: dict[str, Tensor], path: Path) -> None:
    """As safetensors does; what goes wrong on the disk is an OSError again."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def load(folder: Path) -> Checkpoint:
    """Open the checkpoint folder of a finished stage. Raises `ConfigError` where it holds none."""
    if not (folder / STATE).exists():
        raise ConfigError(f"{folder}: holds no complete checkpoint, for which there would be a {STATE}")
    state = records.read(_FINISHED, folder / STATE, "state of a finished stage", ConfigError)
    return Checkpoint(folder, dict(state))


def load_training(folder: Path) -> Checkpoint:
    """Open the checkpoint folder of a stage that is still trained. Raises `ConfigError` where it is damaged."""
    state = records.read(_TRAINING, folder / STATE, "state of a stage in training", ConfigError)
    return Checkpoint(folder, dict(state))


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Store:
    """The checkpoints of one stage while it trains, below `root`, of which the `kept` newest stay: written one at a
    time, off the calling thread, and then `copy` is called with those that stay.

    Some stay for good besides, in the folder `epochs` beside `root`.
    """

    def __init__(self, root: Path, kept: int = 1, copy: Callable[[list[Path]], None] | None = None) -> None:
        self.root, self.kept, self.copy = root, kept, copy
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.pending: Future[None] | None = None

    def write(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], epoch: int = 0
    ) -> None:
        """Begin to write the checkpoint of `step`, after the one before; older ones go when it is whole.

        It stays for good where it is given the number of an epoch. `tensors` must not change from here on. Raises what
        went wrong with the one before.
        """
        self.wait()
        self.pending = self.pool.submit(self._write, _step_folder(self.root, step), tensors, state, epoch)

    def wait(self) -> None:
        """Until all is written; raises what went wrong with the last one."""
        if self.pending:
            self.pending.result()

    def folders(self) -> list[Path]:
        """Those of complete checkpoints, the newest last."""
        return sorted(path for path in self.root.glob("step-????????") if (path / STATE).is_file())

    def remove(self) -> None:
        """Remove all: the stage is finished."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _write(
        self, folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], epoch: int
    ) -> None:
        if not folder.exists():
            save(folder, tensors, state)
        kept = self.root.with_name("epochs") / f"epoch-{epoch:04d}"
        if epoch and not kept.exists():
            save(kept, tensors, state)
        newest = self.folders()[-self.kept :]
        for path in self.root.glob("step-*"):  # older ones, and what an interruption left half-written
            if path not in newest:
                shutil.rmtree(path)
        if self.copy:
            self.copy(newest)


def _step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"
