"""In which number format and memory layout a network computes: in training, and alike wherever it is only asked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from privatenet.distributed.config import EngineConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_CPU = ("amx_bf16", "avx512_bf16", "bf16")
"""Processors' instructions that multiply bf16: of x86, and of Arm."""
BF16_GPU = (8, 0)
"""The first compute capability with them."""


def fast_bf16(device: torch.device) -> bool:
    """Whether a device is made for bf16; others imitate it, slowly."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_GPU
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in BF16_CPU)


def precision(config: EngineConfig, device: torch.device) -> str:
    """fp32, bf16 or fp16: in which one `device` computes."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if fast_bf16(device) else "fp32"


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
    name = precision(config, device)
    with torch.inference_mode(), torch.autocast(device.type, DTYPES[name], enabled=name != "fp32"):
        yield
