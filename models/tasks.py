"""Tasks: network, adversaries and terms as the one module that a training engine wraps.

A task's `forward(images, labels)` returns scalar losses, of which `loss` is the one to differentiate and the others
are for the record; `predict(images)` returns logits by head, and `heads` says which attribute each head is about;
`trained` names the modules that the task trains.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privatenet.models.adversary import Pair
from privatenet.models.errors import ModelError
from privatenet.models.freeze import freeze
from privatenet.models.network import Network, check_tap
from privatenet.models.objectives.registry import TermSpec
from privatenet.models.objectives.term import Gather, Term


class TargetTask(nn.Module):
    """Stage `target`: the network learns the target attribute, with nothing protected."""

    def __init__(
        self, network: Network, target: str, class_weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.network = network
        self.target = target
        self.criterion = nn.CrossEntropyLoss(class_weights, label_smoothing=label_smoothing)
        self.heads = {target: target}
        self.trained: dict[str, nn.Module] = {"network": network}

    def forward(self, images: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits, _ = self.network(images)
        return {"loss": self.criterion(logits.float(), labels[self.target])}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        logits, _ = self.network(images)
        return {self.target: logits}


class AdversaryTask(nn.Module):
    """Stage `adversary`: adversaries, one for each pair and by its name, learn from the taps of a frozen network.

    Raises ModelError for an unknown tap, or where there is no pair.
    """

    def __init__(self, network: Network, adversaries: nn.ModuleDict, pairs: Sequence[Pair]) -> None:
        super().__init__()
        if not pairs:
            raise ModelError("there is no adversary; accepted: one (tap, attribute) pair or more")
        for pair in pairs:
            check_tap(network, pair.tap)
        self.network = freeze(network)
        self.adversaries = adversaries
        self.pairs = tuple(pairs)
        self.heads = {pair.name: pair.attribute for pair in pairs}
        self.trained: dict[str, nn.Module] = {"adversaries": adversaries}

    def forward(self, images: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits = self.predict(images)
        losses = {pair.name: F.cross_entropy(logits[pair.name].float(), labels[pair.attribute]) for pair in self.pairs}
        return {"loss": torch.stack(list(losses.values())).sum(), **_recorded(losses)}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            _, taps = self.network(images)
        views = {**taps, "image": images}
        return {pair.name: self.adversaries[pair.name](views[pair.tap]) for pair in self.pairs}


class PrivateTask(nn.Module):
    """Stage `private`: the network learns the target attribute, and to reveal little at its taps (Eq. 8): it pays
    (1 - lambda) cross-entropy + lambda x the weighted sum of `terms`.

    What each term looks at is left in `observations`, detached, by the term's name: adversaries that learn on learn
    from it. Raises ModelError for a lambda outside [0, 1] or an unknown tap.
    """

    def __init__(
        self,
        network: Network,
        terms: Mapping[TermSpec, Term],
        target: str,
        lambda_: float,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        for spec in terms:
            check_tap(network, spec.pair.tap)
        if not 0 <= lambda_ <= 1:
            raise ModelError(f"lambda {lambda_} is out of range; accepted: 0 (utility only) to 1 (privacy only)")
        self.network = network
        self.terms = nn.ModuleDict({spec.name: term for spec, term in terms.items()})
        self.specs = tuple(terms)
        self.target = target
        self.lambda_ = lambda_
        self.criterion = nn.CrossEntropyLoss(class_weights, ignore_index=-1, label_smoothing=label_smoothing)
        self.gather = Gather()
        with_adversary = [spec.pair for spec, term in terms.items() if term.adversary is not None]
        self.heads = {target: target, **{pair.name: pair.attribute for pair in with_adversary}}
        self.observations: dict[str, Tensor] = {}
        self.trained: dict[str, nn.Module] = {"network": network}
        if any(term.changes for term in terms.values()):
            self.trained["terms"] = self.terms

    def forward(self, images: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits, taps = self.network(images)
        self._observe(taps)
        targets = labels[self.target]
        record = {"cross_entropy": self._cross_entropy(logits.float(), targets)}
        privacy = []
        for spec in self.specs:
            losses = self.terms[spec.name](taps[spec.tap], labels[spec.pair.attribute], targets, images)
            privacy.append(spec.weight * losses["loss"])
            record |= {spec.name if key == "loss" else f"{spec.name}/{key}": loss for key, loss in losses.items()}
        loss = (1 - self.lambda_) * record["cross_entropy"] + self.lambda_ * torch.stack(privacy).sum()
        return {"loss": loss, **_recorded(record)}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        logits, taps = self.network(images)
        self._observe(taps)
        answers = {self.target: logits}
        for spec in self.specs:
            term = self.terms[spec.name]
            assert isinstance(term, Term)
            if term.adversary is not None:
                answers[spec.pair.name] = term.adversary(taps[spec.pair.tap])
        return answers

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Over the samples whose target is known (-1 is unknown), 0 where there are none: a mean of nothing is NaN.

        Averaged over ranks, as losses are, it is the mean over the global batch: each rank counts by its known samples.
        """
        known = targets >= 0
        everywhere: Tensor = self.gather(known)
        weight = known.sum() * len(everywhere) / (len(known) * everywhere.sum().clamp(min=1))
        return weight * torch.where(known.any(), self.criterion(logits, targets), 0 * logits.sum())

    def _observe(self, taps: Mapping[str, Tensor]) -> None:
        self.observations = {spec.name: taps[spec.pair.tap].detach() for spec in self.specs}


Task = TargetTask | AdversaryTask | PrivateTask


def _recorded(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached, so that keeping a loss for the log does not keep its graph."""
    return {name: loss.detach() for name, loss in losses.items()}
