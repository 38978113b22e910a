"""From a frozen network to its features: each picture once, in files that appear whole or not at all.

An interrupted extraction goes on with what is missing; a file that is not the one that was written is computed again.
Every machine has a folder of its own.
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from privatenet.audit.attack.features import (
    ANSWERS,
    DRAWS,
    LOGITS,
    NOISE_SEED,
    SPLITS,
    Features,
    Index,
    Key,
    PictureNoise,
    StoredArray,
    encoded,
    has_shape,
    network_tap,
    read_index,
    releases_of,
    tap_file,
    write_index,
)
from privatenet.data_shards.files import TMP, allocate, file_sha256, flush_to_disk, writing
from privatenet.data_shards.reading.batches import evaluation_batches
from privatenet.data_shards.reading.plan import Rows, evaluation_rows
from privatenet.data_shards.reading.transforms import prepare
from privatenet.distributed import agree
from privatenet.distributed.chance import seeded
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.evaluate import EVALUATION_BATCH
from privatenet.distributed.faces import Faces, Subset
from privatenet.distributed.precision import evaluation_precision, layout, precision
from privatenet.distributed.ranks import Ranks
from privatenet.models.arm import one_by_one
from privatenet.models.channel import CENTRE, ChannelSpec, draw_noise_by
from privatenet.models.network import Network


class Extractor(Protocol):
    """A frozen network that gives features: what decides them, the shape of each tap's for one picture, its channel.

    `LOGITS` are among its taps where it answers with those of the target's classes.
    """

    @property
    def key(self) -> Key: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def channel(self) -> ChannelSpec: ...

    def compute(self, images: Tensor, taps: Collection[str], noise: PictureNoise) -> Mapping[str, Tensor]:
        """The features [B, ...] of `taps` at least, of uint8 pictures [B, 3, H, W]; none depends on another picture.

        What a channel draws for these pictures it draws from `noise`.
        """
        ...


class NetworkExtractor:
    """One of our own networks: in evaluation mode, one picture at a time, whatever its affinity."""

    def __init__(self, network: Network, weights: str, fingerprint: str, engine: EngineConfig, ranks: Ranks) -> None:
        """`weights` is their SHA-256 or a name; `fingerprint` is the data set's."""
        self.network = one_by_one(network).to(ranks.device).eval()
        self.engine, self.ranks = engine, ranks
        self.key = Key(weights, fingerprint, precision(engine, ranks.device), network.spec.image_size)
        self.channel = network.spec.channel
        self.shapes = {**network.tap_shapes, LOGITS: (network.spec.num_classes,)}

    def compute(self, images: Tensor, taps: Collection[str], noise: PictureNoise) -> Mapping[str, Tensor]:
        draw_noise_by(noise, self.network)
        with evaluation_precision(self.engine, self.ranks.device):
            logits, features = self.network(layout(prepare(images, self.network.spec.image_size), self.engine))
            answers = {ANSWERS: self._answers(features[CENTRE])} if ANSWERS in taps else {}
        return {**features, LOGITS: logits, **answers}

    def _answers(self, centres: Tensor) -> Tensor:
        """Logits [B, draws, K] by draws of the noise around `centres`: what follows the channel is all that is run."""
        network = self.network
        return torch.stack([network.answer(network.channel(centres)) for _ in range(DRAWS)], dim=1)


def extract(
    extractor: Extractor, taps: Sequence[str], faces: Faces, ranks: Ranks, root: Path, splits: Sequence[str] = SPLITS
) -> Features:
    """Compute the features of `taps` and the logits that are not there yet; all ranks call it together.

    The ranks of one machine share its samples, and its first one writes the folder's index. Raises `AuditError` where
    the folder holds features of something else.
    """
    key, channel = extractor.key, extractor.channel
    folder = root / key.folder
    answers = [LOGITS] if LOGITS in extractor.shapes else []
    shapes = {tap: extractor.shapes[network_tap(tap)] for tap in (*taps, *answers)}
    kept = {CENTRE if releases_of(tap) and channel.kind == "noise" else tap: shape for tap, shape in shapes.items()}
    several = {ANSWERS: (DRAWS, *extractor.shapes[LOGITS])} if channel.kind == "noise" else {}
    with _alone(folder, ranks):
        for split in splits:
            files = kept | (several if split == "test" else {})
            samples = len(faces.train if split == "train" else faces.test)
            expected = {name: (samples, *shape) for name, shape in files.items()}
            missing_by_rank = agree.everyone(ranks, partial(_missing, folder, key, split, expected, ranks))
            if any(missing_by_rank):  # only then are pictures decoded
                missing = {name: files[name] for name in missing_by_rank[_first_here(ranks)]}
                extraction = _Extraction(extractor, split, faces.everything(split), missing, ranks, folder)
                agree.each(ranks, extraction.lay_out)
                agree.each(ranks, extraction.compute)
                agree.each(ranks, extraction.publish)
    return Features(key, folder, shapes, channel)


