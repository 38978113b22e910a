"""In which number format a device computes."""

import pytest
import torch

from privatenet.distributed.config import EngineConfig
from privatenet.distributed.precision import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({"neon": True}, "fp32"),
    ],
)
def test_a_processor_computes_in_a_format_that_it_is_not_made_for(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision(EngineConfig(), CPU) == expected
    for name in ("fp32", "bf16", "fp16"):
        assert precision(EngineConfig(precision=name), CPU) == name


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_an_old_gpu_computes_in_bf16(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision(EngineConfig(), torch.device("cuda", 0)) == expected
