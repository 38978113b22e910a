"""The ready configurations, which come with the package and are named as files are: `--config demo.yaml`."""

from pathlib import Path

from privatenet.distributed.errors import ConfigError

CONFIGS = Path(__file__).resolve().parent / "configs"


def with_ready_configs(arguments: list[str]) -> list[str]:
    """Let `--config demo.yaml` mean the ready one of that name where there is no such file here."""
    out = list(arguments)
    for place, word in enumerate(arguments):
        if place and arguments[place - 1] == "--config":
            out[place] = _ready(word)
        elif word.startswith("--config="):
            out[place] = "--config=" + _ready(word.removeprefix("--config="))
    return out


def ready_configs(kind: str = "") -> list[str]:
    """Names of the ready configurations: of runs or, with `sweep`, of sweeps."""
    return sorted(path.name for path in CONFIGS.glob("*.yaml") if path.name.startswith("sweep") == (kind == "sweep"))


def _ready(name: str) -> str:
    if Path(name).is_file():
        return name
    if (CONFIGS / name).is_file():
        return str(CONFIGS / name)
    raise ConfigError(f"--config {name}: no such file; ready ones are {', '.join(ready_configs(name[:5]))}")
