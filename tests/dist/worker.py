"""What the ranks of the distributed tests run: python -m torch.distributed.run tests/dist/worker.py CASE SHARDS OUT."""

import hashlib
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.transforms import AugmentConfig

from privatenet.distributed import trainer
from privatenet.distributed.config import Config, EngineConfig, FitConfig, ModelConfig
from privatenet.distributed.engine import Engine
from privatenet.distributed.ranks import Ranks, join, leave
from privatenet.distributed.faces import Faces
from privatenet.distributed.trainer import Job, fit, trained_tensors, training_plan
from privatenet.distributed.signals import Diverged, Interrupted, StopRequest
from privatenet.distributed.statistics import average_statistics
from privatenet.models.adversary import Pair, build_adversary
from privatenet.models.tasks import AdversaryTask, TargetTask, Task
from privatenet.models.network import NetworkSpec, build_network

BATCH = 16
# Small: a fresh network's first large steps are chaotic, and rounding alone then grows tenfold at every step.
LR = {"sgd": 3e-4, "adam": 1e-5}


def settings(shards: str, zero_stage: int, optimizer: str) -> Config:
    """Five steps an epoch, in fp32 with statistics over all ranks: what must not depend on the number of ranks."""
    return Config(
        data=DataConfig(shards=shards, validation=0.0, workers=1),
        augment=AugmentConfig(shift=0.05),
        model=ModelConfig(weights="none", image_size=96, affinity="ema"),
        engine=EngineConfig(precision="fp32", sync_statistics=True, clip=1.0, zero_stage=zero_stage),  # type: ignore[arg-type]
        target=FitConfig(epochs=3, batch_size=BATCH, optimizer=optimizer, lr=LR[optimizer], warmup_epochs=1),  # type: ignore[arg-type]
    )


def job(config: Config, faces: Faces) -> Job:
    torch.manual_seed(0)
    target = faces.schema.target
    network = build_network(NetworkSpec(image_size=config.model.image_size))
    return Job(
        TargetTask(network, target), {target: target}, lambda scores, _: {"network": scores[target].accuracy},
        faces.training([target]), faces.validation([target]), config.target,
    )  # fmt: skip


def steps(config: Config, faces: Faces, ranks: Ranks, out: Path) -> None:
    """Train two epochs, ten steps; write the parameters and statistics, and which samples were read in which order."""
    seen = record_positions()
    short = replace(config, target=replace(config.target, epochs=2))
    made = job(short, faces)
    if ranks.first:
        write(out / "start.safetensors", made.task, [])
    fit(made, training_plan(made, short, ranks), short, faces, ranks, out / "target", None)
    gathered: list[list[list[int]]] = [[] for _ in range(ranks.world_size)]
    dist.all_gather_object(gathered, seen)
    if ranks.first:
        order = [position for together in zip(*gathered, strict=True) for share in together for position in share]
        write(out / "steps.safetensors", made.task, order)


def interrupted(config: Config, faces: Faces, ranks: Ranks, out: Path) -> None:
    """Ask rank 0 alone to stop in the middle of the second epoch's steps; every rank must stop, and at the same step."""
    trainer.CHECK_EVERY = 7
    seen = record_positions()
    original = Engine.step

    def step(engine: Engine, images: Tensor, labels: dict[str, Tensor], lr: float) -> dict[str, Tensor]:
        if ranks.first and len(seen) == 6:
            signal.raise_signal(signal.SIGTERM)
        return original(engine, images, labels, lr)

    Engine.step = step  # type: ignore[method-assign]
    try:
        made = job(config, faces)
        fit(made, training_plan(made, config, ranks), config, faces, ranks, out / "target", None)
    except Interrupted as error:
        print(f"rank {ranks.rank}: {error}", flush=True)


def resumed(config: Config, faces: Faces, ranks: Ranks, out: Path) -> None:
    """Go on to the end; write the parameters and the order of the samples that were read."""
    seen = record_positions()
    made = job(config, faces)
    fit(made, training_plan(made, config, ranks), config, faces, ranks, out / "target", None)
    write(out / "resumed.safetensors", made.task, sum(seen, []))


