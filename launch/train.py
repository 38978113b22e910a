"""What launchers start: one process of a training run.

privatenet train STAGE --config F --a.b value                                   one process
deepspeed --num_gpus N --module privatenet.launch.train STAGE --config F ...    one node
deepspeed --hostfile H --module privatenet.launch.train STAGE --config F ...    several
torchrun --nproc_per_node N -m privatenet.launch.train STAGE --config F ...
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

from jsonargparse import ArgumentParser

from privatenet.audit.paper.plan import ReproduceConfig
from privatenet.distributed.config import Config
from privatenet.distributed.faces import Faces
from privatenet.distributed.progress import silent
from privatenet.distributed.ranks import Ranks, join, leave
from privatenet.distributed.resolve import add_config_arguments, resolve_config
from privatenet.launch.exits import guarded
from privatenet.launch.launcher import rank_arguments, stop_in_order
from privatenet.launch.ready import with_ready_configs
from privatenet.launch.summary import show_all, show_reproduction, show_stage

STAGES = ("target", "adversary", "private", "run", "reproduce")


def main(argv: Sequence[str] | None = None) -> int:
    """Train the stage that `argv` names on the ranks that a launcher made, or alone; returns the exit code."""
    stop_in_order()
    arguments = rank_arguments(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _train(*read(arguments)))


def parse(arguments: list[str]) -> tuple[Config, str]:
    """The configuration and the stage. Raises `ConfigError`; `--help` prints and exits."""
    return read(arguments)[:2]


def read(arguments: list[str]) -> tuple[Config, str, ReproduceConfig]:
    """The configuration, the stage, and what only the stage `reproduce` asks for. As `parse` otherwise."""
    config, parsed = resolve_config(parser(), with_ready_configs(arguments))
    return config, parsed.stage, ReproduceConfig(**parsed.as_dict()["reproduce"])


def parser() -> ArgumentParser:
    description = (
        "Train one stage of a private network: the target network, the adversaries that attack it, or the private "
        "network. `run` does all of them in order, `reproduce` all that the paper reports. Finished stages are found "
        "and not trained again, an interrupted one goes on where it was."
    )
    built = ArgumentParser(prog="privatenet train", description=description, exit_on_error=False, allow_abbrev=False)
    help_text = "target, adversary, private, run for all of them, or reproduce for the paper."
    built.add_argument("stage", choices=STAGES, metavar="STAGE", help=help_text)
    add_config_arguments(built)
    built.add_class_arguments(ReproduceConfig, "reproduce")
    return built


def _train(config: Config, stage: str, paper: ReproduceConfig) -> int:
    ranks = join()
    # The engine takes seconds to import: not before the settings are known to be good.
    from privatenet.distributed.stages.run import run_all, run_stage

    try:
        faces = Faces(config.data, ranks)
        say = partial(print, flush=True) if ranks.first else silent
        if stage == "reproduce":
            _reproduce(config, paper, faces, ranks, say)
        elif stage == "run":
            checkpoints = run_all(config, faces, ranks, say)
            if ranks.first:
                show_all(checkpoints, config)
        else:
            final = run_stage(stage, config, faces, ranks, say)
            if ranks.first:
                show_stage(final)
    finally:
        leave()
    return 0


def _reproduce(config: Config, paper: ReproduceConfig, faces: Faces, ranks: Ranks, say: Callable[[str], None]) -> None:
    from privatenet.audit.paper.comparison import print_tables
    from privatenet.audit.paper.reproduce import reproduce

    reproduction = reproduce(paper, config, faces, ranks, say)
    if ranks.first:
        print_tables(reproduction)
        show_reproduction(config)


if __name__ == "__main__":
    sys.exit(main())
