"""How pictures become what somebody else's network takes."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from privatenet.audit.errors import AuditError
from privatenet.data_shards.reading.transforms import IMAGENET_MEAN, IMAGENET_STD, resize


@dataclass(frozen=True)
class Preprocessing:
    """What is done to pictures of 0 to 255 before a network sees them: resized, divided by `scale`, then normalised.

    Args:
        size: Height and width in pixels; 0: as they are stored.
        scale: What grey levels are divided by: 255 gives 0 to 1, as torchvision does; 1 leaves 0 to 255.
        mean: Subtracted then, of each channel in the network's order.
        std: What is divided by last, of each channel.
        channels: The order of the network's input: rgb, bgr (as OpenCV's), or grey (one channel, by Rec. 601).
    """

    size: int = 224
    scale: float = 255.0
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    channels: Literal["rgb", "bgr", "grey"] = "rgb"

    def __post_init__(self) -> None:
        count = 1 if self.channels == "grey" else 3
        for key, values in {"mean": self.mean, "std": self.std}.items():
            if len(values) != count:
                raise AuditError(f"preprocessing.{key} is {values}: accepted for {self.channels} are {count} numbers")
        if self.scale <= 0 or min(self.std) <= 0 or self.size < 0:
            raise AuditError("preprocessing: accepted for scale and std are numbers above 0, for size 0 and up")

    def apply(self, images: Tensor) -> Tensor:
        """Uint8 pictures [B, 3, H, W], RGB, to float32 [B, channels, size, size]."""
        pixels = (resize(images, self.size) if self.size else images).float()
        if self.channels == "bgr":
            pixels = pixels.flip(1)
        elif self.channels == "grey":
            pixels = (pixels * pixels.new_tensor((0.299, 0.587, 0.114))[:, None, None]).sum(dim=1, keepdim=True)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels / self.scale - mean) / std
