"""Settings of the short runs that are measured."""

from dataclasses import asdict, replace
from pathlib import Path

from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.uri import Uri
from privatenet.distributed.config import (
    AttackConfig,
    Config,
    FitConfig,
    ModelConfig,
    ProtectConfig,
    TargetFitConfig,
    TrackingConfig,
    to_yaml,
)

FIT = FitConfig(epochs=1, optimizer="adamw", lr=1e-4)
PAIRS = ["backbone-gender", "arm-gender"]


def stage_config(shards: Path, output: Path, size: int, batch: int, private_epochs: int = 1) -> Config:
    """ResNet-18 and ARM, confusion at two taps, every stage of one epoch but the private one; pictures of `size`."""
    fit = replace(FIT, batch_size=batch)
    supervised = TargetFitConfig(**asdict(fit))
    return Config(
        data=DataConfig(Uri(str(shards)), mode="cached"),
        model=ModelConfig(weights="none", image_size=size),
        target=supervised,
        adversary=fit,
        private=replace(supervised, epochs=private_epochs),
        attack=AttackConfig(PAIRS),
        protect=ProtectConfig([{"at": pair} for pair in PAIRS]),
        tracking=TrackingConfig(model=False),
        output=str(output),
    )


def settings_file(config: Config, folder: Path) -> str:
    """Write `config` into `folder`; returns the file's name, for a command."""
    path = folder / "bench.yaml"
    path.write_text(to_yaml(config))
    return str(path)
