"""From paths to the faces that a network looks at: read, found and cut by threads, ahead of whoever asks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from privatenet.data_shards.photographs.crop import CropConfig, aligned, pixels_of
from privatenet.data_shards.photographs.detect import Box, Detector
from privatenet.data_shards.photographs.frame import Frame, read_picture
from privatenet.data_shards.photographs.paths import is_video
from privatenet.data_shards.photographs.video import read_video
from privatenet.data_shards.reading.ahead import ahead
from privatenet.data_shards.reading.transforms import resize


@dataclass(frozen=True)
class FrameFaces:
    """The faces of a frame: float32 [N, 3, S, S] in 0 to 255, and their boxes, None for one that is the whole picture.

    The frame's image is there only where it was asked for.
    """

    frame: Frame
    faces: Tensor
    boxes: tuple[Box | None, ...]


@dataclass(frozen=True)
class FaceReader:
    """Reads paths as faces of `size` pixels: each picture one face, as in a data set, or with a `detector` those that
    it finds, as `crop` says. Of a video each `every`-th frame is taken."""

    size: int
    every: int
    detector: Detector | None
    crop: CropConfig
    keep_images: bool
    threads: int

    def read(self, paths: Iterable[Path]) -> Iterator[FrameFaces]:
        """Yield the faces of each picture or frame, in order."""
        return ahead(self._faces, self._items(paths), self.threads)

    def _items(self, paths: Iterable[Path]) -> Iterator[Path | Frame]:
        for path in paths:
            if is_video(path):
                yield from read_video(path, self.every)
            else:
                yield path

    def _faces(self, item: Path | Frame) -> FrameFaces:
        frame = item if isinstance(item, Frame) else read_picture(item)
        faces: list[Tensor] = []
        boxes: list[Box | None] = []
        if frame.image and self.detector:
            for found in self.detector.find(frame.image):
                faces.append(aligned(frame.image, found.points, self.crop, self.size))
                boxes.append(found.box)
        elif frame.image:
            # As in evaluation; pictures of a folder differ in size, so each by itself.
            faces.append(resize(pixels_of(frame.image)[None], self.size)[0].float())
            boxes.append(None)
        pixels = torch.stack(faces) if faces else torch.empty(0, 3, self.size, self.size)
        return FrameFaces(frame if self.keep_images else replace(frame, image=None), pixels, tuple(boxes))
