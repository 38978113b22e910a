"""Mixture: the best possible adversary of a narrow noisy release, in closed form.

A picture's release is u = mu + sigma e, mu its bounded features and e Gaussian. Over a batch u comes from a mixture of
Gaussians around all mu, so that what anybody can know of the attribute from u, p(s|u), is a ratio of two of its sums:
no adversary is trained, and none can do better on these pictures. The network pays KL(p(s|u) || prior).

Of numbers that are sent without noise it is a kernel estimate of what the best adversary knows, sigma its width.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from privatenet.models.channel import CENTRE, RELEASE
from privatenet.models.errors import ModelError
from privatenet.models.objectives.queue import Queue
from privatenet.models.objectives.term import Term, TermContext

KINDS = ("noise", "plain", "quantised")
LARGEST = 16
"""Numbers in a release: in more dimensions every picture is alone, and the sums say nothing."""


@dataclass(frozen=True)
class MixtureOptions:
    """Settings of `mixture`.

    Args:
        queue: Past pictures whose features stand beside the batch's in the mixture.
    """

    queue: Annotated[int, Field(ge=0)] = 1024


class Mixture(Term):
    """The mean over the global batch of KL(p(s|u) || prior), the prior being the classes' shares of the mixture."""

    options = MixtureOptions
    tap = CENTRE

    def __init__(self, options: MixtureOptions, context: TermContext) -> None:
        super().__init__(options, context)
        narrow = len(context.tap_shape) == 1 and context.tap_shape[0] <= LARGEST
        if context.channel.kind not in KINDS or not narrow:
            raise ModelError(
                f"mixture protects at most {LARGEST} numbers; accepted: at the tap {RELEASE}, with channel.kind "
                f"{', '.join(KINDS)}, and channel.numbers 1 to {LARGEST} or channel.at logits"
            )
        self.sigma = context.channel.sigma
        self.num_classes = len(context.frequencies)
        self.queue = Queue(options.queue, *context.tap_shape)

    @property
    def changes(self) -> bool:
        return True

    def view(self, features: Tensor) -> Tensor:
        """Centres and a release of each [B, 2, d]: on several ranks all take the same releases."""
        centres = features.float()
        return torch.stack([centres, centres + self.sigma * torch.randn_like(centres)], dim=1)

    def loss(self, values: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        batch, releases = values.unbind(dim=1)
        centres, labels, _ = self.queue(batch, labels, targets)
        return mixture_loss(releases, centres, labels, self.sigma, self.num_classes)


def mixture_loss(releases: Tensor, centres: Tensor, labels: Tensor, sigma: float, classes: int) -> Tensor:
    """KL(p(s|u) || prior), the mean over `releases` [B, d] of the last B of `centres` [N, d] with `labels` [N].

    A picture's own centre is left out of its mixture, and so are centres whose label is -1. Every class counts as if it
    had one sample more, which keeps one without samples in the prior and out of every answer.
    """
    exponents = (releases[:, None] - centres).square().sum(dim=2) / (-2 * sigma**2)
    own = torch.eye(len(centres), dtype=torch.bool, device=centres.device)[-len(releases) :]
    log_densities, counts = [], []
    for label in range(classes):
        members = (labels == label) & ~own
        count = members.sum(dim=1)
        log_sum = exponents.masked_fill(~members, _NOTHING).logsumexp(dim=1)
        log_densities.append(log_sum - count.clamp(min=1).log())
        counts.append(count + 1)
    prior = torch.stack(counts, dim=1).float()
    log_prior = (prior / prior.sum(dim=1, keepdim=True)).log()
    log_posterior = (torch.stack(log_densities, dim=1) + log_prior).log_softmax(dim=1)
    return (log_posterior.exp() * (log_posterior - log_prior)).sum(dim=1).mean()


_NOTHING = -1e9
"""The exponent of a centre that is not there: finite, so that a class without any has no gradient and makes no NaN."""
