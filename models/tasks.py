"""Tasks: network, adversaries and objective as the one module that a training engine wraps.

A task's `forward(images, labels)` returns scalar losses, of which `loss` is the one to differentiate and the others
are for the record; `predict(images)` returns logits by name; `trained` names the modules that the task trains.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from privatenet.models.adversary import Pair
from privatenet.models.errors import ModelError
from privatenet.models.freeze import freeze
from privatenet.models.network import Network, check_tap
from privatenet.models.objectives import OBJECTIVES, joint_loss

Known = Literal["frozen", "alternating"]
"""Whether the known adversary stays as it was (the paper) or goes on learning while the network hides from it."""


class TargetTask(nn.Module):
    """Stage `target`: the network learns the target attribute, with nothing protected."""

    def __init__(
        self, network: Network, target: str, class_weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.network = network
        self.target = target
        self.criterion = nn.CrossEntropyLoss(class_weights, label_smoothing=label_smoothing)
        self.trained: dict[str, nn.Module] = {"network": network}

    def forward(self, images: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits, _ = self.network(images)
        return {"loss": self.criterion(logits.float(), labels[self.target])}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        logits, _ = self.network(images)
        return {self.target: logits}


class AdversaryTask(nn.Module):
    """Stage `adversary`: adversaries, one for each pair, learn from the taps of a network that is frozen here."""

    def __init__(self, network: Network, adversaries: nn.ModuleDict, pairs: Sequence[Pair]) -> None:
        super().__init__()
        _check_pairs(network, pairs, {"adversaries": adversaries.keys()})
        self.network = freeze(network)
        self.adversaries = adversaries
        self.pairs = tuple(pairs)
        self.trained: dict[str, nn.Module] = {"adversaries": adversaries}

    def forward(self, images: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits = self.predict(images)
        losses = {pair.name: F.cross_entropy(logits[pair.name].float(), labels[pair.attribute]) for pair in self.pairs}
        return {"loss": torch.stack(list(losses.values())).sum(), **_recorded(losses)}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            _, taps = self.network(images)
        seen = {**taps, "image": images}
        return {pair.name: self.adversaries[pair.name](seen[pair.tap]) for pair in self.pairs}


class PrivateTask(nn.Module):
    """Stage `private`: the network learns the target attribute and to keep each pair's adversary ignorant (Eq. 8).

    `weights` are the terms' by pair name, `priors` [K] by attribute. Known adversaries are "frozen", or "alternating":
    then they learn in the same backward pass, from their own cross-entropy and from nothing else.
    Raises ModelError for an unknown objective or `known`, a lambda outside [0, 1], or a pair that lacks its part.
    """

    def __init__(
        self,
        network: Network,
        adversaries: nn.ModuleDict,
        pairs: Sequence[Pair],
        target: str,
        objective: str,
        lambda_: float,
        weights: Mapping[str, float],
        priors: Mapping[str, Tensor],
        known: Known,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _check_pairs(network, pairs, {"adversaries": adversaries.keys(), "weights": weights})
        _check_private(pairs, objective, lambda_, priors, known)
        self.network = network
        self.alternating = known == "alternating"
        self.adversaries = adversaries if self.alternating else freeze(adversaries)
        self.pairs = tuple(pairs)
        self.target = target
        self.objective = objective
        self.lambda_ = lambda_
        self.weights = dict(weights)
        for pair in pairs:
            self.register_buffer(f"prior_{pair.attribute}", priors[pair.attribute])
        self.criterion = nn.CrossEntropyLoss(class_weights, label_smoothing=label_smoothing)
        self.trained: dict[str, nn.Module] = {"network": network}
        if self.alternating:
            self.trained["adversaries"] = adversaries

    def forward(self, images: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits, taps = self.network(images)
        cross_entropy = self.criterion(logits.float(), labels[self.target])
        terms = {pair.name: self._hiding(pair, taps[pair.tap], labels[pair.attribute]) for pair in self.pairs}
        loss = joint_loss(cross_entropy, terms, self.weights, self.lambda_)
        record = {"cross_entropy": cross_entropy, **{f"{self.objective}/{name}": term for name, term in terms.items()}}
        if self.alternating:
            for pair in self.pairs:
                seeking = self._seeking(pair, taps[pair.tap], labels[pair.attribute])
                record[f"adversary/{pair.name}"] = seeking
                loss = loss + seeking
        return {"loss": loss, **_recorded(record)}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        logits, taps = self.network(images)
        return {self.target: logits, **{pair.name: self.adversaries[pair.name](taps[pair.tap]) for pair in self.pairs}}

    def _hiding(self, pair: Pair, features: Tensor, labels: Tensor) -> Tensor:
        """The network's term: its gradient passes through the adversary, whose weights and statistics stay put."""
        adversary = self.adversaries[pair.name]
        if self.alternating:
            state = {name: tensor.detach() for name, tensor in adversary.named_parameters()}
            state |= {name: tensor.clone() for name, tensor in adversary.named_buffers()}
            logits = functional_call(adversary, state, features)
        else:
            logits = adversary(features)
        return OBJECTIVES[self.objective](logits, labels, self.get_buffer(f"prior_{pair.attribute}"))

    def _seeking(self, pair: Pair, features: Tensor, labels: Tensor) -> Tensor:
        """The adversary's own loss: its gradient ends at the features."""
        return F.cross_entropy(self.adversaries[pair.name](features.detach()).float(), labels)


Task = TargetTask | AdversaryTask | PrivateTask


def _recorded(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached, so that keeping a loss for the log does not keep its graph."""
    return {name: loss.detach() for name, loss in losses.items()}


def _check_pairs(network: Network, pairs: Sequence[Pair], parts: Mapping[str, Collection[str]]) -> None:
    if not pairs:
        raise ModelError("pairs is empty; accepted: one (tap, attribute) pair or more")
    for pair in pairs:
        check_tap(network, pair.tap)
    names = sorted(pair.name for pair in pairs)
    for part, keys in parts.items():
        if sorted(keys) != names:
            raise ModelError(f"{part} are given for {sorted(keys)}; accepted: exactly the pairs, {names}")


def _check_private(
    pairs: Sequence[Pair], objective: str, lambda_: float, priors: Mapping[str, Tensor], known: str
) -> None:
    if objective not in OBJECTIVES:
        raise ModelError(f"objective {objective!r} is unknown; accepted: {', '.join(OBJECTIVES)}")
    if known not in get_args(Known):
        raise ModelError(f"known {known!r} is unknown; accepted: {', '.join(get_args(Known))}")
    if not 0 <= lambda_ <= 1:
        raise ModelError(f"lambda {lambda_} is out of range; accepted: 0 to 1")
    for pair in pairs:
        if pair.tap == "image":
            raise ModelError(f"pair {pair.name!r} cannot be protected: the picture is not the network's to change")
        if pair.attribute not in priors:
            raise ModelError(f"priors lack {pair.attribute!r}; given: {', '.join(priors) or 'none'}")
