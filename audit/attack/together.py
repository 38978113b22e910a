"""Many small networks of one architecture trained at once, as one batched program.

Members differ in their seed and in their optimiser's settings; every one sees the same batches in the same order, and
dropout leaves out the same for all, so that none depends on who else is trained. A picture's features are read once for
all of them, and what would be many small matrix products is one large one.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from privatenet.audit.attack.features import Array
from privatenet.audit.attack.representations import Representation
from privatenet.audit.attack.samples import Labels
from privatenet.distributed.chance import seeded

BATCH_SIZE = 256
JUDGING_BATCH = 512


@dataclass(frozen=True)
class Member:
    """The settings of one network: its seed, and AdamW's."""

    seed: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Recipe:
    """What all members share."""

    epochs: int
    device: torch.device


@dataclass(frozen=True)
class Trained:
    """Members' logits, float32 [M, N, K], from each one's best epoch by its cross-entropy on the tuning samples."""

    tuning: Array
    testing: Array
    losses: list[float]
    epochs: list[int]


def train_together(
    build: Callable[[], nn.Module], members: Sequence[Member], representation: Representation, labels: Labels,
    tuning_labels: Labels, recipe: Recipe,
) -> Trained:  # fmt: skip
    """Train a network from `build` for every member on the fitting samples; labels int64 [N] of fitting and tuning."""
    stack = _Stack(build, members, recipe)
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "lr": m.lr, "weight_decay": m.weight_decay}
            for parameters, m in zip(stack.parameters, members, strict=True)
        ],
        fused=True,
    )
    order = np.random.default_rng(members[0].seed)
    truth, tuning_truth = torch.from_numpy(labels), torch.from_numpy(tuning_labels).to(recipe.device)
    steps = -(-len(labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [m.lr for m in members], total_steps=recipe.epochs * steps, pct_start=0.2
    )
    best = _Best(stack, len(members))
    with seeded(members[0].seed, recipe.device):  # dropout's chances too
        for epoch in range(recipe.epochs):
            for rows in np.array_split(order.permutation(len(labels)), steps):
                logits = stack.logits(_fetch(representation.fitting, rows, recipe.device), training=True)
                targets = truth[rows].to(recipe.device).expand(len(members), -1)
                # Summed over members: each one's gradient is that of its own mean loss.
                loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / len(rows)
                optimizer.zero_grad(set_to_none=False)
                loss.backward()
                optimizer.step()
                schedule.step()
            best.offer(epoch + 1, stack.judge(representation.tuning), tuning_truth)
    best.restore()
    return Trained(
        best.tuning.cpu().numpy(), stack.judge(representation.testing).cpu().numpy(), best.losses.tolist(), best.epochs
    )


class _Stack:
    """The members' networks: their parameters stacked, and by member as parts of the stacks, so that an ordinary
    optimiser has settings for each."""

    def __init__(self, build: Callable[[], nn.Module], members: Sequence[Member], recipe: Recipe) -> None:
        networks = []
        for member in members:
            with seeded(member.seed, recipe.device):
                networks.append(build())
        self.base = copy.deepcopy(networks[0]).to("meta")
        self.recipe = recipe
        parameters, buffers = stack_module_state(networks)
        self.stacked = {name: value.detach().to(recipe.device).requires_grad_() for name, value in parameters.items()}
        for value in self.stacked.values():
            value.grad = torch.zeros_like(value)
        self.parameters = [[_part(value, place) for value in self.stacked.values()] for place in range(len(members))]
        self.buffers = {name: value.to(recipe.device) for name, value in buffers.items()}

    def logits(self, features: Tensor, training: bool) -> Tensor:
        """Features [B, ...] to logits [M, B, K]."""
        self.base.train(training)

        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            answer: Tensor = functional_call(self.base, (parameters, buffers), (features,))
            return answer

        logits: Tensor = vmap(call, randomness="same")(self.stacked, self.buffers)
        return logits

    @torch.no_grad()
    def judge(self, features: Array) -> Tensor:
        """Logits [M, N, K] of all samples, in evaluation mode."""
        pieces = [
            self.logits(_fetch(features, slice(start, start + JUDGING_BATCH), self.recipe.device), training=False)
            for start in range(0, len(features), JUDGING_BATCH)
        ]
        return torch.cat(pieces, dim=1)


class _Best:
    """Every member at its best epoch so far."""

    def __init__(self, stack: _Stack, members: int) -> None:
        self.stack = stack
        self.losses = torch.full((members,), float("inf"))
        self.epochs = [0] * members
        self.tuning = torch.empty(0)
        self.parameters = [[value.detach().clone() for value in values] for values in stack.parameters]
        self.buffers = {name: value.clone() for name, value in stack.buffers.items()}

    def offer(self, epoch: int, logits: Tensor, labels: Tensor) -> None:
        losses = torch.stack([F.cross_entropy(member, labels) for member in logits]).cpu()
        if not len(self.tuning):
            self.tuning = logits.clone()
        for place in (losses < self.losses).nonzero().flatten().tolist():
            self.losses[place], self.epochs[place], self.tuning[place] = losses[place], epoch, logits[place]
            for best, value in zip(self.parameters[place], self.stack.parameters[place], strict=True):
                best.copy_(value.detach())
            for name, value in self.stack.buffers.items():
                self.buffers[name][place] = value[place]

    def restore(self) -> None:
        with torch.no_grad():
            for current, best_parameters in zip(self.stack.parameters, self.parameters, strict=True):
                for value, best in zip(current, best_parameters, strict=True):
                    value.copy_(best)
        self.stack.buffers = self.buffers


def _part(stacked: Tensor, place: int) -> Tensor:
    """The tensor at `place` of a stack, whose numbers and gradients are those of the stack."""
    part = stacked.detach()[place].requires_grad_()
    assert stacked.grad is not None
    part.grad = stacked.grad[place]
    return part


def _fetch(features: Array, rows: slice | np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features[rows], dtype=np.float32)).to(device)
