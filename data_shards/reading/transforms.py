"""From uint8 pictures to what a network takes, on the device, a whole batch at once, every sample with its own chance.

Random numbers are a function of (seed, the sample's place in the run): the same pictures come out whatever the number
of ranks, workers or micro-batches, and on every kind of device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class AugmentConfig:
    """How training pictures vary. The defaults are those of PrivateNet's released recipe.

    Args:
        flip: Chance of a horizontal flip.
        noise: Chance of Gaussian noise. A picture gets a flip or noise, never both: flip + noise <= 1.
        noise_variance: Variance of that noise, in squared grey levels (0-255).
        shift: Largest shift, as a fraction of the side, in both directions.
        scale: Largest relative change of size.
        rotate: Largest rotation, in degrees.
        light: Largest relative change of brightness and of contrast.
        erase: Chance of erasing one rectangle.
        erase_min_area: Smallest area of that rectangle, as a fraction of the picture.
        erase_max_area: Largest area of that rectangle, as a fraction of the picture.
    """

    flip: float = 0.25
    noise: float = 0.25
    noise_variance: float = 30.0
    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    light: float = 0.0
    erase: float = 0.5
    erase_min_area: float = 0.02
    erase_max_area: float = 0.1


def prepare(images: Tensor, size: int) -> Tensor:
    """Resize uint8 pictures [B, 3, H, W] to `size` and normalise them by ImageNet's mean and deviation: evaluation."""
    return normalise(resize(images, size))


def augment(images: Tensor, size: int, config: AugmentConfig, seed: int, positions: Tensor) -> Tensor:
    """Vary uint8 pictures [B, 3, H, W] as `config` says, resize and normalise them: training.

    `positions` int64 [B] are the samples' places in the run's sequence; they and `seed` decide every chance.
    """
    choice, *chances = uniform(seed, positions, 12).unbind(1)
    if config.noise:
        chosen = (choice >= config.flip) & (choice < config.flip + config.noise)
        noisy = partial(add_noise, images, config.noise_variance, seed, positions)
        images = change(images, chosen, noisy)
    if config.flip:  # before anything is made larger
        images = change(images, choice < config.flip, lambda index: images[index].flip(3))
    pixels = resize(images, size)
    if config.shift or config.scale or config.rotate:
        pixels = move(pixels.float(), config, *chances[0:4])
    if config.light:
        pixels = change_light(pixels.float(), config.light, *chances[4:6])
    pixels = normalise(pixels)
    if config.erase:
        pixels = erase(pixels, config, *chances[6:11])
    return pixels


def resize(images: Tensor, size: int) -> Tensor:
    """Scale uint8 pictures [B, 3, H, W] to `size`, bilinear with antialiasing, to whole grey levels."""
    if images.shape[-2:] == (size, size):
        return images
    if images.device.type == "cpu":
        return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True).round().byte()


def normalise(pixels: Tensor) -> Tensor:
    """Grey levels [B, 3, H, W] to what ImageNet's networks expect: float32, channels last in memory."""
    height, width = pixels.shape[-2:]
    factor, shift = _normalisation(width, pixels.device)
    rows = pixels.permute(0, 2, 3, 1).reshape(-1, height, 3 * width).to(torch.float32, copy=True)
    torch.addcmul(shift, rows, factor, out=rows)
    return rows.view(-1, height, width, 3).permute(0, 3, 1, 2)


