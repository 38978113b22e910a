"""Checkpoints: a folder of safetensors and one JSON file, the same whatever the ranks, precision or ZeRO stage.

    model.safetensors       the trained weights and statistics
    best.safetensors        those of the best epoch so far          (only while training)
    optimizer.safetensors   the optimiser's tensors, by parameter   (only while training)
    state.json              everything else, and the SHA-256 of the files above

A folder appears under its name complete or not at all. Nothing that is read is unpickled.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from privatenet.data_shards.files import file_sha256, flush_to_disk
from privatenet.distributed.config import ConfigError


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: its folder and the content of its state.json."""

    folder: Path
    state: dict[str, Any]

    def tensors(self, name: str = "model") -> dict[str, Tensor]:
        """Read `name`.safetensors. Raises `ConfigError` where the file is not the one that was written."""
        path = self.folder / f"{name}.safetensors"
        if not path.is_file() or file_sha256(path) != self.state["files"][path.name]:
            raise ConfigError(f"{path}: missing or changed since it was written; train this part again")
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


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def newest(root: Path) -> Checkpoint | None:
    """The checkpoint of `root`'s highest step; None where there is none."""
    folders = sorted(path for path in root.glob("step-????????") if (path / "state.json").is_file())
    return load(folders[-1]) if folders else None


def keep_only(root: Path, kept: Path) -> None:
    """Remove every checkpoint of `root` but `kept`, and what an interruption left half-written."""
    for path in root.glob("step-*"):
        if path != kept:
            shutil.rmtree(path)
