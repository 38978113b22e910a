"""`privatenet reproduce`: all of the paper, on this machine, on as many ranks as there are GPUs."""

import argparse
from pathlib import Path

from privatenet.launch.commands.run import add_ranks, num_gpus, train_on
from privatenet.launch.ready import CONFIGS, ready_configs, with_ready_configs

CONFIG = "rafdb_paper.yaml"
OUTPUT = "runs/reproduction"


def main(argv: list[str]) -> int:
    """Reproduce the paper on the ranks that are asked for; returns the exit code."""
    values, settings = _parser().parse_known_args(argv)
    arguments = with_ready_configs([word for name in values.config or [CONFIG] for word in ("--config", name)])
    output = values.output or (OUTPUT if _is_ready(arguments[-1]) else "")
    arguments += ["--output", output] if output else []
    arguments += ["--data.shards", values.shards] if values.shards else []
    arguments += settings
    return train_on(values.ranks or num_gpus(), ["reproduce", *arguments])


def _is_ready(path: str) -> bool:
    """Whether a configuration comes with the package: its output is meant for `privatenet run`."""
    return Path(path).resolve().parent == CONFIGS


def _parser() -> argparse.ArgumentParser:
    ready = ", ".join(ready_configs())
    parser = argparse.ArgumentParser(
        prog="privatenet reproduce",
        usage="%(prog)s [--shards DIR] [--ranks N] [--config F] [--section.key value ...]",
        description="Run all of the paper on a sharded data set: the unprotected network and its adversaries "
        "(Table 1), the private networks with known and unknown adversaries (Table 2), the sweep over lambda (Fig. 2) "
        "and the inference times (Table 3); then set the figures beside the paper's, and say what cannot be compared. "
        "Finished stages (same settings, same data) are found and not trained again; an interrupted one goes on where "
        "it was.",
        epilog="Every other argument is a setting that `privatenet train --help` lists; --reproduce.attributes, .taps, "
        ".objectives and .lambdas choose parts of the paper. On several machines: deepspeed --hostfile H --module "
        "privatenet.launch.train reproduce --config F",
        allow_abbrev=False,
    )
    parser.add_argument("--shards", metavar="DIR", help="the data set; by default where the configuration says")
    parser.add_argument(
        "--config",
        action="append",
        metavar="F",
        help=f"YAML file of settings, or a ready one ({ready}); by default {CONFIG}, the paper's recipe",
    )
    parser.add_argument(
        "--output", metavar="DIR", help=f"folder of all stages; by default what your own F says, else {OUTPUT}"
    )
    add_ranks(parser)
    return parser
