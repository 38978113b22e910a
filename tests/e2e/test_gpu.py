"""The same way on a GPU: figures as on the processor, and every stage, a certificate and an audit from there."""

import json
from pathlib import Path

import pytest
import torch
from support import Start

from privatenet.data_shards.reading.transforms import AugmentConfig, augment
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.ranks import joined

pytestmark = pytest.mark.gpu

PLAIN = ("--engine.precision", "fp32", "--augment", "{flip: 0, noise: 0, shift: 0, erase: 0}")


def _losses(output: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (output / "target/metrics.jsonl").read_text().splitlines()]


def test_a_network_learns_on_a_gpu_what_it_learns_on_the_processor(
    start: Start, tiny_config: Path, tmp_path: Path
) -> None:
    losses = {}
    for devices in ("0", ""):
        output = tmp_path / f"on-{devices or 'processor'}"
        command = ("-m", "privatenet.launch.cli", "train", "target", "--config", str(tiny_config))
        done = start(*command, "--output", str(output), *PLAIN, CUDA_VISIBLE_DEVICES=devices)
        assert done.returncode == 0, done.stderr[-3000:]
        losses[devices] = _losses(output)
    assert losses["0"] == pytest.approx(losses[""], rel=0.02)


def test_every_stage_a_certificate_and_an_audit_come_from_a_gpu(start: Start, tiny_config: Path) -> None:
    private = str(tiny_config.parent / "run/private")
    narrow = ("--channel.kind", "noise", "--protect.terms", "[{at: release-gender, objective: best}]")
    small = ("--attackers", "[logistic, mlp1, noise]", "--seeds", "1", "--resamples", "100", "--faces", "[training]")
    for command in (
        ("run", "--config", str(tiny_config), *narrow),
        ("certify", private),
        ("audit", private, "--taps", "[release]", *small),
    ):
        done = start("-m", "privatenet.launch.cli", *command)
        assert done.returncode == 0, done.stderr[-3000:]
    findings = json.loads((tiny_config.parent / "run/audit-private/report/audit.json").read_text())
    assert findings["protocol"]["device"].startswith("1 x NVIDIA")


def test_a_step_does_not_wait_for_the_device() -> None:
    with joined() as ranks:
        from privatenet.launch.bench.step import engine_step, private_task, random_inputs

        inputs, task = random_inputs(64, 8, ranks.device), private_task(64).to(ranks.device)
        step = engine_step(task, inputs, EngineConfig(clip=1.0), ranks)
        pictures = torch.zeros(8, 3, 48, 48, dtype=torch.uint8, device=ranks.device)
        positions = torch.arange(8, device=ranks.device)

        def whole() -> None:
            augment(pictures, 64, AugmentConfig(shift=0.1, light=0.1), 0, positions)
            step()

        whole()  # what is made once may be waited for
        torch.cuda.set_sync_debug_mode("error")
        try:
            whole()
        finally:
            torch.cuda.set_sync_debug_mode("default")
