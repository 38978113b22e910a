"""The network as MLflow serves it."""

import torch
from torch import nn

from privatenet.models.channel import draw_noise_by, secret_noise


class Logits(nn.Module):
    """Normalised pictures in, logits out; the noise of a channel is the operating system's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        draw_noise_by(secret_noise, network)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)[0]
        return logits
