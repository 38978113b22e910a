"""From shards to pictures: streamed, kept, augmented; beside bare decoding of the same bytes by the fastest decoder.

The paper's own pipeline takes one picture at a time: decode, flip or noise, resize to 224 px, normalise, erase.
"""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import webdataset
from PIL import Image
from torchvision.transforms import v2

from privatenet.data_shards.reading.batches import training_batches
from privatenet.data_shards.reading.cache import CachedPictures, Pictures, StreamedPictures
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.decode import decode
from privatenet.data_shards.reading.plan import DataState, TrainingPlan
from privatenet.data_shards.reading.transforms import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, augment
from privatenet.data_shards.shards.split import Split, open_split
from privatenet.distributed.ranks import Ranks
from privatenet.launch.bench.figures import Figure
from privatenet.launch.bench.sharding import sharding_figures
from privatenet.launch.bench.timing import Case, measure, one_core

BATCH = 64
SAMPLES = 1024
"""Pictures of the training split that take part, at most."""
EPOCHS = 16
CPU, ONE = torch.device("cpu"), "loader, one core: "


def loader_figures(folder: Path, repeats: int, ranks: Ranks) -> list[Figure]:
    """Reading and preparing the training split of `folder`; on a GPU, preparing there too."""
    split = open_split(folder, "train")
    rows = np.arange(min(len(split), SAMPLES) // BATCH * BATCH)
    streamed, pixels = StreamedPictures(split, CPU), decode(split, rows).permute(0, 2, 3, 1)
    number, bare, paper = len(rows), f"{ONE}bare decoding", f"{ONE}the paper's pipeline, 224 px"
    jpegs = list(_bytes(split, rows))
    with one_core():
        kept = CachedPictures(split, rows, pixels, CPU)
        cases = [
            Case(bare, lambda: _decode(jpegs), number),
            Case(f"{ONE}streaming", _reader(split, streamed, rows, 1), EPOCHS * number, limit=bare),
            Case(f"{ONE}webdataset's own reading", lambda: _webdataset(split, number), number, limit=bare),
            Case(f"{ONE}kept pictures", _reader(split, kept, rows, 1), EPOCHS * number, limit=bare),
            Case(paper, lambda: _paper(jpegs[:BATCH]), BATCH),
        ]
        cases += [
            Case(f"{ONE}kept, augmented, {size} px", _augmented(kept, rows[:BATCH], size), BATCH, limit=paper)
            for size in (72, 112, 224)
        ]
        figures = measure(cases, repeats, replace(ranks, device=CPU))
    one = "loader, one thread: streaming"
    cases = [
        Case(one, _reader(split, streamed, rows, 1), EPOCHS * number),
        Case("loader, two threads: streaming", _reader(split, streamed, rows, 2), EPOCHS * number, limit=one),
    ]
    figures += measure(cases, repeats, replace(ranks, device=CPU))
    figures += sharding_figures(split, number, repeats)
    if ranks.device.type == "cuda":
        on_gpu, batch = CachedPictures(split, rows, pixels, ranks.device), rows[: 4 * BATCH]
        theirs = "loader: the paper's pipeline, 224 px"
        cases = [
            Case("loader, GPU: kept, augmented, 224 px", _augmented(on_gpu, batch, 224), len(batch), limit=theirs),
            Case(theirs, lambda: _paper(jpegs[:BATCH]), BATCH),
        ]
        figures += measure(cases, repeats, ranks)
    return figures


def _reader(split: Split, pictures: Pictures, rows: np.ndarray, threads: int) -> Callable[[], object]:
    """Some epochs of batches, as training gets them: what threads have read ahead at the end is then little of it."""
    plan = TrainingPlan(rows, split.shard[rows], BATCH)
    config = DataConfig(workers=threads)

    def read() -> None:
        for _, state in training_batches(split, pictures, plan, DataState(), config):
            if state == DataState(EPOCHS - 1, plan.samples_per_epoch):
                return

    return read


def _augmented(pictures: Pictures, rows: np.ndarray, size: int) -> Callable[[], object]:
    positions = torch.from_numpy(rows).to(pictures.device)
    return lambda: augment(pictures.fetch(rows), size, AugmentConfig(), 0, positions)


def _bytes(split: Split, rows: np.ndarray) -> Iterator[bytes]:
    for row in rows:
        file = os.open(split.paths[split.shard[row]], os.O_RDONLY)
        yield os.pread(file, int(split.sizes[row]), int(split.offsets[row]))
        os.close(file)


def _decode(jpegs: list[bytes]) -> None:
    for data in jpegs:
        simplejpeg.decode_jpeg(data)


def _webdataset(split: Split, number: int) -> None:
    reader = webdataset.WebDataset([str(path) for path in split.paths], shardshuffle=False).decode("rgb8")
    for count, _ in enumerate(reader, 1):
        if count == number:
            return


_FINISH = v2.Compose(
    [
        v2.Resize((224, 224)),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        v2.RandomErasing(0.5, (0.02, 0.1)),
    ]
)


def _paper(jpegs: list[bytes]) -> None:
    chance = np.random.default_rng(0)
    for data in jpegs:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        choice = chance.random()
        if choice < 0.25:
            pixels = pixels[:, ::-1]
        elif choice < 0.5:
            noisy = pixels + chance.normal(0, 30**0.5, pixels.shape)
            pixels = np.clip(noisy, 0, 255).astype(np.uint8)
        _FINISH(Image.fromarray(np.ascontiguousarray(pixels)))
