"""A term: one objective on one (tap, attribute), a module that maps features and labels to a loss for the network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, with_config
from torch import Tensor, nn

from privatenet.models.channel import NO_CHANNEL, ChannelSpec


@dataclass(frozen=True)
class TermContext:
    """What a term may be built from.

    `tap_shape` is that of one picture's features, `frequencies` float32 [K] the shares of the attribute's classes among
    the training samples. `known` is the adversary of this pair that was trained on the unprotected network, where the
    objective asks for one (`needs_adversary`); `fresh` builds one with new weights. `channel` is the network's.
    """

    tap_shape: tuple[int, ...]
    frequencies: Tensor
    known: nn.Module | None
    fresh: Callable[[], nn.Module]
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
    """Base of all objectives. `forward(features [B, ...], labels [B])` returns scalar losses: `loss`, which the network
    pays, and others for the record.

    A term may train an `adversary` of its own: then `learning` says how, and `adversary_loss` by what. `options` is the
    dataclass of the objective's settings. A term that needs the whole global batch takes it through `gather`. One that
    looks at another tap than the one it protects, as at features before their noise, names it in `tap`.
    """

    options: ClassVar[type[Any]]
    needs_adversary: ClassVar[bool] = False
    tap: ClassVar[str] = ""

    def __init__(self, options: Any, context: TermContext) -> None:
        super().__init__()
        self.adversary: nn.Module | None = None
        self.learning: Learning | None = None

    def forward(self, features: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def adversary_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """What the term's own adversary learns by, on detached features."""
        raise NotImplementedError

    def restart(self) -> None:
        """Give the term's own adversary new weights and statistics, in place."""
        raise NotImplementedError


class Gather(nn.Module):
    """A batch [B, ...] as it is; a module, so that training on several ranks can put the global batch in its place."""

    def forward(self, values: Tensor) -> Tensor:
        return values
