"""Change images as attackers, cameras and files do.

Attacks make adversarial images, which a detector of abnormal images has to find. They are those of
foolbox (Rauber et al. 2020). Pixels are in [0, 1], and strengths are L-infinity bounds in these
units.

Corruptions are covariate shifts: the same cell with a worse microscope, another stain or camera.
Each kind has five strengths, from barely visible to gross, as in Hendrycks & Dietterich (2019,
arXiv 1903.12261), applied at the image's own size. Cells are cut out after the camera, so black
around them stays black and does not bleed into a blurred cell; only JPEG smears the edge.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from tasks.network.classifier import Classifier
from tasks.types import Pixels

Function = Callable[[Tensor, float, Generator], Tensor]  # of pixels (3, H, W) in [0, 1]

EPSILONS = (2 / 255, 4 / 255, 8 / 255)
# Goodfellow, Shlens & Szegedy 2015; Madry et al. 2018, from a random start.
STRENGTHS = {"fgsm": (*EPSILONS, 0.05), "pgd": EPSILONS}
PGD_STEPS = 10


def attack(
    name: str, classifier: Classifier, pixels: Tensor, labels: Tensor, strength: float, seed: int
) -> Tensor:
    """Make adversarial versions (B, 3, S, S) of images with labels (B,), not rounded to 8 bits.

    An image that does not fool the classifier is returned as far as the attack got.
    """
    import foolbox  # few installations have it

    library: Any = foolbox  # without types
    if name == "fgsm":
        made = library.attacks.LinfFastGradientAttack()
    else:
        made = library.attacks.LinfPGD(rel_stepsize=2.5 / PGD_STEPS, steps=PGD_STEPS)
    torch.manual_seed(seed)  # foolbox draws random starts from the global generator
    model = library.PyTorchModel(classifier, bounds=(0, 1), device=pixels.device)
    _, attacked, _ = made(model, pixels, labels, epsilons=strength)
    return torch.as_tensor(attacked).detach()


def matched_noise(pixels: Tensor, strength: float, seed: int) -> Tensor:
    """Add random signs times the strength of an attack to pixels (B, 3, S, S)."""
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    return (pixels + strength * noise.to(pixels.device).sign()).clamp(0, 1)


def round_to_8_bits(pixels: Tensor) -> Tensor:
    """Round pixels in [0, 1] to the values that a lossless image file stores."""
    return (pixels * 255).round() / 255


def corrupt(image: Pixels, name: str, level: int, seed: int = 0) -> Pixels:
    """Make a shifted copy of an image.

    Random choices (grain, direction, place) depend on the seed and the image but not on the level:
    a higher level is more of the same. The image (H, W, 3) has its own size; a level is from 1,
    barely visible, to 5, gross.
    """
    strengths, function = CORRUPTIONS[name]
    rng = np.random.default_rng([seed, zlib.crc32(image.tobytes())])
    pixels = torch.tensor(image).permute(2, 0, 1).float() / 255.0
    shifted = function(pixels, strengths[level - 1], rng)
    levels = (shifted * 255.0).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())


def _inside(pixels: Tensor) -> Tensor:
    """Mark pixels inside the cell, (1, H, W): 0 where segmentation has painted black, else 1."""
    return (pixels.amax(dim=0, keepdim=True) > 0).float()


def _smooth(pixels: Tensor, smooth: Callable[[Tensor], Tensor]) -> Tensor:
    """Average neighbours inside the cell with a linear filter."""
    inside = _inside(pixels)
    return inside * smooth(pixels) / smooth(inside).clamp(min=1e-6)


def _convolve(pixels: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel with one kernel of odd sides; pixels outside the image are 0."""
    padding = [side // 2 for side in kernel.shape]
    return torch.conv2d(pixels[:, None], kernel[None, None], padding=padding)[:, 0]


def _defocus(pixels: Tensor, sigma: float, rng: Generator) -> Tensor:
    reach = math.ceil(3 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    bell /= bell.sum()
    return _smooth(pixels, lambda x: _convolve(_convolve(x, bell[:, None]), bell[None]))


def _motion(pixels: Tensor, length: float, rng: Generator) -> Tensor:
    """Average every pixel along a line."""
    way = np.exp(1j * rng.uniform(0, math.pi)) * np.linspace(-length / 2, length / 2, 101)
    reach = math.ceil(length / 2)
    line = torch.zeros(2 * reach + 1, 2 * reach + 1)
    for point in way:
        line[reach + round(point.imag), reach + round(point.real)] += 1 / len(way)
    return _smooth(pixels, lambda x: _convolve(x, line))


def _magnification(pixels: Tensor, factor: float, rng: Generator) -> Tensor:
    """Reduce the image to fewer pixels, and enlarge it to its old size."""
    size = list(pixels.shape[-2:])
    fewer = [max(1, round(n / factor)) for n in size]
    return _smooth(pixels, lambda x: tv.resize(tv.resize(x, fewer, antialias=True), size))


def _jpeg(pixels: Tensor, loss: float, rng: Generator) -> Tensor:
    levels = (pixels * 255.0).round().to(torch.uint8)
    compressed: Tensor = tv.jpeg(levels, quality=round(100 - loss))
    return compressed.float() / 255.0


def _noise(pixels: Tensor, deviation: float, rng: Generator) -> Tensor:
    grain = torch.from_numpy(rng.standard_normal(tuple(pixels.shape), np.float32))
    # A noisy pixel of the cell must not look like surround.
    noisy = (pixels + deviation / 255.0 * grain).clamp(min=1 / 255.0)
    return _inside(pixels) * noisy


def _cast(pixels: Tensor, strength: float, rng: Generator) -> Tensor:
    """Apply a gain to every channel that keeps the overall brightness."""
    direction = rng.standard_normal(3)
    direction -= direction.mean()
    gains = 1.0 + strength * direction / np.abs(direction).max()
    return pixels * torch.tensor(gains, dtype=torch.float32)[:, None, None]


def _contrast(pixels: Tensor, factor: float, rng: Generator) -> Tensor:
    """Move every pixel of the cell towards the cell's mean colour."""
    inside = _inside(pixels)
    mean = pixels.sum(dim=(1, 2), keepdim=True) / inside.sum().clamp(min=1)
    return inside * (mean + factor * (pixels - mean))


def _debris(pixels: Tensor, share: float, rng: Generator) -> Tensor:
    """Draw a dark disc near the middle whose radius is a share of the image's shorter side."""
    height, width = pixels.shape[-2:]
    y, x = (n * rng.uniform(0.3, 0.7) for n in (height, width))
    away = np.hypot(np.arange(height)[:, None] - y, np.arange(width) - x)
    disc = torch.from_numpy(away <= share * min(height, width))
    colour = torch.tensor(rng.uniform(0.05, 0.25, 3), dtype=torch.float32)[:, None, None]
    return torch.where(disc & (_inside(pixels) > 0), colour, pixels)


# Strengths from barely visible to gross, in the unit that is named.
CORRUPTIONS: dict[str, tuple[tuple[float, float, float, float, float], Function]] = {
    "defocus": ((0.5, 1.0, 1.5, 2.5, 4.0), _defocus),  # pixels, sd of a Gaussian
    "motion": ((2.0, 4.0, 7.0, 12.0, 20.0), _motion),  # pixels, length of the line
    "magnification": ((1.25, 1.5, 2.0, 3.0, 5.0), _magnification),  # times fewer pixels
    "jpeg": ((10.0, 25.0, 50.0, 75.0, 92.0), _jpeg),  # 100 - JPEG quality
    "noise": ((2.0, 4.0, 8.0, 16.0, 32.0), _noise),  # grey levels, sd
    "dim": ((0.95, 0.85, 0.7, 0.5, 0.3), lambda x, gain, _: x * gain),
    "bright": ((1.05, 1.1, 1.2, 1.4, 1.8), lambda x, gain, _: x * gain),
    "contrast": ((0.9, 0.75, 0.6, 0.4, 0.2), _contrast),  # share that is left
    "saturation": ((0.85, 0.7, 0.5, 0.25, 0.0), lambda x, left, _: tv.adjust_saturation(x, left)),
    "hue": (  # degrees, either way
        (4.0, 8.0, 16.0, 40.0, 90.0),
        lambda x, degrees, rng: tv.adjust_hue(x, rng.choice([-1.0, 1.0]) * degrees / 360.0),
    ),
    "cast": ((0.03, 0.06, 0.12, 0.25, 0.5), _cast),  # largest change of a gain
    "debris": ((0.03, 0.05, 0.08, 0.14, 0.25), _debris),  # shorter sides, radius
}
