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
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from privatenet.data_shards.files import file_sha256, flush_to_disk
from privatenet.distributed.errors import ConfigError


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: its folder and the content of its state.json."""

    folder: Path
    state: dict[str, Any]

    def tensors(self, name: str = "model") -> dict[str, Tensor]:
        """Read `name`.safetensors. Raises `ConfigError` where the file is not the one that was written."""
        path = self.folder / f"{name}.safetensors"
        if not path.is_file() or file_sha256(path) != self.state["files"][path.name]:
            raise ConfigError(f"{path}: missing or changed since it was written; train this stage again")
        return load_file(path)

    @property
    def hash(self) -> str:
        """SHA-256 of the weights: what caches and runs refer to."""
        return str(self.state["files"]["model.safetensors"])


def save(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Checkpoint:
    """Write a checkpoint by one process: to a temporary folder, to the disk, then renamed to `folder`, which is new."""
    work = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    files = {}
    for name, values in tensors.items():
        path = work / f"{name}.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in values.items()}, path)
        flush_to_disk(path)
        files[path.name] = file_sha256(path)
    complete = {**state, "files": files}
    (work / "state.json").write_text(json.dumps(complete, indent=1) + "\n")
    flush_to_disk(work / "state.json")
    flush_to_disk(work)
    work.rename(folder)
    flush_to_disk(folder.parent)
    return Checkpoint(folder, complete)


def load(folder: Path) -> Checkpoint:
    """Open a checkpoint folder. Raises `ConfigError` where it holds none."""
    path = folder / "state.json"
    try:
        return Checkpoint(folder, json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{folder}: holds no complete checkpoint (state.json: {error})") from error


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Store:
    """The checkpoints of one stage while it trains, below `root`: written one at a time, off the calling thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.pending: Future[None] | None = None

    def write(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Begin to write the checkpoint of `step`, after the one before; only the newest is kept.

        `tensors` must not change from here on. Raises what went wrong with the one before.
        """
        self.wait()
        self.pending = self.pool.submit(self._write, _step_folder(self.root, step), tensors, state)

    def wait(self) -> None:
        """Until all is written; raises what went wrong with the last one."""
        if self.pending:
            self.pending.result()

    def newest(self) -> Checkpoint | None:
        """The checkpoint of the highest step; None where there is none."""
        folders = sorted(path for path in self.root.glob("step-????????") if (path / "state.json").is_file())
        return load(folders[-1]) if folders else None

    def remove(self) -> None:
        """Remove all: the stage is finished."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _write(self, folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        if not folder.exists():
            save(folder, tensors, state)
        for path in self.root.glob("step-*"):  # older ones, and what an interruption left half-written
            if path != folder:
                shutil.rmtree(path)


def _step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"
