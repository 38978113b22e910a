"""Feature maps [B, C, h, w] of what networks compute otherwise: maps with channels last, and transformers' tokens."""

from collections.abc import Sequence
from math import isqrt
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["map", "channels last", "tokens"]


def side_of(shape: Sequence[int], layout: Layout) -> int:
    """Height and width of the map of one picture's features of this shape."""
    return isqrt(shape[0]) if layout == "tokens" else shape[0 if layout == "channels last" else 1]


def to_map(features: Tensor, layout: Layout) -> Tensor:
    """The map of `features`, with all that is in them, so that `from_map` gives them back.

    Of tokens [B, k + h * h, D], the k first of which have no place in the picture (a class token, registers), the map
    is [B, (1 + k) * D, h, h]: the others where they belong, and those k everywhere, as further channels. Means over
    positions, which linear heads and attackers look at, hold each of them undiluted then.
    """
    if layout == "map":
        return features
    if layout == "channels last":
        return features.permute(0, 3, 1, 2)
    side = isqrt(features.shape[1])
    placeless, placed = features.split([features.shape[1] - side**2, side**2], dim=1)
    everywhere = placeless.flatten(1)[:, :, None, None].expand(-1, -1, side, side)
    return torch.cat([placed.transpose(1, 2).unflatten(2, (side, side)), everywhere], dim=1)


def from_map(features: Tensor, layout: Layout, channels: int) -> Tensor:
    """What `to_map` made the map of, where a token has so many `channels`; of what is everywhere, the mean."""
    if layout == "map":
        return features
    if layout == "channels last":
        return features.permute(0, 2, 3, 1)
    placed, everywhere = features.split([channels, features.shape[1] - channels], dim=1)
    placeless = everywhere.mean(dim=(2, 3)).unflatten(1, (-1, channels)) if everywhere.shape[1] else None
    tokens = placed.flatten(2).transpose(1, 2)
    return tokens if placeless is None else torch.cat([placeless, tokens], dim=1)
