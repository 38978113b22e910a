"""The life of a stage, whatever it trains: found done, resumed or begun; trained; attributes erased; tested; finished.

Every stage has a folder under the run's output: config.yaml, metrics.jsonl, checkpoints/ while it trains, and final/
when it is done. Its identity is all that decides its result: the configuration's, the data set's fingerprint, and the
hashes of the stages that it stands on. The first rank reads and writes there, and all ranks decide by what it read.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from privatenet.data_shards.files import writing
from privatenet.distributed import agree, checkpoint
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config, to_yaml
from privatenet.distributed.erase import erase_attributes
from privatenet.distributed.errors import ConfigError, Interrupted
from privatenet.distributed.evaluate import Scores, evaluate, score_metrics
from privatenet.distributed.faces import Faces
from privatenet.distributed.held import held
from privatenet.distributed.mirror import IDENTITY, Mirror
from privatenet.distributed.precision import precision
from privatenet.distributed.progress import Say
from privatenet.distributed.provenance import differences
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.tracking.tracker import Tracker
from privatenet.distributed.train_state import Best, finished_tensors
from privatenet.distributed.trainer import AfterEpoch, Job, Trainer, training_plan
from privatenet.models.network import NetworkSpec


@dataclass(frozen=True)
class StagePlan:
    """A stage before it is trained: where it goes, what decides it, and how all ranks together make its job."""

    folder: Path
    stage: str
    identity: dict[str, Any]
    spec: NetworkSpec
    job: Callable[[], Job]


def run_plan(
    plan: StagePlan, config: Config, faces: Faces, ranks: Ranks, say: Say, testing: bool = True,
    after_epoch: AfterEpoch | None = None,
) -> Checkpoint:  # fmt: skip
    """Train a stage, go on with it, or find it done; returns its final checkpoint. All ranks call it together.

    Without `testing` the test split is not looked at, and the checkpoint has no test scores: it is one of several that
    are still to be chosen from. Raises `ConfigError` where the folder holds another run, and `DataError` where another
    process is at work in it.
    """
    mirror = Mirror(config.mirror, plan.folder) if config.mirror else None
    done = agree.first(ranks, lambda: _finished(plan, mirror))
    if done:
        say(f"{plan.folder.name:8s} done before, {done.folder}")
    else:
        done = _train(plan, config, faces, ranks, say, testing, after_epoch)
    agree.first(ranks, lambda: _tidy(plan, mirror))
    return done


def _train(
    plan: StagePlan, config: Config, faces: Faces, ranks: Ranks, say: Say, testing: bool, after_epoch: AfterEpoch | None
) -> Checkpoint:  # fmt: skip
    torch.manual_seed(config.seed)
    job = plan.job()
    reading = agree.each(ranks, lambda: training_plan(job, config, ranks))
    with held(plan.folder, ranks), _tracked(plan, config, faces, ranks, say) as tracker:
        best = Trainer(job, reading, config, faces, ranks, plan.folder, tracker).run(after_epoch)
        if plan.stage == "private" and plan.spec.channel.erase:
            erase_attributes(job.task.network, job.training, config, faces, ranks)
        tested = evaluate(job.task, faces.testing(), config, faces, ranks) if testing else {}
        return agree.first(ranks, lambda: _finish(plan, config, faces, job, best, tested, tracker))


def _finished(plan: StagePlan, mirror: Mirror | None) -> Checkpoint | None:
    """The stage's final checkpoint, if there is one. Raises `ConfigError` where the folder holds another run."""
    if mirror:
        mirror.pull(plan.identity)
    final, begun = plan.folder / "final", plan.folder / IDENTITY
    done = checkpoint.load(final) if final.exists() else None
    before = done.state["identity"] if done else json.loads(begun.read_text()) if begun.exists() else plan.identity
    if changed := differences(before, plan.identity):
        raise ConfigError(
            f"{plan.folder} holds another run ({changed}): choose another --output, or remove that folder"
        )
    return done


def _tidy(plan: StagePlan, mirror: Mirror | None) -> None:
    """Remove what a finished stage needs no more; a kill may have come before that, and the mirror was maybe away."""
    checkpoint.Store(plan.folder / "checkpoints").remove()
    if mirror:
        mirror.finish(plan.identity)


@contextmanager
def _tracked(plan: StagePlan, config: Config, faces: Faces, ranks: Ranks, say: Say) -> Iterator[Tracker | None]:
    """The stage's run, on the first rank; it ends as the block does, but for its good end, which `_finish` says."""
    tracker = agree.each(ranks, lambda: _open(plan, config, faces, ranks, say) if ranks.first else None)
    try:
        yield tracker
    except BaseException as error:
        if tracker:
            tracker.stop("KILLED" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "FAILED")
        raise


def _open(plan: StagePlan, config: Config, faces: Faces, ranks: Ranks, say: Say) -> Tracker:
    with writing(plan.folder):
        (plan.folder / "config.yaml").write_text(to_yaml(config))
        (plan.folder / IDENTITY).write_text(json.dumps(plan.identity, indent=1) + "\n")
    tags = {"precision": precision(config.engine, ranks.device)}
    tracker = Tracker(config.tracking, plan.folder, plan.stage, config.to_dict(), say, tags)
    tracker.data(faces.schema.name, config.data.shards, faces.fingerprint)
    return tracker


def _finish(
    plan: StagePlan, config: Config, faces: Faces, job: Job, best: Best, tested: Scores, tracker: Tracker | None
) -> Checkpoint:
    state = {
        "stage": plan.stage,
        "identity": plan.identity,
        "config": config.to_dict(),
        "schema": faces.schema.to_dict(),
        "spec": asdict(plan.spec),
        "training_samples": len(job.training.rows),
        "best": best,
        "test": {head: asdict(score) for head, score in tested.items()},
    }
    assert tracker is not None
    if tested:
        tracker.log(score_metrics("test", tested), max(epoch for _, epoch in best.values()))
    done = checkpoint.save(plan.folder / "final", {"model": finished_tensors(job.task)}, state)
    network = job.task.network if plan.stage != "adversary" else None
    tracker.finish(done.hash, network, config.model.image_size)
    return done
