"""The stages by name, and all of them in order: target, adversary (known), private, adversary again (unknown)."""

from collections.abc import Callable
from dataclasses import replace

from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config
from privatenet.distributed.faces import Faces
from privatenet.distributed.progress import Say
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.adversary import plan_adversary
from privatenet.distributed.stages.private import plan_private
from privatenet.distributed.stages.stage import StagePlan, run_plan
from privatenet.distributed.stages.target import plan_target
from privatenet.distributed.trainer import AfterEpoch

STAGES: dict[str, Callable[[Config, Faces, Ranks], StagePlan]] = {
    "target": plan_target,
    "adversary": plan_adversary,
    "private": plan_private,
}


def run_stage(
    stage: str, config: Config, faces: Faces, ranks: Ranks, say: Say, testing: bool = True,
    after_epoch: AfterEpoch | None = None,
) -> Checkpoint:  # fmt: skip
    """Train the stage target, adversary or private, go on with it, or find it done; see `run_plan`.

    Raises `ConfigError` where a stage that it stands on is missing or belongs to another network or data set.
    """
    return run_plan(STAGES[stage](config, faces, ranks), config, faces, ranks, say, testing, after_epoch)


def run_all(config: Config, faces: Faces, ranks: Ranks, say: Say) -> dict[str, Checkpoint]:
    """Every stage in order, by the names of their folders: target, known, private, unknown."""
    on_target = replace(config, attack=replace(config.attack, network="target"))
    on_private = replace(config, attack=replace(config.attack, network="private"))
    return {
        "target": run_stage("target", config, faces, ranks, say),
        "known": run_stage("adversary", on_target, faces, ranks, say),
        "private": run_stage("private", config, faces, ranks, say),
        "unknown": run_stage("adversary", on_private, faces, ranks, say),
    }