@cache
def _normalisation(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and shift of every number in a row of pixels: in full, as broadcasting three is many times slower."""
    mean, std = torch.tensor(IMAGENET_MEAN) * 255, torch.tensor(IMAGENET_STD) * 255
    return (1 / std).repeat(width).to(device), (-mean / std).repeat(width).to(device)


def change(images: Tensor, chosen: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """Put what `work` makes of the pictures at an index in place of those that the mask `chosen` [B] names.

    On a GPU it is done to all, as the host would have to wait for the device to know which.
    """
    if images.device.type == "cpu":
        index = chosen.nonzero().squeeze(1)
        changed = images.clone()  # in the same memory layout, which resizing is fastest with
        changed[index] = work(index)
        return changed
    every = torch.arange(len(chosen), device=images.device)
    return torch.where(chosen[:, None, None, None], work(every), images)


def add_noise(images: Tensor, variance: float, seed: int, positions: Tensor, index: Tensor) -> Tensor:
    """The pictures at `index`, with Gaussian noise in whole grey levels, clipped to 0-255."""
    _, depth, height, width = images.shape
    values = depth * height * width
    places = _bits(seed + 1, positions[index], -(-values // 4)).view(torch.int16)[:, :values].int() + 2**15
    noise = _noise_levels(variance, images.device).index_select(0, places.flatten())
    noise = noise.view(-1, height, width, depth).permute(0, 3, 1, 2)  # as pictures lie in memory
    noisy: Tensor = (images[index] + noise).clamp_(0, 255).byte()
    return noisy


@cache
def _noise_levels(variance: float, device: torch.device) -> Tensor:
    """The quantiles of Gaussian noise, rounded, int16 [65536]: a uniform place among them is such a random number."""
    quantiles: Tensor = torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16)
    levels: Tensor = (quantiles * variance**0.5).round().short().to(device)
    return levels


def move(pixels: Tensor, config: AugmentConfig, right: Tensor, down: Tensor, size: Tensor, angle: Tensor) -> Tensor:
    """Shift, scale and rotate every picture by its own chances in [0, 1); the border's colour fills what comes free."""
    radians = torch.deg2rad(config.rotate * (2 * angle - 1))
    factor = 1 / (1 + config.scale * (2 * size - 1))
    cos, sin = factor * radians.cos(), factor * radians.sin()
    across, along = 2 * config.shift * (2 * right - 1), 2 * config.shift * (2 * down - 1)
    rows = torch.stack([cos, -sin, across, sin, cos, along], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def change_light(pixels: Tensor, strength: float, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Scale every picture's brightness, and its contrast about its own mean, by up to 1 +- `strength`."""
    gain = (1 + strength * (2 * brightness - 1))[:, None, None, None]
    stretch = (1 + strength * (2 * contrast - 1))[:, None, None, None]
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    return (gain * (mean + stretch * (pixels - mean))).clamp(0, 255)


def erase(pixels: Tensor, config: AugmentConfig, *chances: Tensor) -> Tensor:
    """Set one rectangle of each chosen picture to zero, the mean after normalisation (Zhong et al., AAAI 2020).

    Changes `pixels` where they are.
    """
    chosen, area, ratio, across, along = chances
    height, width = pixels.shape[-2:]
    fraction = config.erase_min_area + (config.erase_max_area - config.erase_min_area) * area
    stretch = torch.exp((2 * ratio - 1) * math.log(3.3) / 2)
    tall, wide = (torch.sqrt(fraction) * stretch * height), (torch.sqrt(fraction) / stretch * width)
    top, left = along * (height - tall), across * (width - wide)
    if pixels.device.type == "cpu":
        corners = torch.stack([top, top + tall, left, left + wide], dim=1).ceil().int()
        for place in (chosen < config.erase).nonzero().flatten().tolist():
            first, last, start, end = corners[place].tolist()
            pixels[place, :, first:last, start:end] = 0.0
        return pixels
    row = torch.arange(height, device=pixels.device)
    column = torch.arange(width, device=pixels.device)
    inside_rows = (row >= top[:, None]) & (row < (top + tall)[:, None])
    inside_columns = (column >= left[:, None]) & (column < (left + wide)[:, None])
    hole = inside_rows[:, :, None] & inside_columns[:, None, :] & (chosen < config.erase)[:, None, None]
    return pixels.masked_fill_(hole[:, None], 0.0)


def uniform(seed: int, positions: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each of `positions` int64 [B]: float32 [B, count], by hashing (SplitMix64).

    A function of its arguments alone: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    return _shift(_bits(seed, positions, count), 40).float() * 2.0**-24


def _bits(seed: int, positions: Tensor, count: int) -> Tensor:
    """`count` times 64 random bits for each of `positions`: int64 [B, count]."""
    stream = _mix(positions + _mix(torch.full((), seed, device=positions.device)))
    return _mix(stream[:, None] + torch.arange(1, count + 1, device=positions.device) * _GAMMA)


_GAMMA = 0x9E3779B97F4A7C15 - 2**64


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    value = (value ^ _shift(value, 27)) * (0x94D049BB133111EB - 2**64)
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift int64 right, filling with zeros (torch's own shift copies the sign)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
