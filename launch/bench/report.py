"""A bench's figures with the machine they belong to: as JSON, as a table, and beside those of an earlier bench."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.table import Table

from privatenet.data_shards.files import replacing
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.place import num_cores
from privatenet.distributed.precision import BF16_CPU
from privatenet.distributed.provenance import code_version
from privatenet.launch.bench.figures import TIMES, Figure, Spread


def machine() -> dict[str, Any]:
    """What the figures depend on beside the code."""
    facts: dict[str, Any] = {"processor": _processor(), "cores": num_cores(), "memory_gib": _gib()}
    capabilities = torch.cpu.get_capabilities()
    facts["bf16"] = [name for name in BF16_CPU if capabilities.get(name)]
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    facts |= {name: version(name) for name in ("torch", "torchvision", "deepspeed", "simplejpeg")}
    return facts | {"python": platform.python_version(), "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "")}


def write_bench(path: Path, settings: Mapping[str, Any], figures: Iterable[Figure], notes: Sequence[str]) -> None:
    """Write the figures as JSON, with what was measured how (`settings`) and where."""
    values = {
        "privatenet": code_version(),
        "settings": dict(settings),
        "when": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": machine(),
        "figures": [figure.to_dict() for figure in figures],
        "notes": list(notes),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        stream.write(json.dumps(values, indent=1).encode() + b"\n")


def read_bench(path: Path) -> dict[str, Figure]:
    """The figures of an earlier bench, by name. Raises `ConfigError` where the file is not one."""
    try:
        values = json.loads(path.read_text())
        return {each["name"]: Figure.from_dict(each) for each in values["figures"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: is no bench's file; accepted: what `privatenet bench --out FILE` wrote") from error


def table(figures: Sequence[Figure], before: Mapping[str, Figure]) -> Table:
    """Medians with their spread, the share of the limit that is reached, and how much faster than `before`."""
    built = Table(title="median (quarter to three quarters of the repetitions)", title_justify="left")
    for name, side in {"figure": "left", "measured": "right", "of its limit": "right", "limit": "left"}.items():
        built.add_column(name, justify=side)  # type: ignore[arg-type]
    built.add_column("peak", justify="right")
    if before:
        built.add_column("against before", justify="right")
    for figure in figures:
        share = figure.share
        row = [figure.name, f"{spread(figure.value)} {figure.unit}", spread(share) if share else "", figure.limit]
        row.append(f"{figure.peak_mib:,.0f} MiB" if figure.peak_mib else "")
        if before:
            row.append(against(figure, before[figure.name]) if figure.name in before else "")
        built.add_row(*row)
    return built


def against(figure: Figure, before: Figure) -> str:
    """How many times as fast as before, by medians; in brackets where the two spreads overlap."""
    now, then = figure.value, before.value
    factor = then.median / now.median if figure.unit in TIMES else now.median / then.median
    overlap = now.low <= then.high and then.low <= now.high
    return f"({factor:.2f}x)" if overlap else f"{factor:.2f}x"


def spread(values: Spread) -> str:
    if values.low == values.high:
        return number(values.median)
    return f"{number(values.median)} ({number(values.low)} to {number(values.high)})"


def number(value: float) -> str:
    """In as many digits as tell it from others that are a percent away."""
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gib() -> int:
    total: int = psutil.virtual_memory().total
    return round(total / 2**30)
