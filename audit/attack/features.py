"""The features of every picture in a frozen network, computed once and kept on disk, memory-mapped, for every attacker.

    features/<network>/index.json       the network, data set and precision, and the SHA-256 of every file below
    features/<network>/train/arm.npy    float32 [N, ...], a row for every sample of the split, in its order
    features/<network>/train/logits.npy

What a noisy channel sends is not kept but drawn from its centres, always alike: one release of every picture, or the
mean of several. What a network with such a channel answers is: for each test picture, by several draws of the noise.

Every machine has a folder of its own. A file appears whole or not at all, so that an interrupted extraction goes on
with what is missing; a file that is not the one that was written is computed again.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from torch import Tensor

from privatenet.audit.errors import AuditError
from privatenet.data_shards import records
from privatenet.data_shards.files import TMP, allocate, file_sha256, flush_to_disk, writing
from privatenet.data_shards.reading.batches import evaluation_batches
from privatenet.data_shards.reading.plan import evaluation_rows
from privatenet.data_shards.reading.transforms import prepare
from privatenet.distributed import agree
from privatenet.distributed.chance import seeded
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.evaluate import EVALUATION_BATCH
from privatenet.distributed.faces import Faces, Subset
from privatenet.distributed.precision import evaluation_precision, layout
from privatenet.distributed.ranks import Ranks
from privatenet.models.arm import one_by_one
from privatenet.models.channel import CENTRE, RELEASE, ChannelSpec
from privatenet.models.network import Network

SPLITS = ("train", "test")
LOGITS = "logits"
LABEL = "label"
"""Of an audit: the class with the largest of the logits, and nothing else."""
ANSWERS = "answers"
"""The file of logits by several draws of a channel's noise; no tap, nobody attacks it."""
DRAWS = 20
SEVERAL = "_x"
"""In `release_x10`: what ten releases of one picture tell, by their mean."""
NOISE_SEED = 20_260
INDEX = "index.json"

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Key:
    """What decides features: `network` is the SHA-256 of the checkpoint's weights, or the name of other ones."""

    network: str
    fingerprint: str
    precision: str
    image_size: int

    @property
    def folder(self) -> str:
        """A name that differs where the network, the data set or the precision does."""
        return f"{self.network[:12]}-{self.fingerprint[:8]}-{self.precision}"


@dataclass(frozen=True)
class Index:
    """What index.json holds: whose features these are, and by "split/tap" the SHA-256 of its file."""

    key: Key
    sums: dict[str, str] = field(default_factory=dict)


_INDEX = TypeAdapter(Index)


@dataclass(frozen=True)
class Features:
    """The taps of one network over both splits; `array` maps a file when asked for it."""

    key: Key
    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    channel: ChannelSpec
    _drawn: dict[str, tuple[str, Array]] = field(default_factory=dict, compare=False, repr=False)
    """By split what was drawn of noisy releases last, as every attacker asks for it."""

    @property
    def draws(self) -> int:
        """Of the channel's noise, in `answers`."""
        return DRAWS if self.channel.kind == "noise" else 1

    def answers(self, split: str) -> Array:
        """The network's logits, float32 [N, draws, K]; of a noisy channel, of the test split only."""
        return self.array(split, ANSWERS) if self.draws > 1 else self.array(split, LOGITS)[:, None]

    def array(self, split: str, tap: str) -> Array:
        """Float32 [N, *shape of the tap], read-only, on disk; what is sent by a noisy channel in memory."""
        releases = releases_of(tap)
        if not releases or self.channel.kind != "noise":
            mapped: Array = np.load(_file(self.folder, split, tap), mmap_mode="r")
            return mapped
        if self._drawn.get(split, ("",))[0] != tap:
            centres = self.array(split, CENTRE)
            rng = np.random.default_rng([NOISE_SEED, SPLITS.index(split), releases])
            noise = rng.standard_normal(centres.shape, dtype=np.float32)
            self._drawn[split] = tap, centres + np.float32(self.sigma(tap)) * noise
        return self._drawn[split][1]

    def sigma(self, tap: str) -> float:
        """The standard deviation of the noise at `tap`; 0 where there is none."""
        releases = releases_of(tap) if self.channel.kind == "noise" else 0
        return self.channel.sigma / math.sqrt(releases) if releases else 0.0


def releases_of(tap: str) -> int:
    """How many releases of a picture an attacker at `tap` has, their mean; 0 where `tap` is not what is sent."""
    name, _, count = tap.partition(SEVERAL)
    return int(count or 1) if name == RELEASE else 0


def network_tap(tap: str) -> str:
    """The network's own tap that an audit's `tap` is of: `release` for `release_x10`."""
    return tap.partition(SEVERAL)[0]


def extract(
    network: Network, key: Key, taps: Sequence[str], faces: Faces, engine: EngineConfig, ranks: Ranks, root: Path,
    splits: Sequence[str] = SPLITS,
) -> Features:  # fmt: skip
    """Compute the features of `taps` and the logits that are not there yet; all ranks call it together.

    The ranks of one machine share its samples, and its first one writes the folder's index. In evaluation mode, and no
    picture's features depend on another picture, whatever the network's affinity. Raises `AuditError` where the folder
    holds features of something else.
    """
    folder = root / key.folder
    channel = network.spec.channel
    all_shapes = {**network.tap_shapes, LOGITS: (network.spec.num_classes,)}
    shapes = {tap: all_shapes[network_tap(tap)] for tap in (*taps, LOGITS)}
    kept = {CENTRE if releases_of(tap) and channel.kind == "noise" else tap: shape for tap, shape in shapes.items()}
    answers = {ANSWERS: (DRAWS, network.spec.num_classes)} if channel.kind == "noise" else {}
    network = one_by_one(network).to(ranks.device).eval()
    for split in splits:
        files = kept | (answers if split == "test" else {})
        samples = len(faces.train if split == "train" else faces.test)
        expected = {name: (samples, *shape) for name, shape in files.items()}
        missing_by_rank = agree.everyone(ranks, partial(_missing, folder, key, split, expected, ranks))
        if any(missing_by_rank):  # only then are pictures decoded
            missing = {name: files[name] for name in missing_by_rank[_first_here(ranks)]}
            extraction = _Extraction(network, key, split, faces.everything(split), missing, engine, ranks, folder)
            agree.each(ranks, extraction.lay_out)
            agree.each(ranks, extraction.compute)
            agree.each(ranks, extraction.publish)
    return Features(key, folder, shapes, channel)


