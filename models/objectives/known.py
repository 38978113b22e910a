"""Terms that hide from a known adversary: frozen as it was trained, or learning on while the network hides."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from privatenet.models.freeze import freeze
from privatenet.models.objectives.term import Learning, Term, TermContext, known_cross_entropy


@dataclass(frozen=True)
class KnownOptions:
    """Settings of every objective against a known adversary.

    Args:
        known: frozen (the paper); alternating; or how it learns on, such as {lr: 3e-3, steps: 3}.
    """

    known: Literal["frozen", "alternating"] | Learning = "frozen"


class KnownAdversaryTerm(Term):
    """A loss on the logits [B, K] that the known adversary gives for the features; subclasses say which."""

    options = KnownOptions
    needs_adversary = True

    def __init__(self, options: KnownOptions, context: TermContext) -> None:
        super().__init__(options, context)
        assert context.known is not None
        self.adversary = context.known.requires_grad_(False)
        self.fresh = context.fresh
        self.learning = Learning() if options.known == "alternating" else None
        if isinstance(options.known, Learning):
            self.learning = options.known
        if self.learning is None:
            freeze(self.adversary)

    def adversary_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        assert self.adversary is not None
        logits, labels = self.global_batch(self.adversary(features), labels)
        return known_cross_entropy(logits, labels)

    def restart(self) -> None:
        assert self.adversary is not None
        new = self.fresh().state_dict()
        with torch.no_grad():
            for name, tensor in self.adversary.state_dict().items():
                tensor.copy_(new[name])

    def view(self, features: Tensor) -> Tensor:
        """The adversary's logits; its statistics, if it is learning, stay as its own steps left them."""
        assert self.adversary is not None
        logits: Tensor
        if self.learning is None:
            logits = self.adversary(features)
        else:
            buffers = {name: tensor.clone() for name, tensor in self.adversary.named_buffers()}
            logits = functional_call(self.adversary, buffers, features)
        return logits
