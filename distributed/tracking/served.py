"""The network as MLflow serves it."""

import torch
from torch import nn


class Logits(nn.Module):
    """Normalised pictures in, logits out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)[0]
        return logits