@dataclass(frozen=True)
class _Extraction:
    """The features of one split that a machine lacks: its ranks fill files that their first one lays out and renames.

    Several machines may have been given one folder: the files in work are named by the machine's first rank.
    """

    network: Network
    key: Key
    split: str
    subset: Subset
    shapes: Mapping[str, tuple[int, ...]]
    engine: EngineConfig
    ranks: Ranks
    folder: Path

    def lay_out(self) -> None:
        if not self.ranks.first_here or not self.shapes:
            return
        with writing(self.folder):
            (self.folder / self.split).mkdir(parents=True, exist_ok=True)
            try:
                for tap, shape in self.shapes.items():
                    path = self._unfinished(tap)
                    np.lib.format.open_memmap(path, "w+", np.float32, (len(self.subset.rows), *shape)).flush()
                    allocate(path)
            except OSError:
                for tap in self.shapes:
                    self._unfinished(tap).unlink(missing_ok=True)
                raise

    def compute(self) -> None:
        """Write the rows of this rank's samples."""
        if not self.shapes:
            return
        subset = self.subset
        rows = evaluation_rows(subset.rows, self.ranks.local_world_size, self.ranks.local_rank)
        files = {tap: np.lib.format.open_memmap(self._unfinished(tap), "r+") for tap in self.shapes}
        chance = seeded(NOISE_SEED + self.ranks.local_rank, self.ranks.device)
        with chance, evaluation_precision(self.engine, self.ranks.device):
            for batch in evaluation_batches(subset.split, subset.pictures, rows, EVALUATION_BATCH):
                images = layout(prepare(batch.images, self.network.spec.image_size), self.engine)
                logits, taps = self.network(images)
                positions = batch.positions.cpu().numpy()
                if ANSWERS in files:
                    taps[ANSWERS] = self._answers(taps[CENTRE])
                for name, file in files.items():
                    values = logits if name == LOGITS else taps[name]
                    file[positions] = values.float().cpu().numpy()  # the host waits for the device here
        for file in files.values():
            file.flush()

    def _answers(self, centres: Tensor) -> Tensor:
        """Logits [B, draws, K] by draws of the noise around `centres`: what follows the channel is all that is run."""
        network = self.network
        return torch.stack([network.answer(network.channel(centres)) for _ in range(DRAWS)], dim=1)

    def publish(self) -> None:
        """Give the files their names, then write down their sums."""
        if not self.ranks.first_here or not self.shapes:
            return
        sums = {f"{self.split}/{tap}": file_sha256(self._unfinished(tap)) for tap in self.shapes}
        for tap in self.shapes:
            self._unfinished(tap).replace(_file(self.folder, self.split, tap))
        flush_to_disk(self.folder / self.split)
        index = _read_index(self.folder, self.key)
        unfinished = self.folder / f"index-{_first_here(self.ranks)}.json"
        records.write(_INDEX, Index(self.key, index.sums | sums), unfinished)
        unfinished.replace(self.folder / INDEX)

    def _unfinished(self, tap: str) -> Path:
        return self.folder / self.split / f"{tap}-{_first_here(self.ranks)}.npy{TMP}"


def _missing(folder: Path, key: Key, split: str, shapes: Mapping[str, tuple[int, ...]], ranks: Ranks) -> list[str]:
    """Taps without a file, or whose file is not the one that was written: a line says so. By a machine's first rank."""
    if not ranks.first_here:
        return []
    sums = _read_index(folder, key).sums
    missing = []
    for tap, shape in shapes.items():
        path = _file(folder, split, tap)
        if path.is_file() and file_sha256(path) == sums.get(f"{split}/{tap}") and has_shape(path, shape):
            continue
        if path.is_file():
            print(f"privatenet: {path}: is not the file that was written, computed again", file=sys.stderr)
        missing.append(tap)
    return missing


def has_shape(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a file holds float32 of this shape; nothing in it is unpickled."""
    try:
        mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # NumPy's reader of a meddled header raises what it likes; it is not what was written
        return False
    return mapped.dtype == np.float32 and mapped.shape == shape


def _read_index(folder: Path, key: Key) -> Index:
    if not (folder / INDEX).is_file():
        return Index(key)
    index = records.read(_INDEX, folder / INDEX, "index of features", AuditError)
    expected, actual = asdict(key), asdict(index.key)
    wrong = [f"{name} is {actual[name]}, not {value}" for name, value in expected.items() if actual[name] != value]
    if wrong:
        raise AuditError(f"{folder}: holds features of something else ({'; '.join(wrong)}); remove that folder")
    return index


def _first_here(ranks: Ranks) -> int:
    """The first rank of this machine."""
    return ranks.rank - ranks.local_rank


def _file(folder: Path, split: str, tap: str) -> Path:
    return folder / split / f"{tap}.npy"
