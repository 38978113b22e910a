"""What ranks do in the distributed tests: functions of the ranks and of plain arguments, with plain results."""

import contextlib
import copy
import hashlib
import io
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from privatenet.data_shards.reading.batches import evaluation_batches
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.transforms import AugmentConfig, prepare
from privatenet.distributed import agree, clock, exchange, heartbeat, mirror, trainer
from privatenet.distributed.config import (
    AttackConfig,
    Config,
    EngineConfig,
    FitConfig,
    ModelConfig,
    ProtectConfig,
    TargetFitConfig,
)
from privatenet.distributed.engine import Engine
from privatenet.distributed.erase import erase_attributes
from privatenet.distributed.errors import ConfigError, Diverged, Interrupted
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.signals import StopRequest
from privatenet.distributed.stages.run import run_stage
from privatenet.distributed.statistics import average_statistics, gather_batches
from privatenet.distributed.tracking import store
from privatenet.distributed.train_state import trained_tensors
from privatenet.distributed.trainer import Job, Trainer, training_plan
from privatenet.launch import train as train_command
from privatenet.models.adversary import ImageAdversary, Pair, build_adversary
from privatenet.models.channel import CENTRE, ChannelSpec
from privatenet.models.network import NetworkSpec, build_network
from privatenet.models.objectives.registry import OBJECTIVES, option_names, parse_terms
from privatenet.models.objectives.term import Term, TermContext
from privatenet.models.tasks import AdversaryTask, PrivateTask, TargetTask, Task

BATCH = 16
# Small: a fresh network's first large steps are chaotic, and rounding alone then grows tenfold at every step.
LR = {"sgd": 3e-4, "adam": 1e-5}


def settings(shards: Path, **engine: Any) -> Config:
    """Five steps an epoch, in fp32 with statistics over all ranks: what must not depend on the number of ranks."""
    optimizer = engine.pop("optimizer", "sgd")
    return Config(
        data=DataConfig(shards=str(shards), validation=0.0, workers=1),
        augment=AugmentConfig(shift=0.05),
        model=ModelConfig(weights="none", image_size=64),
        engine=EngineConfig(**{"precision": "fp32", "sync_statistics": True, "clip": 1.0, **engine}),
        target=TargetFitConfig(epochs=3, batch_size=BATCH, optimizer=optimizer, lr=LR[optimizer], warmup_epochs=1),
    )


def target_job(config: Config, faces: Faces) -> Job:
    torch.manual_seed(0)
    target = faces.schema.target
    network = build_network(NetworkSpec(image_size=config.model.image_size))
    return Job(
        TargetTask(network, target), lambda scores, _: {"network": scores[target].accuracy},
        faces.training([target]), faces.validation([target]), config.target,
    )  # fmt: skip


def train(config: Config, faces: Faces, ranks: Ranks, folder: Path) -> Job:
    job = target_job(config, faces)
    Trainer(job, training_plan(job, config, ranks), config, faces, ranks, folder, None).run()
    return job


def ten_steps(ranks: Ranks, shards: Path, folder: Path) -> dict[str, Any]:
    """Two epochs; the parameters before and after, and the places in the sequence of all samples, in order."""
    config = settings(shards)
    config = replace(config, target=replace(config.target, epochs=2))
    faces, positions = Faces(config.data, ranks), record_positions()
    start = parameters(target_job(config, faces).task)
    job = train(config, faces, ranks, folder)
    return {"start": start, "end": parameters(job.task), "order": order_of(positions, ranks)}


def order_of(positions: list[list[int]], ranks: Ranks) -> list[int]:
    """The places of all samples, in order, from those of every rank's micro-batches."""
    shares = agree.everyone(ranks, lambda: positions)
    return [place for step in zip(*shares, strict=True) for share in step for place in share]


