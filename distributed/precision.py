"""In which number format and memory layout a network computes: in training, and alike wherever it is only asked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from privatenet.distributed.config import EngineConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def layout(images: Tensor, config: EngineConfig) -> Tensor:
    """Pictures in the memory layout that the engine's networks are fastest with."""
    return images.contiguous(memory_format=torch.channels_last if config.channels_last else torch.contiguous_format)


def channels_last(module: nn.Module) -> None:
    """Bring the weights of convolutions into that layout, in place; no others, of which it is not always plain."""
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            each.to(memory_format=torch.channels_last)


@contextmanager
def evaluation_precision(config: EngineConfig, device: torch.device) -> Iterator[None]:
    """No gradients, and the same autocast as in training."""
    with (
        torch.inference_mode(),
        torch.autocast(device.type, DTYPES[config.precision], enabled=config.precision != "fp32"),
    ):
        yield
