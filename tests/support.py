"""Settings, types and pictures that several test files use."""

import io
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
"""The source tree."""

TINY = """
data: {{shards: {shards}}}
augment: {{flip: 0.5, noise: 0.25, shift: 0.06, erase: 0.25}}
model: {{backbone: resnet18, weights: none, image_size: 96}}
engine: {{clip: 1.0}}
target: {{epochs: 2, batch_size: 16, optimizer: adamw, lr: 1.0e-3, schedule: cosine, ema: 0.5}}
adversary: {{epochs: 1, batch_size: 16}}
private: {{epochs: 1, batch_size: 16, class_weights: balanced}}
attack: {{pairs: [backbone-gender, arm-age_group]}}
protect:
  terms:
    - {{at: backbone-gender, known: alternating, prior: class}}
    - {{at: arm-age_group, weight: 0.5, known: {{lr: 1.0e-2, steps: 2}}}}
output: {output}
"""

FINISHED_STATE = {
    "stage": "target", "identity": {}, "config": {}, "test": {}, "spec": {"backbone": "resnet18", "num_classes": 2},
    "schema": {"name": "faces", "target": "smile", "attributes": {"smile": {"classes": ["no", "yes"]}}},
}  # fmt: skip
"""The state.json of a stage that says as little as one can."""
TRAINING_STATE = {
    "step": 1, "data": {"epoch": 0, "sample": 9}, "best": {"network": (0.5, 1)}, "waited": 0, "optimizer_step": 1,
    "scaler": {},
}  # fmt: skip
"""That of one in training."""

Start = Callable[..., subprocess.CompletedProcess[str]]
"""Starts a process and returns what it printed: the fixtures `start` and `torchrun`."""


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Until the condition holds; AssertionError where that takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def encoded(kind: str, side: int, mode: str = "RGB") -> bytes:
    """A plain square picture of `side` pixels in Pillow's format `kind`."""
    stream = io.BytesIO()
    Image.new(mode, (side, side)).save(stream, kind)
    return stream.getvalue()


def huge_png(side: int) -> bytes:
    """A PNG of a few bytes whose header claims `side` x `side` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def tracked_files() -> list[str]:
    """The files of the source tree that belong to the project, by their paths in it."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True)
    return [path for path in listing.stdout.splitlines() if (ROOT / path).is_file()]