@contextmanager
def _alone(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Within the block no other audit on these machines computes into `folder`: a second one waits, and finds what the
    first made. All ranks call it together."""

    def enter() -> None:
        if ranks.first_here:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(folder / f"index-{_first_here(ranks)}.lock"))

    with ExitStack() as stack:
        agree.each(ranks, enter)
        yield


@dataclass(frozen=True)
class _Extraction:
    """The features of one split that a machine lacks: its ranks fill files that their first one lays out and renames.

    Several machines may have been given one folder: the files in work are named by the machine's first rank.
    """

    extractor: Extractor
    split: str
    subset: Subset
    shapes: Mapping[str, tuple[int, ...]]
    ranks: Ranks
    folder: Path

    def lay_out(self) -> None:
        if not self.ranks.first_here or not self.shapes:
            return
        _, first = next(self._features(self.subset.rows[:2]))
        with writing(self.folder):
            (self.folder / self.split).mkdir(parents=True, exist_ok=True)
            try:
                for tap, shape in self.shapes.items():
                    path = self._unfinished(tap)
                    np.lib.format.open_memmap(path, "w+", first[tap].dtype, (len(self.subset.rows), *shape)).flush()
                    allocate(path)
            except OSError:
                for tap in self.shapes:
                    self._unfinished(tap).unlink(missing_ok=True)
                raise

    def compute(self) -> None:
        """Write the rows of this rank's samples."""
        if not self.shapes:
            return
        rows = evaluation_rows(self.subset.rows, self.ranks.local_world_size, self.ranks.local_rank)
        files = {tap: np.lib.format.open_memmap(self._unfinished(tap), "r+") for tap in self.shapes}
        for positions, features in self._features(rows):
            for tap, file in files.items():
                file[positions] = features[tap]
        for file in files.values():
            file.flush()

    def _features(self, rows: Rows) -> Iterator[tuple[Rows, dict[str, StoredArray]]]:
        """The features of `rows`, some of them at a time, as they are kept."""
        for batch in evaluation_batches(self.subset.split, self.subset.pictures, rows, EVALUATION_BATCH):
            positions = batch.positions.cpu().numpy()
            # Seeded for networks of others, which may draw, too.
            with seeded(NOISE_SEED + int(positions[0]), self.ranks.device), torch.inference_mode():
                features = self.extractor.compute(batch.images, self.shapes, PictureNoise(self.split, positions))
            yield positions, {tap: encoded(features[tap]) for tap in self.shapes}  # the host waits for the device here

    def publish(self) -> None:
        """Give the files their names, then write down their sums."""
        if not self.ranks.first_here or not self.shapes:
            return
        sums = {f"{self.split}/{tap}": file_sha256(self._unfinished(tap)) for tap in self.shapes}
        for tap in self.shapes:
            self._unfinished(tap).replace(tap_file(self.folder, self.split, tap))
        flush_to_disk(self.folder / self.split)
        key = self.extractor.key
        index = read_index(self.folder, key)
        write_index(self.folder, Index(key, index.sums | sums), f"index-{_first_here(self.ranks)}")

    def _unfinished(self, tap: str) -> Path:
        return self.folder / self.split / f"{tap}-{_first_here(self.ranks)}.npy{TMP}"


def _missing(folder: Path, key: Key, split: str, shapes: Mapping[str, tuple[int, ...]], ranks: Ranks) -> list[str]:
    """Taps without a file, or whose file is not the one that was written: a line says so. By a machine's first rank."""
    if not ranks.first_here:
        return []
    sums = read_index(folder, key).sums
    missing = []
    for tap, shape in shapes.items():
        path = tap_file(folder, split, tap)
        if path.is_file() and file_sha256(path) == sums.get(f"{split}/{tap}") and has_shape(path, shape):
            continue
        if path.is_file():
            print(f"privatenet: {path}: is not the file that was written, computed again", file=sys.stderr)
        missing.append(tap)
    return missing


def _first_here(ranks: Ranks) -> int:
    """The first rank of this machine."""
    return ranks.rank - ranks.local_rank