def train_by_command(ranks: Ranks, arguments: list[str]) -> tuple[int, str]:
    """The exit code, and what the rank says on stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = train_command.main(arguments)
    return code, stderr.getvalue()


def draw_after_a_trainer_is_made(ranks: Ranks, shards: Path, folder: Path) -> float:
    """What a network that draws would draw first."""
    config = settings(shards)
    faces = Faces(config.data, ranks)
    job = target_job(config, faces)
    Trainer(job, training_plan(job, config, ranks), config, faces, ranks, folder, None)
    return float(torch.rand(()))


def stop_at_third(ranks: Ranks, shards: Path, folder: Path, zero_stage: int) -> dict[str, Any]:
    """SIGTERM to the first rank alone in the third step from here; what each rank says, and the samples' places."""
    clock.MOST_STEPS = 1  # a decision after every step
    positions, step = record_positions(), Engine.step

    def stop(engine: Engine, images: Tensor, labels: dict[str, Tensor], lr: float) -> dict[str, Tensor]:
        if ranks.first and len(positions) == 3:
            signal.raise_signal(signal.SIGTERM)
        return step(engine, images, labels, lr)

    Engine.step = stop  # type: ignore[method-assign]
    config, words = settings(shards, zero_stage=zero_stage), "not stopped"
    try:
        train(config, Faces(config.data, ranks), ranks, folder)
    except Interrupted as error:
        words = str(error)
    return {"words": words, "order": order_of(positions, ranks)}


def go_on(ranks: Ranks, shards: Path, folder: Path) -> dict[str, Any]:
    """To the end; the parameters, and the places of the samples that were read."""
    config, positions = settings(shards), record_positions()
    job = train(config, Faces(config.data, ranks), ranks, folder)
    return {"end": parameters(job.task), "order": order_of(positions, ranks)}


def stand_still(ranks: Ranks, shards: Path, folder: Path, how: str) -> None:
    """Train until the second rank, before its third batch, sleeps, stops, or until every rank sleeps in its step; what
    a rank ends with it writes to a file."""
    still_s, silent_s = (60.0, 4.0) if how == "stops" else (5.0, 60.0)  # a step of a busy machine takes seconds
    heartbeat.PERIOD_S, heartbeat.STILL_S, heartbeat.SILENT_S = 0.1, still_s, silent_s
    clock.MOST_STEPS = 1  # a decision after every step, as where steps take seconds
    heartbeat.end = partial(_end_with, folder / f"rank-{ranks.rank}.txt")
    batches, step = trainer.training_batches, Engine.step

    def some(*arguments: Any) -> Iterator[Any]:
        for place, batch in enumerate(batches(*arguments)):
            if place == 2 and ranks.rank == 1 and how == "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            if place == 2 and ranks.rank == 1 and how == "sleeps":
                time.sleep(60)
            yield batch

    def long_step(*arguments: Any) -> Any:
        time.sleep(60)
        return step(*arguments)

    trainer.training_batches = some
    if how == "all sleep":
        Engine.step = long_step  # type: ignore[method-assign]
    config = settings(shards)
    train(config, Faces(config.data, ranks), ranks, folder / "run")


def _end_with(path: Path, message: str) -> None:
    path.with_suffix(".tmp").write_text(message)
    path.with_suffix(".tmp").rename(path)
    os._exit(1)


