"""What a frozen network shows of every picture, computed once and kept on disk, memory-mapped, for every attacker.

    features/<network>/key.json         whose features these are: checkpoint, data set, precision, and each tap's shape
    features/<network>/train/arm.npy    float32 [N, ...], a row for every sample of the split, in its order
    features/<network>/train/logits.npy

A file appears whole or not at all, so that an interrupted extraction goes on with what is missing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.distributed as dist

from privatenet.audit.errors import AuditError
from privatenet.data_shards.files import TMP, flush_to_disk, replacing
from privatenet.data_shards.reading.transforms import prepare
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.engine import evaluation_precision, layout
from privatenet.distributed.evaluate import EVALUATION_BATCH
from privatenet.distributed.faces import Faces, Subset
from privatenet.distributed.ranks import Ranks
from privatenet.models.arm import one_by_one
from privatenet.models.network import Network

SPLITS = ("train", "test")
LOGITS = "logits"

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Key:
    """What decides features: `network` is the SHA-256 of the checkpoint's weights, or the name of untrained ones."""

    network: str
    fingerprint: str
    precision: str
    image_size: int

    @property
    def folder(self) -> str:
        """A name that differs where the network, the data set or the precision does."""
        return f"{self.network[:12]}-{self.fingerprint[:8]}-{self.precision}"


class Features:
    """The taps of one network over both splits; `array` maps a file when asked for it."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.folder, self.shapes = folder, dict(shapes)

    def array(self, split: str, tap: str) -> Array:
        """Float32 [N, *shape of the tap], read-only, on disk."""
        mapped: Array = np.load(_file(self.folder, split, tap), mmap_mode="r")
        return mapped


def extract(
    network: Network, key: Key, taps: Sequence[str], faces: Faces, engine: EngineConfig, ranks: Ranks, root: Path,
    splits: Sequence[str] = SPLITS,
) -> Features:  # fmt: skip
    """Compute the features of `taps` and the logits that are not there yet; all ranks call it together.

    In evaluation mode, and no picture's features depend on another picture, whatever the network's affinity.
    Raises `AuditError` where the folder holds features of something else.
    """
    folder = root / key.folder
    wanted = [*taps, LOGITS]
    shapes = {**network.tap_shapes, LOGITS: (network.spec.num_classes,)}
    _check_key(folder, key)
    sizes = {"train": len(faces.train), "test": len(faces.test)}
    missing = {split: [tap for tap in wanted if not _whole(folder, split, tap, sizes[split])] for split in splits}
    dist.barrier()  # all ranks have looked before the first one writes
    network = one_by_one(network).to(ranks.device).eval()
    for split, lacking in missing.items():
        if lacking:  # only then are pictures decoded
            part = faces.everything(split)
            _extract_split(network, lacking, shapes, part, faces, engine, ranks, folder / split)
    if ranks.first:
        with replacing(folder / "key.json") as stream:
            stream.write(json.dumps(asdict(key), indent=1).encode() + b"\n")
    dist.barrier()
    return Features(folder, {tap: tuple(shapes[tap]) for tap in wanted})


def _extract_split(
    network: Network,
    taps: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    part: Subset,
    faces: Faces,
    engine: EngineConfig,
    ranks: Ranks,
    folder: Path,
) -> None:
    """Every rank writes the rows of its own samples into files that the first one has laid out."""
    parts = {tap: folder / f"{tap}.npy{TMP}" for tap in taps}
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        for tap, path in parts.items():
            np.lib.format.open_memmap(path, "w+", np.float32, (len(part.rows), *shapes[tap])).flush()
    dist.barrier()
    files = {tap: np.lib.format.open_memmap(path, "r+") for tap, path in parts.items()}
    with evaluation_precision(engine, ranks.device):
        for batch in faces.batches(part, EVALUATION_BATCH):
            logits, shown = network(layout(prepare(batch.images, network.spec.image_size), engine))
            rows = batch.positions.cpu().numpy()
            for tap in taps:
                values = logits if tap == LOGITS else shown[tap]
                files[tap][rows] = values.float().cpu().numpy()  # the host waits for the device here
    for file in files.values():
        file.flush()
    dist.barrier()
    if ranks.first:
        for tap, path in parts.items():
            path.replace(_file(folder.parent, folder.name, tap))
        flush_to_disk(folder)


def _file(folder: Path, split: str, tap: str) -> Path:
    return folder / split / f"{tap}.npy"


def _whole(folder: Path, split: str, tap: str, samples: int) -> bool:
    path = _file(folder, split, tap)
    if not path.is_file():
        return False
    try:
        found = np.load(path, mmap_mode="r").shape[0]
    except ValueError as error:
        raise AuditError(f"{path}: is damaged ({error}); remove it, it will be computed again") from error
    if found != samples:
        raise AuditError(f"{path}: holds {found} samples, the split has {samples}; remove {folder}")
    return True


def _check_key(folder: Path, key: Key) -> None:
    path = folder / "key.json"
    if not path.is_file():
        return
    found: dict[str, Any] = json.loads(path.read_text())
    wrong = [
        f"{name} is {found.get(name)}, not {value}" for name, value in asdict(key).items() if found.get(name) != value
    ]
    if wrong:
        raise AuditError(f"{folder}: holds features of something else ({'; '.join(wrong)}); remove that folder")
