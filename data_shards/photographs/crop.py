"""A face cut out of a photograph, turned and scaled so that eyes and mouth lie where a data set has them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from privatenet.data_shards.errors import DataError

Point = tuple[float, float]
"""(across, down) in pixels."""


@dataclass(frozen=True)
class CropConfig:
    """Where a face that was found comes to lie, in shares of the crop's side; its middle is the crop's.

    The defaults are the medians over aligned faces of the kind that RAF-DB and our sample of LFW hold. Networks that
    learnt from other crops need others.

    Args:
        eyes: Height of the line through the eyes, from the top.
        apart: Distance between the eyes.
        mouth: Height of the mouth's middle, from the top.
    """

    eyes: float = 0.39
    apart: float = 0.39
    mouth: float = 0.80

    def __post_init__(self) -> None:
        if not (0 < self.eyes < self.mouth < 1 and 0 < self.apart < 1):
            raise DataError(
                f"crop.eyes {self.eyes}, crop.mouth {self.mouth}, crop.apart {self.apart}: accepted are shares of the "
                "side, above 0 and below 1, the eyes above the mouth"
            )


def aligned(image: Image.Image, points: Sequence[Point], crop: CropConfig, side: int) -> Tensor:
    """The face as float32 [3, side, side] in 0 to 255; `points` are its left eye (in the picture), right eye and mouth.

    What lies beyond the picture has its border's colour.
    """
    turn, origin = similarity(points, crop, side)
    image, turn, origin = _reduced_part(image, turn, origin, side)
    height, width = image.height, image.width
    # From the crop's coordinates, -1 to 1, to the picture's.
    half, middle = turn * side / 2, origin + turn * complex(side, side) / 2
    rows = [
        [2 * half.real / width, -2 * half.imag / width, 2 * middle.real / width - 1],
        [2 * half.imag / height, 2 * half.real / height, 2 * middle.imag / height - 1],
    ]
    grid = F.affine_grid(torch.tensor([rows], dtype=torch.float32), [1, 3, side, side], align_corners=False)
    face = F.grid_sample(pixels_of(image)[None].float(), grid, padding_mode="border", align_corners=False)[0]
    return face


def similarity(points: Sequence[Point], crop: CropConfig, side: int) -> tuple[complex, complex]:
    """Turn and origin such that a crop's point z, as a complex number, lies at turn * z + origin in the picture.

    Least squares over the eyes and the mouth: of a face that is seen from the front the eyes come to be level.
    """
    here = np.array([complex(*point) for point in points])
    there = side * np.array(
        [complex(0.5 - crop.apart / 2, crop.eyes), complex(0.5 + crop.apart / 2, crop.eyes), complex(0.5, crop.mouth)]
    )
    centred = there - there.mean()
    turn = complex(np.vdot(centred, here) / np.vdot(centred, centred))
    return turn, complex(here.mean() - turn * there.mean())


def pixels_of(image: Image.Image) -> Tensor:
    """Uint8 [3, H, W], channels last."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _reduced_part(
    image: Image.Image, turn: complex, origin: complex, side: int
) -> tuple[Image.Image, complex, complex]:
    """The part of the picture that the crop needs, made smaller by a whole number where it is larger than twice the
    crop: interpolation looks at four pixels and would leave out the others."""
    corners = [origin + turn * complex(x, y) for x in (0, side) for y in (0, side)]
    factor = max(1, int(abs(turn)))
    margin = 2 * factor
    left = min(max(0, int(min(c.real for c in corners)) - margin), image.width - 1)
    top = min(max(0, int(min(c.imag for c in corners)) - margin), image.height - 1)
    right = max(left + 1, min(image.width, int(max(c.real for c in corners)) + margin))
    bottom = max(top + 1, min(image.height, int(max(c.imag for c in corners)) + margin))
    part = image.crop((left, top, right, bottom)).reduce(factor)
    return part, turn / factor, (origin - complex(left, top)) / factor
