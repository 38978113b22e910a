"""What a person may choose of an export."""

from dataclasses import dataclass, field
from typing import Literal

from privatenet.models.parts import Deployment


@dataclass(frozen=True)
class ExportConfig:
    """How a network leaves, and what is measured of it.

    Args:
        deployment: enclave (open.onnx from pictures to the tap, trusted.onnx from there on), split (trusted.onnx from
            pictures to what the channel sends, open.onnx from there on) or whole (network.onnx).
        split: The tap at which an enclave's network is cut, such as layer3; of split use it is the channel's.
        variants: Number formats of the files, beside fp32: fp16, int8.
        leak: Attack what each variant gives away, by three quick attackers: minutes.
        pictures: How many test pictures the files are compared on with PyTorch, and int8 is fitted to (training ones).
    """

    deployment: Deployment = "whole"
    split: str = ""
    variants: list[Literal["fp16", "int8"]] = field(default_factory=list)
    leak: bool = False
    pictures: int = 64
