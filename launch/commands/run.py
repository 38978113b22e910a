"""`privatenet run`: all stages in order, by the deepspeed launcher, on as many ranks as there are GPUs."""

import argparse

import torch

from privatenet.data_shards.shards.manifest import load_manifest
from privatenet.data_shards.shards.remote import local_copy
from privatenet.launch import train
from privatenet.launch.launcher import launch


def main(argv: list[str]) -> int:
    """Judge the settings here, then start the ranks; returns the launcher's exit code."""
    options, settings = _parser().parse_known_args(argv)
    settings = train.with_ready_configs(settings)
    config, _ = train.parse(["run", *settings])
    load_manifest(local_copy(config.data.shards, config.data.cache))
    return launch("privatenet.launch.train", ["run", *settings], options.ranks)


def add_ranks(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flag --ranks."""
    ranks = max(1, torch.cuda.device_count())
    parser.add_argument(
        "--ranks",
        type=_positive,
        default=ranks,
        metavar="N",
        help="processes; one per GPU, or one without GPUs (here %(default)s)",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted: accepted are whole numbers of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    ready = ", ".join(train.ready_configs())
    parser = argparse.ArgumentParser(
        prog="privatenet run",
        usage="%(prog)s [--ranks N] [--config F] [--section.key value ...]",
        description="Train all stages in order on this machine: the target network, the adversaries that attack it, "
        "the private network, and new adversaries that attack that. Finished stages (same settings, same data) are "
        "found and not trained again; an interrupted one goes on where it was.",
        epilog="Every other argument is a setting of the run: a YAML file, --config F, or one of the ready ones "
        f"({ready}), and any --section.key that `privatenet train --help` lists. On several machines: deepspeed "
        "--hostfile H --module privatenet.launch.train run --config F",
    )
    add_ranks(parser)
    return parser