def freeze_and_average(ranks: Ranks) -> dict[str, Any]:
    """Train an adversary on other pictures on each rank, then average statistics."""
    torch.manual_seed(0)
    network = build_network(NetworkSpec(image_size=96))
    pair = Pair("backbone", "gender")
    adversary = build_adversary(network.spec, network.tap_shapes, pair.tap, 2)
    task = AdversaryTask(network, nn.ModuleDict({pair.name: adversary}), [pair])
    network_before, adversary_before = digest(network), digest(adversary)
    engine = Engine(task, FitConfig(batch_size=8), EngineConfig(precision="bf16"), ranks)
    torch.manual_seed(ranks.rank)
    for _ in range(3):
        images = torch.randn(8 // ranks.world_size, 3, 96, 96)
        engine.step(images, {"gender": torch.randint(0, 2, (len(images),))}, 1e-2)
    apart = digest(adversary)
    average_statistics(adversary)
    return {
        "network kept": digest(network) == network_before,
        "adversary moved": digest(adversary) != adversary_before,
        "apart": apart,
        "averaged": digest(adversary),
    }


def change_zero_stage(ranks: Ranks) -> dict[tuple[int, int], float]:
    """Carry weights and Adam's state to an engine of another ZeRO stage, go on with both: how far they come apart."""
    images = torch.randn(6, 4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    labels = {"emotion": torch.tensor([0, 3, 5, 1])}
    fit, apart = FitConfig(batch_size=4, lr=1e-3), {}
    for before in (0, 2):
        for after in (0, 2):
            engines = []
            for stage in (before, after):
                torch.manual_seed(0)
                task = TargetTask(build_network(NetworkSpec(image_size=96)), "emotion")
                # Weights lie channels last at stage 0 only: between stages that would round differently.
                config = EngineConfig(precision="fp32", zero_stage=stage, channels_last=before == after)
                engines.append((task, Engine(task, fit, config, ranks)))
            (task, engine), (copy, resumed) = engines
            for step in range(3):
                engine.step(images[step], labels, 1e-3)
            state, steps = engine.optimizer_state()
            copy.load_state_dict(task.state_dict())
            resumed.load_optimizer_state({name: tensor.contiguous() for name, tensor in state.items()}, steps)
            for step in range(3, 6):
                engine.step(images[step], labels, 1e-3)
                resumed.step(images[step], labels, 1e-3)
            pairs = zip(task.parameters(), copy.parameters(), strict=True)
            apart[before, after] = max(float((a - b).abs().max()) for a, b in pairs)
    return apart


def decide_with_a_loss_that_is_not_finite(ranks: Ranks) -> str:
    """On the second rank only."""
    try:
        StopRequest().decide(torch.tensor(float("nan") if ranks.rank == 1 else 1.0))
    except Diverged:
        return "diverged"
    return "went on"


def fail_on(ranks: Ranks, verb: str, failing: int) -> str:
    """What each rank gets where one fails in `verb` of agree."""

    def work() -> int:
        if ranks.rank == failing:
            raise ConfigError("engine.clip is -1") if failing else OSError("disk full")
        return ranks.rank

    try:
        return f"got {getattr(agree, verb)(ranks, work)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def share_jobs(ranks: Ranks, count: int, failing: int = -1, store: bool = True) -> tuple[object, list[int]]:
    """What each rank gets for jobs of which that number fails, the first one being long, and those that it did; with a
    store that all reach or without."""
    done = []
    if not store:
        agree.common_store = lambda ranks: None  # type: ignore[assignment]

    def work(job: int) -> int:
        done.append(job)
        if job == failing:
            raise ConfigError(f"job {job}")
        time.sleep(1.0 if job == 0 else 0.05)
        return job**2

    try:
        return agree.shared(ranks, range(count), work), done
    except Exception as error:
        return type(error).__name__, done


def learn_by_each_objective(ranks: Ranks) -> dict[str, Any]:
    """For every objective, gradients of a layer after two batches of sixteen pictures, of which each rank has its
    share; and those of its adversary by its own loss, where it has one. One label is unknown. Beside them that of the
    cross-entropy of a task."""
    forms = [{"objective": name, "given": "none"} for name in OBJECTIVES]
    forms += [{"objective": name, "given": "target"} for name in OBJECTIVES if "given" in option_names(name)]
    return {"-".join(form.values()): _learn_by(ranks, form) for form in forms} | {
        "cross_entropy": _learn_few_targets(ranks)
    }


def _learn_few_targets(ranks: Ranks) -> list[Any]:
    """The gradient of the first layer by the private task's cross-entropy on sixteen pictures, nine of a known target:
    two of the first half, and none of the first quarter."""
    torch.manual_seed(1)
    network, (spec,) = (
        build_network(NetworkSpec(image_size=64)),
        parse_terms([{"at": "arm-gender", "objective": "hsic"}]),
    )
    term = spec.build(TermContext(network.tap_shapes["arm"], torch.tensor([0.5, 0.5]), None, nn.Identity, 7))
    task = gather_batches(PrivateTask(network, {spec: term}, "emotion", 0.0, label_smoothing=0.1)).eval()
    chance, numbers = torch.Generator().manual_seed(1), torch.arange(16)
    images = torch.randn(16, 3, 64, 64, generator=chance)
    labels = {"emotion": torch.where((numbers < 6) | (numbers == 9), -1, numbers % 7), "gender": numbers % 2}
    share = slice(ranks.rank * 16 // ranks.world_size, (ranks.rank + 1) * 16 // ranks.world_size)
    task(images[share], {name: values[share] for name, values in labels.items()})["loss"].backward()
    gradient = next(network.parameters()).grad
    assert gradient is not None
    dist.all_reduce(gradient)
    return [gradient.numpy() / ranks.world_size]


def _learn_by(ranks: Ranks, form: dict[str, Any]) -> list[Any]:
    torch.manual_seed(1)  # with others the known adversary may be worse than guessing: no gradient
    layer, shape, chance = nn.Conv2d(3, 8, 3, stride=2, bias=False), (8, 3, 3), torch.Generator().manual_seed(1)
    options = {"known": "alternating", "components": 4, "queue": 20, **form}
    names = ("objective", *option_names(form["objective"]))
    narrow = OBJECTIVES[form["objective"]].tap == CENTRE
    at = "release-gender" if narrow else "backbone-gender"
    (spec,) = parse_terms([{"at": at, **{name: options[name] for name in names if name in options}}])

    def known() -> nn.Module:
        if spec.known and spec.known.tap == "image":
            return ImageAdversary(build_network(NetworkSpec(num_classes=2, image_size=32, head="linear")))
        return nn.Sequential(nn.Flatten(), nn.Linear(72, 2))

    frequencies, channel = torch.tensor([0.5, 0.5]), ChannelSpec("noise")
    context = TermContext(shape[:1] if narrow else shape, frequencies, known(), known, 7, channel)
    term = gather_batches(spec.build(context))
    assert isinstance(term, Term)
    gender = torch.arange(16) % 2
    labels, targets = torch.where(torch.arange(16) == 3, -1, gender), torch.arange(16) // 2 % 4
    images = torch.randn(2, 16, 3, 8, 8, generator=chance) + (2 * gender - 1)[:, None, None, None]
    share = slice(ranks.rank * 16 // ranks.world_size, (ranks.rank + 1) * 16 // ranks.world_size)
    for batch in images:
        features = layer(batch[share])
        if narrow:
            features = features.mean(dim=(2, 3))
            noise = torch.randn(16, 8, generator=chance)[share]  # the same for a picture, whatever rank has it
            term.view = partial(_noisy, noise)  # type: ignore[method-assign]
        pictures = F.interpolate(batch[share], size=32)
        term(features, labels[share], targets[share], pictures)["loss"].backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    if term.adversary is not None:
        parameters = list(term.adversary.requires_grad_(True).parameters())
        gradients += torch.autograd.grad(term.adversary_loss(features.detach(), labels[share]), parameters)
    for gradient in gradients:
        dist.all_reduce(gradient)
    return [gradient.numpy() / ranks.world_size for gradient in gradients]


def _noisy(noise: Tensor, centres: Tensor) -> Tensor:
    return torch.stack([centres, centres + noise], dim=1)


def erase_from_a_network(ranks: Ranks, shards: Path) -> dict[str, Any]:
    """What an untrained network sends of the training faces before and after gender is erased, and the erasure."""
    config = replace(tiny(shards, shards), engine=EngineConfig(precision="fp32"))
    faces = Faces(config.data, ranks)
    torch.manual_seed(0)
    channel = ChannelSpec("plain", "layer3", numbers=6, erase=["gender"])
    network, subset = (
        build_network(NetworkSpec("mobilenet_v3_large", image_size=64, channel=channel)),
        faces.training([]),
    )

    def send() -> Any:
        batches = list(evaluation_batches(subset.split, subset.pictures, subset.rows, 100))
        with torch.no_grad():
            return torch.cat([network.eval()(prepare(batch.images, 64))[1][CENTRE] for batch in batches]).numpy()

    before = send()
    erase_attributes(network, subset, config, faces, ranks)
    gender = subset.split.labels[subset.rows, faces.schema.names.index("gender")]
    return {"before": before, "after": send(), "gender": gender, "matrix": network.channel.erasure.matrix.numpy()}


def run_one_stage(ranks: Ranks, stage: str, config: Config) -> int:
    """Train a stage, with a checkpoint at every other step and without MLflow; returns in how many micro-batches."""
    clock.MOST_STEPS = 2
    store.MLFLOW = False
    positions = record_positions()
    run_stage(stage, config, Faces(config.data, ranks), ranks, lambda line: None)
    return len(positions)


def run_with_bad_steps(ranks: Ranks, bad: Sequence[int], what: str, config: Config) -> None:
    """Train the target, while the loss of some steps is no number, or a hundred times as large, or the weights after
    them are no numbers."""
    micro_step = Trainer._micro_step

    def poisoned(self: Trainer, batch: Any) -> Tensor:
        loss = micro_step(self, batch)
        if self.training.state.step + 1 not in bad:
            return loss
        if what == "spike":
            return loss * 100
        next(iter(self.training.engine.named.values())).data.fill_(float("nan"))
        return loss * float("nan") if what == "loss" else loss

    Trainer._micro_step = poisoned  # type: ignore[method-assign]
    run_one_stage(ranks, "target", config)


def run_one_stage_in(ranks: Ranks, environment: Mapping[str, str], waits_s: tuple[float, ...], config: Config) -> int:
    """Train the target in an environment, where services are asked again after `waits_s`."""
    os.environ.update(environment)
    mirror.WAITS_S = waits_s
    return run_one_stage(ranks, "target", config)


def tiny(shards: Path, output: Path) -> Config:
    """A configuration whose stages train in a second or two: six steps an epoch, at 64 px, in fp32."""
    fit = {"epochs": 2, "batch_size": 8, "optimizer": "adamw", "lr": 1e-3}
    return Config(
        data=DataConfig(shards=str(shards), validation=0.25, workers=1),
        model=ModelConfig(backbone="mobilenet_v3_large", weights="none", image_size=64),  # small: checkpoints, too
        engine=EngineConfig(precision="fp32", checkpoint_minutes=1e-6),
        target=TargetFitConfig(**fit),
        adversary=FitConfig(**fit),
        private=TargetFitConfig(**fit),
        attack=AttackConfig(pairs=["backbone-gender", "arm-age_group"]),
        protect=ProtectConfig(terms=[{"at": "backbone-gender"}, {"at": "arm-age_group", "objective": "adversarial"}]),
        output=str(output),
    )


def record_positions() -> list[list[int]]:
    """From here on, the places in the run's sequence of every micro-batch that this rank trains on."""
    recorded: list[list[int]] = []
    original = trainer.augment

    def augment(images: Tensor, size: int, config: AugmentConfig, seed: int, positions: Tensor) -> Tensor:
        recorded.append(positions.tolist())
        return original(images, size, config, seed, positions)

    trainer.augment = augment
    return recorded


def parameters(task: Task) -> Any:
    """Every trained parameter, without statistics, as one NumPy vector."""
    return vector(trained_tensors(task))


def vector(tensors: Mapping[str, Tensor]) -> Any:
    """As `parameters`, from a checkpoint's tensors."""
    statistics = ("num_batches_tracked", "running_mean", "running_var", "running_affinity")
    flat = [tensors[name].flatten() for name in sorted(tensors) if not name.endswith(statistics)]
    return torch.cat(flat).numpy().copy()


def digest(module: nn.Module) -> str:
    state = module.state_dict()
    return hashlib.sha256(b"".join(state[name].contiguous().numpy().tobytes() for name in sorted(state))).hexdigest()


def threads(ranks: Ranks) -> int:
    """How many this process computes with."""
    return torch.get_num_threads()


class _Synchronised(torch.autograd.Function):
    """Its backward pass sums something over the ranks."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = torch.ones(7)
        dist.all_reduce(total)
        assert total.tolist() == [dist.get_world_size()] * 7
        return gradient


def exchange_gradients(ranks: Ranks, micro_batches: int) -> dict[str, Any]:
    """Gradients after an exchange, of a network one of whose layers nobody uses, and the last of which only even ranks.

    In buckets of a layer each, and beside another collective call of the backward pass, as synchronised
    statistics make; `own` are those of this rank alone.
    """
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last), nn.Linear(4, 4), nn.Linear(4, 4)])
    twin = copy.deepcopy(layers)
    exchange.BUCKET_BYTES = 80
    running = exchange.GradientExchange(list(layers.parameters()), ranks)
    images = torch.randn(micro_batches, 2, 4, 5, 5, generator=torch.Generator().manual_seed(ranks.rank))

    def loss(network: nn.ModuleList, batch: Tensor) -> Tensor:
        features = _Synchronised.apply(network[0](batch).mean(dim=(2, 3)))
        answer: Tensor = (network[2](features) if ranks.rank % 2 == 0 else features).square().sum()
        return answer

    for _ in range(2):  # what a step leaves behind must not reach the next one
        layers.zero_grad()
        for number, batch in enumerate(images, 1):
            with running.during_backward() if number == micro_batches else nullcontext():
                loss(layers, batch).backward()  # type: ignore[no-untyped-call]
    for batch in images:
        loss(twin, batch).backward()  # type: ignore[no-untyped-call]
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in twin.parameters()]
    return {
        "buckets": len(running.buckets),
        "exchanged": [p.grad.numpy().copy() for p in layers.parameters() if p.grad is not None],
        "own": [gradient.numpy() for gradient in own],
    }
