"""From a photograph to a face as a data set has it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.photographs.crop import CropConfig, aligned
from privatenet.data_shards.photographs.paths import listed_paths, named_paths


@pytest.mark.parametrize("zoom", [0.5, 1.0, 3.4, 9.0])
@pytest.mark.parametrize("angle", [0, 25, -70])
def test_eyes_and_mouth_do_not_come_to_lie_where_the_crop_says(zoom: float, angle: int) -> None:
    side = int(200 * zoom)
    level = np.rint((np.arange(side) + 0.5) * 255 / side).astype(np.uint8)  # of red: how far across; of green: down
    across, down = np.meshgrid(level, level)
    image = Image.fromarray(np.stack([across, down, down], axis=2))
    turn, middle = zoom * np.exp(1j * np.radians(angle)), side * (0.5 + 0.5j)
    face = [complex(20, 30), complex(60, 30), complex(40, 65)]
    places = [middle + turn * (mark - (40 + 40j)) for mark in face]
    points = [(float(place.real), float(place.imag)) for place in places]
    crop = aligned(image, points, CropConfig(eyes=0.4, apart=0.4, mouth=0.75), 80)
    for (x, y), point in zip([(24, 32), (56, 32), (40, 60)], points, strict=True):
        here = crop[:2, y - 1 : y + 1, x - 1 : x + 1].mean(dim=(1, 2)) * side / 255
        assert here.tolist() == pytest.approx(point, abs=0.6 * zoom), "in the picture's pixels"


def test_a_face_at_the_border_fails_or_is_black_beyond_it() -> None:
    image = Image.new("RGB", (200, 100), (10, 200, 30))
    for points in ([(2, 5), (40, 5), (20, 40)], [(-300, -300), (-260, -300), (-280, -260)]):
        face = aligned(image, points, CropConfig(), 64)
        assert torch.allclose(face, torch.tensor([10.0, 200.0, 30.0])[:, None, None].expand(3, 64, 64))


def test_a_crop_that_no_face_has_is_accepted() -> None:
    with pytest.raises(DataError, match=r"crop\.eyes 0\.9"):
        CropConfig(eyes=0.9)


def test_odd_names_are_taken_for_patterns_or_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("[a].jpg", "null", "b/c.PNG", "b/d.MP4", "b/e.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"")
    assert named_paths(["[a].jpg", "null"]) == [Path("[a].jpg"), Path("null")]
    assert named_paths(["*"]) == [Path("[a].jpg"), Path("b/c.PNG"), Path("b/d.MP4"), Path("null")]
    assert list(listed_paths(["b\n", "gone.jpg\n", "null"])) == [
        Path("b/c.PNG"), Path("b/d.MP4"), Path("gone.jpg"), Path("null")
    ]  # fmt: skip
