"""A term: one objective on one (tap, attribute), a module that maps features and labels to a loss for the network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field, with_config
from torch import Tensor, nn

from privatenet.models.channel import NO_CHANNEL, ChannelSpec


@dataclass(frozen=True)
class TermContext:
    """What a term may be built from.

    `tap_shape` is that of one picture's features, `frequencies` float32 [K] the shares of the attribute's classes among
    the training samples. `known` is the adversary that was trained on the unprotected network, at this pair's tap or at
    `adversary_tap`, where the objective asks for one (`needs_adversary`); `fresh` builds one with new weights.
    `num_targets` is the number of the target's classes, `channel` the network's.
    """

    tap_shape: tuple[int, ...]
    frequencies: Tensor
    known: nn.Module | None
    fresh: Callable[[], nn.Module]
    num_targets: int
    channel: ChannelSpec = NO_CHANNEL


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Learning:
    """How a term's adversary learns on while the network hides from it (AdamW, its own loss, its own gradient norm).

    Args:
        lr: Learning rate.
        weight_decay: Taken from the weights.
        clip: Largest norm of its gradient; 0 does not clip.
        steps: Its steps for each step of the network, on the same features.
        restart_epochs: Epochs after which it begins again with new weights; 0 never.
    """

    lr: Annotated[float, Field(gt=0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(ge=0)] = 1.0
    steps: Annotated[int, Field(ge=1)] = 1
    restart_epochs: Annotated[int, Field(ge=0)] = 0


class Term(nn.Module):
    """Base of all objectives: a loss on what the objective looks at in each sample (`view`), over the global batch.

    `forward(features [B, ...], labels [B], targets [B], images [B, 3, S, S])` returns scalar losses: `loss`, which the
    network pays, and others for the record. `labels` are of the private attribute, -1 where unknown: such samples take
    no part.

    A term may train an `adversary` of its own: then `learning` says how, and `adversary_loss` by what. `options` is the
    dataclass of the objective's settings. One that looks at another tap than the one it protects, as at features before
    their noise, names it in `tap`; one whose known adversary does, in `adversary_tap`.
    """

    options: ClassVar[type[Any]]
    needs_adversary: ClassVar[bool] = False
    adversary_tap: ClassVar[str] = ""
    tap: ClassVar[str] = ""

    def __init__(self, options: Any, context: TermContext) -> None:
        super().__init__()
        self.adversary: nn.Module | None = None
        self.learning: Learning | None = None
        self.gather = Gather()

    @property
    def changes(self) -> bool:
        """Whether the term's own tensors change while the network trains, so that checkpoints keep them."""
        return self.learning is not None

    def forward(
        self, features: Tensor, labels: Tensor, targets: Tensor, images: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        return self.losses(self.view(features), labels, targets)

    def losses(self, values: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss` of this rank's share of the `values` that a loss looks at."""
        return {"loss": self.loss_of_known(*self.global_batch(values, labels, targets))}

    def loss_of_known(self, values: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """The loss over those samples of the global batch that take part; 0 for fewer than two."""
        return on_known(self.loss, self.known(labels, targets), values, labels, targets)

    def view(self, features: Tensor) -> Tensor:
        """What the loss looks at [B, ...]: each sample's own numbers, as few as it needs."""
        raise NotImplementedError

    def loss(self, values: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """The loss of two samples or more that take part, in fp32 and without autocast.

        A term whose loss is a mean over samples has `loss_of_known` in its place.
        """
        raise NotImplementedError

    def known(self, labels: Tensor, targets: Tensor) -> Tensor:
        """Which samples take part, bool [B]."""
        return labels >= 0

    def adversary_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """What the term's own adversary learns by, on detached features."""
        raise NotImplementedError

    def restart(self) -> None:
        """Give the term's own adversary new weights and statistics, in place."""
        raise NotImplementedError

    def global_batch(self, values: Tensor, *labels: Tensor) -> list[Tensor]:
        """The samples of all ranks, `values` in fp32."""
        return [self.gather(each) for each in (values.float(), *labels)]


def on_known(loss: Callable[..., Tensor], known: Tensor, values: Tensor, *labels: Tensor) -> Tensor:
    """`loss(values, *labels)` of the samples that are `known` (bool [B]); 0 with a gradient of 0 for fewer than two.

    For a loss that looks at samples together; what is a mean over them needs no wait for the device (`mean_of_known`).
    """
    if int(known.sum()) < 2:  # the host waits for the device here
        return 0 * values.sum()
    with torch.autocast(values.device.type, enabled=False):
        return loss(values[known], *(each[known] for each in labels))


def mean_of_known(losses: Tensor, known: Tensor) -> Tensor:
    """The mean over samples of `losses` [B, ...], of those that are `known` (bool [B]); 0 for fewer than two."""
    count = known.sum()
    mask = known.view(-1, *[1] * (losses.dim() - 1))
    mean: Tensor = torch.where(mask, losses, 0).sum(dim=0) / count.clamp(min=1)
    return torch.where(count < 2, 0 * mean, mean)


def known_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [B, K], its mean over the samples whose label (int64 [B]) is not -1."""
    losses = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="none")
    return mean_of_known(losses, labels >= 0)


class Gather(nn.Module):
    """A batch [B, ...] as it is; a module, so that training on several ranks can put the global batch in its place."""

    def forward(self, values: Tensor) -> Tensor:
        return values
