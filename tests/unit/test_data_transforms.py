"""Augmentation: per sample, on any device, the same whatever the ranks."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from privatenet.data_shards.reading.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AugmentConfig,
    augment,
    move,
    prepare,
    uniform,
)

NONE = AugmentConfig(flip=0.0, noise=0.0, erase=0.0)


def faces(count: int, size: int = 20) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_chances_are_uniform_and_independent_between_samples_seeds_and_draws() -> None:
    chances = uniform(7, torch.arange(20000), 4)
    assert chances.min() >= 0
    assert chances.max() < 1
    counts = torch.histc(chances[:, 0], bins=20, min=0, max=1)
    assert ((counts - 1000).square() / 1000).sum() < 45  # chi-square with 19 degrees, p of 0.001
    others = torch.cat([chances, uniform(8, torch.arange(20000), 4), chances.roll(1, 0)], dim=1)
    correlation = torch.corrcoef(others.T) - torch.eye(12)
    assert correlation.abs().max() < 5 / math.sqrt(20000)


def test_a_sample_is_augmented_the_same_in_any_batch() -> None:
    config = AugmentConfig(flip=0.4, noise=0.4, shift=0.1, scale=0.1, rotate=10, light=0.2, erase=0.5)
    images, positions = faces(16), torch.arange(100, 116)
    whole = augment(images, 24, config, 3, positions)
    halves = [augment(images[part], 24, config, 3, positions[part]) for part in (slice(0, 5), slice(5, 16))]
    assert torch.allclose(whole, torch.cat(halves), atol=1e-5)
    assert not torch.allclose(whole, augment(images, 24, config, 4, positions), atol=0.1)


def test_without_chances_training_sees_what_evaluation_sees() -> None:
    images = faces(4)
    assert torch.equal(augment(images, 32, NONE, 0, torch.arange(4)), prepare(images, 32))


def test_evaluation_resizes_and_normalises_as_imagenet_networks_expect() -> None:
    images = faces(2)
    pixels = F.interpolate(images.float(), (40, 40), mode="bilinear", antialias=True) / 255
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    a_grey_level = 1.01 / 255 / min(IMAGENET_STD)  # rounded along rows, then along columns
    assert torch.allclose(prepare(images, 40), (pixels - mean) / std, atol=a_grey_level)


def test_flip_and_noise_have_their_chances_and_never_meet() -> None:
    images = faces(2000, size=8)
    plain = prepare(images, 8)
    seen = augment(images, 8, replace(NONE, flip=0.25, noise=0.25), 0, torch.arange(2000))
    flipped = (seen == plain.flip(3)).flatten(1).all(1)
    untouched = (seen == plain).flatten(1).all(1)
    noisy = ~flipped & ~untouched
    for share, expected in ((flipped, 0.25), (noisy, 0.25), (untouched, 0.5)):
        assert share.float().mean().item() == pytest.approx(expected, abs=0.05)


def test_noise_has_the_papers_variance() -> None:
    images = torch.full((200, 3, 16, 16), 128, dtype=torch.uint8)
    seen = augment(images, 16, replace(NONE, noise=1.0), 0, torch.arange(200))
    std = torch.tensor(IMAGENET_STD)[:, None, None] * 255
    assert ((seen - prepare(images, 16)) * std).var().item() == pytest.approx(30.0, rel=0.03)


def test_erasing_covers_the_papers_share_of_the_picture() -> None:
    images = torch.full((1000, 3, 50, 50), 255, dtype=torch.uint8)
    holes = augment(images, 50, replace(NONE, erase=0.5), 0, torch.arange(1000))[:, 0] == 0
    area = holes.flatten(1).float().mean(1)
    assert (area > 0).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert area[area > 0].min() > 0.015
    assert area.max() < 0.12


def test_moving_by_nothing_changes_nothing_and_a_shift_moves_the_picture() -> None:
    pixels = torch.rand(1, 3, 20, 20)
    half = torch.full((1,), 0.5)
    config = AugmentConfig(shift=0.1, rotate=20, scale=0.2)
    assert torch.allclose(move(pixels, config, half, half, half, half), pixels, atol=1e-5)
    right = move(pixels, config, torch.ones(1), half, half, half)  # two pixels of twenty
    assert torch.allclose(right[..., :-2], pixels[..., 2:], atol=1e-4)
