"""Settings and types that several test files use."""

import subprocess
from collections.abc import Callable

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

Start = Callable[..., subprocess.CompletedProcess[str]]
"""Starts a process and returns what it printed: the fixtures `start` and `torchrun`."""
