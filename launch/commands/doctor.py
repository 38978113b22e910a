"""`privatenet doctor`: what this machine offers, what is missing, and what to type."""

import argparse
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from privatenet.distributed.place import num_cores
from privatenet.distributed.precision import fast_bf16
from privatenet.launch.commands.run import num_gpus

NEEDED = ("torch", "torchvision", "deepspeed", "webdataset", "jsonargparse", "safetensors", "rich")
OPTIONAL = {"mlflow": "runs are then kept in metrics.jsonl only", "ray": "sweeps are not possible without it"}


@dataclass(frozen=True)
class Finding:
    """One line of the report; `advice` is empty where nothing has to be done, `fatal` where training cannot start."""

    what: str
    found: str
    advice: str = ""
    fatal: bool = False


def main(argv: list[str]) -> int:
    """Print the report; 0 where training can start, 1 where something that it needs is missing."""
    description = "Tell what this machine offers for training, what is missing, and what to type."
    argparse.ArgumentParser(prog="privatenet doctor", description=description).parse_args(argv)
    findings = [*packages(), *processors(), *gpus(), *storage()]
    table = Table(show_header=False, box=None, padding=(0, 1))
    for finding in findings:
        table.add_row(
            "[red]x[/]" if finding.fatal else "[yellow]![/]" if finding.advice else "ok", finding.what, finding.found
        )
    console = Console(highlight=False)
    console.print(table)
    for finding in findings:
        if finding.advice:
            console.print(f"{finding.what}: {finding.advice}")
    ranks = num_gpus()
    config = "rafdb.yaml" if torch.cuda.is_available() else "laptop.yaml"
    console.print(
        "\nwith RAF-DB's `basic` folder at hand:\n"
        "  privatenet shards build rafdb PATH/TO/basic --out shards/rafdb\n"
        f"  privatenet run --ranks {ranks} --config {config}\n"
        "without:\n"
        "  privatenet shards build synthetic --out shards/demo\n"
        f"  privatenet run --ranks {ranks} --config demo.yaml",
        soft_wrap=True,
    )
    return int(any(finding.fatal for finding in findings))


def packages() -> list[Finding]:
    """Python and the packages, with how to get what is missing."""
    old = sys.version_info < (3, 11)
    out = [Finding("python", platform.python_version(), "3.11 or newer is needed" if old else "", fatal=old)]
    for name in (*NEEDED, *OPTIONAL):
        try:
            out.append(Finding(name, version(name)))
        except PackageNotFoundError:
            why = f" ({OPTIONAL[name]})" if name in OPTIONAL else ""
            out.append(Finding(name, "not installed", f"pip install {name}{why}", fatal=name in NEEDED))
    return out


def processors() -> list[Finding]:
    """Cores and memory; whether they are made for bf16."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = "with fast bf16" if fast_bf16(torch.device("cpu")) else "without fast bf16: fp32 on them"
    return [Finding("processor", f"{num_cores()} cores {kind}"), Finding("memory", f"{gib:.0f} GiB")]


def gpus() -> list[Finding]:
    """GPUs, or that there are none."""
    if not torch.cuda.is_available():
        return [Finding("gpu", "none that torch can use; training runs on the processor")]
    out = []
    for number in range(torch.cuda.device_count()):
        properties, fast = torch.cuda.get_device_properties(number), fast_bf16(torch.device("cuda", number))
        advice = "" if fast else "without fast bf16 networks compute in fp32: --engine.precision fp16 is faster"
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        out.append(Finding(f"gpu {number}", f"{properties.name}, {memory}", advice))
    return out


def storage() -> list[Finding]:
    """Room for shards and checkpoints in the current folder."""
    gib = shutil.disk_usage(Path.cwd()).free / 2**30
    return [Finding("disk", f"{gib:.0f} GiB free here", "a run wants about 1 GiB" if gib < 2 else "")]