def frozen(config: Config, faces: Faces, ranks: Ranks, out: Path) -> None:
    """Train an adversary and average statistics: the network below stays as it is, and ranks end up alike."""
    torch.manual_seed(0)
    network = build_network(NetworkSpec(image_size=96))
    pair = Pair("backbone", "gender")
    adversary = build_adversary(network.spec, network.tap_shapes, pair.tap, 2)
    task = AdversaryTask(network, nn.ModuleDict({pair.name: adversary}), [pair])
    before, start = digest(network), digest(adversary)
    engine = Engine(task, FitConfig(batch_size=8), EngineConfig(precision="bf16"), ranks)
    torch.manual_seed(ranks.rank)
    for _ in range(3):
        images = torch.randn(8 // ranks.world_size, 3, 96, 96)
        engine.step(images, {"gender": torch.randint(0, 2, (len(images),))}, 1e-2)
    apart = digest(adversary)
    for module in task.trained.values():
        average_statistics(module)
    digests: list[tuple[str, str]] = [("", "")] * ranks.world_size
    dist.all_gather_object(digests, (apart, digest(adversary)))
    print(f"rank {ranks.rank}: network {'kept' if digest(network) == before else 'moved'}", flush=True)
    print(f"rank {ranks.rank}: adversary {'kept' if digest(adversary) == start else 'moved'}", flush=True)
    print(f"rank {ranks.rank}: before {len({a for a, _ in digests})} after {len({b for _, b in digests})}", flush=True)


def optimizer(config: Config, faces: Faces, ranks: Ranks, out: Path) -> None:
    """Take steps, carry weights and Adam's state to an engine of another ZeRO stage, and go on with both."""
    images = torch.randn(6, 4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    labels = {"emotion": torch.tensor([0, 3, 5, 1])}
    fit_config = FitConfig(batch_size=4, lr=1e-3)
    for before in (0, 2):
        for after in (0, 2):
            engines = []
            for stage in (before, after):
                torch.manual_seed(0)
                task = TargetTask(build_network(NetworkSpec(image_size=96)), "emotion")
                # Weights lie channels last at stage 0 only: between stages that would round differently.
                layout = before == after
                settings = EngineConfig(precision="fp32", zero_stage=stage, channels_last=layout)  # type: ignore[arg-type]
                engines.append((task, Engine(task, fit_config, settings, ranks)))
            (first, old), (second, new) = engines
            for step in range(3):
                old.step(images[step], labels, 1e-3)
            state, steps = old.optimizer_state()
            second.load_state_dict(first.state_dict())
            new.load_optimizer_state({name: tensor.contiguous() for name, tensor in state.items()}, steps)
            for step in range(3, 6):
                old.step(images[step], labels, 1e-3)
                new.step(images[step], labels, 1e-3)
            pairs = zip(first.parameters(), second.parameters(), strict=True)
            print(f"{before} to {after}: apart {max(float((a - b).abs().max()) for a, b in pairs)}", flush=True)


def diverged(config: Config, faces: Faces, ranks: Ranks, out: Path) -> None:
    """One rank's loss is not finite: all ranks say so."""
    loss = torch.tensor(float("nan") if ranks.rank == 1 else 1.0)
    try:
        StopRequest().check(loss)
    except Diverged:
        print(f"rank {ranks.rank}: diverged", flush=True)


def write(path: Path, task: Task, order: list[int]) -> None:
    tensors = {name: value.cpu().contiguous() for name, value in trained_tensors(task).items()}
    save_file({**tensors, "order": torch.tensor(order)}, path)


def record_positions() -> list[list[int]]:
    """From here on, the places in the run's sequence of every micro-batch that this rank trains on."""
    seen: list[list[int]] = []
    original = trainer.augment

    def augment(images: Tensor, size: int, config: AugmentConfig, seed: int, positions: Tensor) -> Tensor:
        seen.append(positions.tolist())
        return original(images, size, config, seed, positions)

    trainer.augment = augment
    return seen


def digest(module: nn.Module) -> str:
    state = module.state_dict()
    return hashlib.sha256(b"".join(state[name].contiguous().numpy().tobytes() for name in sorted(state))).hexdigest()


CASES = {case.__name__: case for case in (steps, interrupted, resumed, optimizer, frozen, diverged)}

if __name__ == "__main__":
    case, shards, out, zero, chosen_optimizer = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    joined = join()
    chosen = settings(shards, zero, chosen_optimizer)
    CASES[case](chosen, Faces(chosen.data, joined), joined, out)
    leave()
