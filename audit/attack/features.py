"""The features of every picture in a frozen network, kept on disk, memory-mapped, for every attacker.

    features/<network>/index.json       the network, data set and precision, and the SHA-256 of every file below
    features/<network>/train/arm.npy    [N, ...], a row for every sample of the split, in its order
    features/<network>/train/logits.npy

Numbers are kept as the network made them, in float32, float16 or bfloat16. NumPy has no bfloat16: these are integers of
the same bits, in a field of that name.

What a noisy channel sends is not kept but drawn from its centres, always alike: one release of every picture, or the
mean of several. What a network with such a channel answers is: for each test picture, by several draws of the noise.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from torch import Tensor

from privatenet.audit.errors import AuditError
from privatenet.data_shards import records
from privatenet.data_shards.files import TMP
from privatenet.data_shards.reading.plan import Rows
from privatenet.models.channel import CENTRE, RELEASE, ChannelSpec

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
StoredArray = npt.NDArray[Any]
"""Of one of the types that numbers are kept in."""
BFLOAT16 = np.dtype([("bfloat16", "<u2")])


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
    """The taps of one network over both splits, read when asked for."""

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
        """Float32 [N, *shape of the tap], not to be written to."""
        return decoded(self.stored(split, tap))

    def stored(self, split: str, tap: str) -> StoredArray:
        """[N, *shape of the tap], read-only, to be `decoded`: on disk; what is sent by a noisy channel in memory."""
        releases = releases_of(tap)
        if not releases or self.channel.kind != "noise":
            mapped: StoredArray = np.load(tap_file(self.folder, split, tap), mmap_mode="r")
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
    return RELEASE if releases_of(tap) else tap


class PictureNoise:
    """Standard Gaussian numbers for a batch of a split's pictures: for each picture its own, whatever batch it is in,
    and with each call further ones. NumPy draws them, also for a GPU: some ten nanoseconds a number."""

    def __init__(self, split: str, rows: Rows) -> None:
        """`rows` are the pictures' places in the split."""
        self.split, self.rows = split, rows

    @cached_property
    def _generators(self) -> list[np.random.Generator]:
        return [np.random.default_rng([NOISE_SEED, SPLITS.index(self.split), 0, row]) for row in self.rows]

    def __call__(self, like: Tensor) -> Tensor:
        """Of the shape and on the device of `like` [B, ...]."""
        noise = [rng.standard_normal(like.shape[1:], dtype=np.float32) for rng in self._generators]
        return torch.from_numpy(np.stack(noise)).to(like)


def encoded(features: Tensor) -> StoredArray:
    """Features as they are kept; of other types than those that are, as float32."""
    if features.dtype == torch.bfloat16:
        return features.cpu().view(torch.int16).numpy().view(BFLOAT16)
    return (features if features.dtype == torch.float16 else features.float()).cpu().numpy()


def decoded(stored: StoredArray) -> Array:
    """The same numbers in float32."""
    if stored.dtype == BFLOAT16:
        bits = stored["bfloat16"].astype(np.uint32)
        return np.left_shift(bits, 16, out=bits).view(np.float32)
    return stored.astype(np.float32, copy=False)


def has_shape(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a file holds features of this shape; nothing in it is unpickled."""
    try:
        mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # NumPy's reader of a meddled header raises what it likes; it is not what was written
        return False
    return mapped.dtype in (np.float32, np.float16, BFLOAT16) and mapped.shape == shape


def read_index(folder: Path, key: Key) -> Index:
    """What the folder says of itself; an empty index where it is new. Raises `AuditError` where it is another's."""
    if not (folder / INDEX).is_file():
        return Index(key)
    index = records.read(_INDEX, folder / INDEX, "index of features", AuditError)
    expected, actual = asdict(key), asdict(index.key)
    wrong = [f"{name} is {actual[name]}, not {value}" for name, value in expected.items() if actual[name] != value]
    if wrong:
        raise AuditError(f"{folder}: holds features of something else ({'; '.join(wrong)}); remove that folder")
    return index


def write_index(folder: Path, index: Index, unfinished: str = "index") -> None:
    """Write index.json, whole or not at all, by way of a file whose name begins with `unfinished`."""
    path = folder / f"{unfinished}.json{TMP}"
    records.write(_INDEX, index, path)
    path.replace(folder / INDEX)


def tap_file(folder: Path, split: str, tap: str) -> Path:
    """Where the features of a tap are kept."""
    return folder / split / f"{tap}.npy"
