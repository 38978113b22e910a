"""What a network answers to whoever only asks: the probability of each class, for every picture by itself."""

import torch
from torch import Tensor

from privatenet.models.channel import CENTRE
from privatenet.models.network import Network

DRAWS = 20
_SEED = 20_260


def probabilities(network: Network, images: Tensor) -> Tensor:
    """Pictures [B, 3, S, S] to probabilities float32 [B, K], always the same ones.

    Where a channel is noisy they are the mean over twenty draws of its noise, which are the same for every picture: an
    answer then depends neither on the batch nor on what was drawn before. So they are no releases that hide anything.
    """
    logits, taps = network(images)
    if network.spec.channel.kind != "noise":
        return softmax(logits)
    centres = taps[CENTRE]
    generator = torch.Generator().manual_seed(_SEED)
    noise = network.spec.channel.sigma * torch.randn(DRAWS, *centres.shape[1:], generator=generator)
    return torch.stack([softmax(network.answer(centres + one)) for one in noise.to(centres)]).mean(dim=0)


def softmax(logits: Tensor) -> Tensor:
    return logits.float().softmax(dim=1)
