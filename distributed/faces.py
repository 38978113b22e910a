"""The data of a run as a stage sees them: what it trains on, what chooses its best model, what it is judged on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.reading.batches import Batch, evaluation_batches
from privatenet.data_shards.reading.cache import Pictures, open_pictures
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.plan import Rows, evaluation_rows, known_rows, protecting_rows, validation_mask
from privatenet.data_shards.shards.manifest import Manifest, load_manifest
from privatenet.data_shards.shards.passing import PassingTars
from privatenet.data_shards.shards.remote import local_copy, passing_copy
from privatenet.data_shards.shards.split import Split, open_split
from privatenet.data_shards.shards.verify import check_sums
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed import agree
from privatenet.distributed.ranks import Ranks


@dataclass(frozen=True)
class Subset:
    """Rows of a split, and the pictures they come from."""

    split: Split
    pictures: Pictures
    rows: Rows


class Faces:
    """A sharded data set, opened once for all stages by all ranks together; pictures when all ask for them."""

    def __init__(self, config: DataConfig, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        agree.each(ranks, self._open_splits)

    def _open_splits(self) -> None:
        config = self.config
        folder, tars = self._fetched(config)
        self.manifest: Manifest = load_manifest(folder)
        self.schema: Schema = self.manifest.schema
        self.fingerprint: str = self.manifest.fingerprint
        self.train, self.test = open_split(folder, "train", tars), open_split(folder, "test", tars)
        targets = self._train_labels(self.schema.target)[:, 0]
        self.held_out = validation_mask(self.train.names, targets, config.validation, persons=self.train.persons)
        if config.validation and not (targets[self.held_out] >= 0).any():
            raise DataError(
                f"{config.shards}: data.validation {config.validation} leaves no sample to choose the best model on"
            )

    def _fetched(self, config: DataConfig) -> tuple[Path, PassingTars | None]:
        """The folder of the shards and, where not all of them stay on this machine, what opens their tars."""
        if not config.disk_gib or "://" not in config.shards:
            return local_copy(config.shards, config.cache), None
        folder, tars = passing_copy(config.shards, config.cache, int(config.disk_gib * 2**30))
        tars.check(config.window)
        return folder, tars

    def training(self, attributes: Sequence[str], protecting: bool = False) -> Subset:
        """Samples of the training split to learn from, in which all `attributes` are known.

        For `protecting` the attributes: in which the target is known, too, or else any of the attributes.
        """
        return Subset(self.train, self._train_pictures, self._train_rows(attributes, protecting, ~self.held_out))

    def validation(self, attributes: Sequence[str], protecting: bool = False) -> Subset:
        """Samples of the training split that no stage learns from, chosen as those of `training`."""
        return Subset(self.train, self._held_out_pictures, self._train_rows(attributes, protecting, self.held_out))

    def testing(self) -> Subset:
        """The whole test split."""
        return Subset(self.test, self._test_pictures, np.arange(len(self.test), dtype=np.int64))

    def everything(self, split: str) -> Subset:
        """Every sample of the split "train" or "test"."""
        if split == "test":
            return self.testing()
        return Subset(self.train, self._train_pictures, np.arange(len(self.train), dtype=np.int64))

    def batches(self, subset: Subset, batch_size: int) -> Iterator[Batch]:
        """This rank's share of `subset`, each sample once over all ranks."""
        rows = evaluation_rows(subset.rows, self.ranks.world_size, self.ranks.rank)
        return evaluation_batches(subset.split, subset.pictures, rows, batch_size)

    def class_frequencies(self, attribute: str) -> Tensor:
        """Share of each class among the training samples whose label is known, float32 [K]."""
        labels = self.train.labels[~self.held_out, self.schema.names.index(attribute)]
        counts = np.bincount(labels[labels >= 0], minlength=len(self.schema.attribute(attribute).classes))
        return torch.from_numpy(counts / counts.sum()).float()

    def _train_rows(self, attributes: Sequence[str], protecting: bool, mask: np.ndarray) -> Rows:
        labels, targets = self._train_labels(*attributes), self._train_labels(self.schema.target)[:, 0]
        chosen = protecting_rows(targets, labels) if protecting else known_rows(labels)
        rows: Rows = chosen[mask[chosen]]
        return rows

    def _train_labels(self, *attributes: str) -> npt.NDArray[np.int64]:
        """Of the training split, int64 [N, A]."""
        columns = [self.schema.names.index(self.schema.attribute(name).name) for name in attributes]
        return self.train.labels[:, columns]

    @cached_property
    def _train_pictures(self) -> Pictures:
        return self._open(self.train)

    @cached_property
    def _held_out_pictures(self) -> Pictures:
        """Where shards do not stay here, kept if there is memory: they lie in all shards, and are looked at often."""
        if not self.train.tars:
            return self._train_pictures
        rows, config = np.flatnonzero(self.held_out), replace(self.config, cache="")
        return agree.each(self.ranks, lambda: open_pictures(self.train, rows, self.ranks.device, config))

    @cached_property
    def _test_pictures(self) -> Pictures:
        return self._open(self.test)

    def _open(self, split: Split) -> Pictures:
        """Check the split's sums on each machine, then open its pictures; all ranks call this together."""
        every = np.arange(len(split))
        if not split.tars:  # which are checked as they come
            agree.each(self.ranks, lambda: check_sums(split, self.config.workers) if self.ranks.first_here else None)
        return agree.each(self.ranks, lambda: open_pictures(split, every, self.ranks.device, self.config))
