"""Adversaries that learn on while the network hides from them: each by its own loss, optimiser and gradient norm."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from privatenet.distributed.chance import seeded
from privatenet.distributed.ranks import Ranks
from privatenet.models.objectives.term import Term
from privatenet.models.tasks import PrivateTask, Task


class AdversaryTrainer:
    """Steps of the adversaries of `task`'s terms, after the network's own step and outside of its engine.

    In fp32, on what the terms looked at in that step; where a step has several micro-batches, on all of them.
    """

    def __init__(self, task: Task, seed: int, ranks: Ranks) -> None:
        self.task, self.seed, self.ranks = task, seed, ranks
        specs = task.specs if isinstance(task, PrivateTask) else ()
        self.attributes = {spec.name: spec.pair.attribute for spec in specs if self._term(spec.name).learning}
        self.optimizers = {name: _optimizer(self._term(name)) for name in self.attributes}
        self.batches: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.attributes}

    def observe(self, labels: Mapping[str, Tensor]) -> None:
        """Remember what the terms looked at in the micro-batch that the task has just seen."""
        for name, attribute in self.attributes.items():
            assert isinstance(self.task, PrivateTask)
            self.batches[name].append((self.task.observations[name].float(), labels[attribute]))

    def step(self) -> dict[str, Tensor]:
        """Let every adversary learn from what was observed since the last step; returns its losses."""
        losses = {}
        for name, optimizer in self.optimizers.items():
            features, labels = (torch.cat(values) for values in zip(*self.batches[name], strict=True))
            self.batches[name] = []
            losses[f"{name}/adversary"] = self._learn(self._term(name), optimizer, features, labels)
        return losses

    def end_epoch(self, epoch: int) -> None:
        """Restart the adversaries whose turn it is after `epoch` epochs, alike on all ranks."""
        for name in self.optimizers:
            term = self._term(name)
            assert term.learning is not None
            if term.learning.restart_epochs and epoch % term.learning.restart_epochs == 0:
                with seeded(1_000_003 * (self.seed + 1) + epoch, self.ranks.device):
                    term.restart()
                self.optimizers[name] = _optimizer(term)

    def state(self) -> dict[str, Tensor]:
        """The optimisers' tensors, "<term>:<number of the parameter>:<key>"."""
        return {
            f"{name}:{number}:{key}": torch.as_tensor(value).detach().cpu().clone()
            for name, optimizer in self.optimizers.items()
            for number, values in optimizer.state_dict()["state"].items()
            for key, value in values.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Set what `state` returned."""
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for full_name, tensor in tensors.items():
                term, number, key = full_name.rsplit(":", 2)
                if term == name:
                    state.setdefault(int(number), {})[key] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

    def _term(self, name: str) -> Term:
        term = self.task.get_submodule(f"terms.{name}")
        assert isinstance(term, Term)
        return term

    def _learn(self, term: Term, optimizer: torch.optim.Optimizer, features: Tensor, labels: Tensor) -> Tensor:
        assert term.adversary is not None
        assert term.learning is not None
        parameters = list(term.adversary.requires_grad_(True).parameters())
        for _ in range(term.learning.steps):
            loss = term.adversary_loss(features, labels)
            gradients = torch.autograd.grad(loss, parameters)
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            if self.ranks.world_size > 1:
                dist.all_reduce(flat)
                flat /= self.ranks.world_size
            for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                parameter.grad = gradient.view_as(parameter)
            if term.learning.clip:
                torch.nn.utils.clip_grad_norm_(parameters, term.learning.clip)
            optimizer.step()
        optimizer.zero_grad()
        term.adversary.requires_grad_(False)  # the engine's backward pass goes through it and leaves it alone
        return loss.detach()


def _optimizer(term: Term) -> torch.optim.Optimizer:
    assert term.adversary is not None
    assert term.learning is not None
    return torch.optim.AdamW(term.adversary.parameters(), term.learning.lr, weight_decay=term.learning.weight_decay)
