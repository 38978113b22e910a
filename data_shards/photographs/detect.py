"""Faces in photographs, by MTCNN as facenet-pytorch has it: the extra `privatenet[detect]`.

Chosen because its weights (2 MB) lie in its wheel, it runs on the torch that is here, CPU or GPU, and it says where
eyes and mouth are. Of 200 faces of our sample of LFW it found all, with both eyes. OpenCV's cascades, in its wheel up
to version 4, found 198, and both eyes of 157; the wheels of MediaPipe 1 and OpenCV 5 hold no detector's weights.

Zhang, Zhang, Li and Qiao, "Joint face detection and alignment using multitask cascaded convolutional networks", 2016.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.photographs.crop import Point

LONGEST = 1280
"""Larger pictures are looked at in this size, by their longer side, in pixels."""
SMALLEST = 24
"""Side of the smallest face that is looked for, in such pixels."""
_THRESHOLDS = [0.6, 0.7, 0.9]
"""Of the three networks; the last one's is higher than usual, as plain surfaces are taken for faces else."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""


@dataclass(frozen=True)
class FoundFace:
    """A face's box, and where its left eye (in the picture), its right one and its mouth's middle are."""

    box: Box
    points: Sequence[Point]


class Detector:
    """Finds faces. DataError where facenet-pytorch is not installed."""

    def __init__(self, device: torch.device) -> None:
        try:
            from facenet_pytorch import MTCNN
        except ImportError as error:
            raise DataError(
                "detect: needs facenet-pytorch, which is not installed: pip install 'privatenet[detect]'"
            ) from error
        self.mtcnn = MTCNN(min_face_size=SMALLEST, thresholds=_THRESHOLDS, device=device)

    def find(self, image: Image.Image) -> list[FoundFace]:
        """The faces in an RGB picture, the largest first."""
        scale = max(1.0, max(image.size) / LONGEST)
        small = image.resize((round(image.width / scale), round(image.height / scale))) if scale > 1 else image
        if min(small.size) < SMALLEST:
            return []
        boxes, _, points = self.mtcnn.detect(small, landmarks=True)
        if boxes is None:
            return []
        found = []
        for (left, top, right, bottom), marks in zip(scale * boxes, scale * points, strict=True):
            one_eye, other_eye, _, *mouth = marks.tolist()
            middle = ((mouth[0][0] + mouth[1][0]) / 2, (mouth[0][1] + mouth[1][1]) / 2)
            box = (float(left), float(top), float(right), float(bottom))
            found.append(FoundFace(box, [tuple(one_eye), tuple(other_eye), middle]))
        return found
