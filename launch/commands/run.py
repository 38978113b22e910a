"""`privatenet run`: all stages in order on this machine, on as many ranks as there are GPUs."""

import argparse

from privatenet.launch.launcher import launch
from privatenet.launch.ready import ready_configs


def main(argv: list[str]) -> int:
    """Run all stages on the ranks that are asked for; returns the exit code."""
    options, settings = _parser().parse_known_args(argv)
    return train_on(options.ranks or num_gpus(), ["run", *settings])


def train_on(ranks: int, arguments: list[str]) -> int:
    """Do what `privatenet train` does with `arguments`: in this process where it is the only rank."""
    if ranks > 1:
        return launch("privatenet.launch.train", arguments, ranks)
    from privatenet.launch import train  # which takes seconds

    return train.main(arguments)


def num_gpus() -> int:
    """GPUs of this machine, or 1."""
    import torch  # which takes seconds

    return max(1, torch.cuda.device_count())


def add_ranks(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flag --ranks."""
    parser.add_argument(
        "--ranks", type=_positive, metavar="N", help="processes; by default one per GPU, or one without GPUs"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted: accepted are whole numbers of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    ready = ", ".join(ready_configs())
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
