"""Vary images as stains, cameras, light and files do: training images, and cells of a slide.

Cells are surrounded by black, which is neither dye nor light, so black stays black. Dyes act on
absorbance, the negative logarithm of the transmitted light (Beer and Lambert): the amount of a dye
scales it, and the light shifts it. Haematoxylin, eosin and the third vector of Ruifrok & Johnston
(2001) span it. They only roughly represent the dyes of Giemsa, but the network should learn to be
independent of colour, not to know these colours.
"""

import math

import torch
from skimage.color import hed_from_rgb, rgb_from_hed
from torch import Tensor, nn

DARKEST = 1 / 255  # the least light that an 8-bit image can show

# Luminance table of the JPEG standard (ITU-T T.81, annex K.1).
_JPEG = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
# Of a refractile mark, least and most: see `marked`.
_MARKS = (
    (-0.8, -0.8, 0.05, 0.05, 0.0, -1.6, -0.6, -0.2, -0.2, -0.2),
    (0.8, 0.8, 0.3, 0.2, math.pi, 0.6, 0.8, 0.2, 0.2, 0.2),
)
_KERNELS = ("nearest-exact", "area", "bilinear", "bicubic")

# The ranges by which training images are varied.
STAIN_SCALE, STAIN_SHIFT = 0.3, 0.1  # of each dye: a factor of 1 +- scale; +- shift in absorbance
GAMMA, ZOOM = 0.35, 0.15  # logarithms of the largest factor
GAIN, CHANNEL_GAIN = 0.25, 0.15  # of all channels together, and of each: a factor of 1 +- gain
MIXING = 0.12  # the largest fraction of another channel that is added to one
DEGRADED = 0.4  # the share of images that are blurred, made noisy, compressed or reduced
MARKED = 0.3  # the share with refractile marks, which water leaves on a drying smear
# Cells vary like this at another laboratory, otherwise as training images do.
ZOOMED = 0.2  # as `ZOOM`; finders choose a cell's size in the frame
MOST_CUT = 0.05  # of the side: the widest rim of a cell that is cut off
MOST_BLURRED = 1.2  # pixels of the network's input, deviation of a Gaussian
LEAST_BLURRED = 0.3  # less is invisible
LEAST_RESOLUTION, FULL_RESOLUTION = 0.5, 0.9  # of the side; at the second and above nothing is done
COMPRESSED = 0.7  # share of slides that are compressed
LEAST_QUALITY, MOST_QUALITY = 30, 93  # of a JPEG


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Vary images (n, 3, side, side) in [0, 1]: turn, flip, zoom, stain, light, camera, file."""
    count = len(pixels)
    made = zoomed(turned(pixels, generator), _factors(ZOOM, (count,), generator))
    lit = made.amax(dim=1, keepdim=True) > 0
    made = _marked(made, generator)
    for gains in drawn_light(count, generator):
        made = made * gains
    made = stained(made, *drawn_stain(count, generator))
    made = mixed(made, drawn_camera(count, generator))
    made = _degraded(made.clamp_(0.0, 1.0), generator)
    return made.mul_(lit).clamp_(0.0, 1.0).contiguous(memory_format=torch.channels_last)


def turned(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate each image by quarter turns and flip it at random: a cell has no orientation."""
    count = len(pixels)
    flips = torch.randint(0, 2, (count,), generator=generator)
    quarters = torch.randint(0, 4, (count,), generator=generator)
    made = torch.where((flips > 0)[:, None, None, None], pixels.flip(3), pixels)
    for turns in range(1, 4):
        rows = torch.nonzero(quarters == turns)[:, 0]
        made[rows] = torch.rot90(made[rows], turns, (2, 3))
    return made


def zoomed(pixels: Tensor, factors: Tensor) -> Tensor:
    """Enlarge images (n, C, side, side) about their middle by factors (n,), padded with black."""
    turn = torch.zeros(len(pixels), 2, 3)
    turn[:, 0, 0] = turn[:, 1, 1] = 1.0 / factors
    grid = nn.functional.affine_grid(turn, list(pixels.shape), align_corners=False)
    return nn.functional.grid_sample(pixels, grid, align_corners=False)


def stained(pixels: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Change absorbance by a matrix (n, 3, 3) and a shift (n, 3), of row vectors of channels."""
    absorbance = pixels.clamp(min=DARKEST).log_().neg_()
    return _through(absorbance, matrix, shift).neg_().exp_()


def mixed(pixels: Tensor, matrix: Tensor) -> Tensor:
    """Mix channels by matrices (n, 3, 3), as the filters of another camera do."""
    return _through(pixels, matrix, torch.zeros(len(pixels), 3))


def blurred(pixels: Tensor, sigmas: Tensor) -> Tensor:
    """Blur each image by a Gaussian of its own deviation (n,), in pixels, truncated at 2 pixels."""
    weights = torch.exp(-0.5 * (torch.arange(-2, 3) / sigmas[:, None]) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    side = pixels.shape[-1]
    for axis in (2, 3):
        padding = (0, 0, 2, 2) if axis == 2 else (2, 2, 0, 0)
        wide = nn.functional.pad(pixels, padding, mode="replicate")
        pixels = sum(
            (wide.narrow(axis, k, side) * weights[:, k, None, None, None] for k in range(5)),
            torch.zeros(()),
        )
    return pixels


def compressed(pixels: Tensor, qualities: Tensor) -> Tensor:
    """Simulate JPEG at qualities (n,) of 1 to 100, for a tenth of the cost of a file."""
    side = pixels.shape[-1]
    spare = -side % 8
    wide = nn.functional.pad(pixels, (0, spare, 0, spare), mode="replicate") * 255.0 - 128.0
    blocks = wide.unfold(2, 8, 8).unfold(3, 8, 8)
    scale = torch.where(qualities < 50, 5000 / qualities, 200 - 2 * qualities) / 100
    steps = (torch.tensor(_JPEG) * scale[:, None, None]).clamp_(min=1.0)[:, None, None, None]
    basis = _cosines()  # orthonormal, of 8 samples, a row for each frequency (DCT-II)
    rounded = ((basis @ blocks @ basis.T) / steps).round_() * steps
    made = (basis.T @ rounded @ basis).transpose(3, 4).reshape(wide.shape)
    return ((made[:, :, :side, :side] + 128.0) / 255.0).clamp_(0.0, 1.0)


def resampled(pixels: Tensor, factor: float, kernels: tuple[str, str]) -> Tensor:
    """Shrink images by a factor below 1 and enlarge them again, each with one of two kernels."""
    side = pixels.shape[-1]
    for size, kernel in zip((max(1, round(factor * side)), side), kernels, strict=True):
        corners = False if kernel in ("bilinear", "bicubic") else None
        pixels = nn.functional.interpolate(pixels, size, mode=kernel, align_corners=corners)
    return pixels.clamp(0.0, 1.0)


def marked(pixels: Tensor, marks: Tensor) -> Tensor:
    """Draw a refractile mark on each image, which bends light and is no dye.

    Absorbance is multiplied by e^core in its core, and by e^rim on its rim. Colours are bent
    differently, so each channel sees the mark at its own size: its rim has fringes. ``marks``
    (n, 10) are the middle's column and row, in [-1, 1]; half axes, in halves of the side; angle in
    radians; core and rim; dispersion, the growth of size per channel.
    """
    side = pixels.shape[-1]
    column, row, long, short, angle, core, rim = marks[:, :7, None, None, None].unbind(1)
    size = 1 + marks[:, 7:, None, None]
    places = (torch.arange(side) * 2 + 1) / side - 1
    right, down = places - column, places[:, None] - row
    along = (right * angle.cos() + down * angle.sin()) / long
    across = (down * angle.cos() - right * angle.sin()) / short
    radius = (along.square() + across.square()).sqrt() / size
    profile = core * torch.exp(-2 * radius**2) + rim * torch.exp(-8 * (radius - 1) ** 2)
    return pixels.clamp(min=DARKEST).pow(profile.exp())


def _marked(pixels: Tensor, generator: torch.Generator) -> Tensor:
    made = pixels.clone()
    left = torch.rand(len(pixels), generator=generator) < MARKED
    for _ in range(4):
        rows = torch.nonzero(left)[:, 0]
        least, most = torch.tensor(_MARKS).unbind()
        drawn = torch.rand(len(rows), len(least), generator=generator)
        made[rows] = marked(made[rows], least + (most - least) * drawn)
        left &= torch.rand(len(pixels), generator=generator) < 0.5
    return made


def drawn_light(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw gains for all channels together (n, 1, 1, 1), and for each (n, 3, 1, 1)."""
    gain = 1.0 + GAIN * _signs((count, 1, 1, 1), generator)
    return gain, 1.0 + CHANNEL_GAIN * _signs((count, 3, 1, 1), generator)


def drawn_stain(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw changes of absorbance, (n, 3, 3) and (n, 3): dyes scaled and shifted, then a power."""
    to_dyes, from_dyes = (torch.tensor(m).float() for m in (hed_from_rgb, rgb_from_hed))
    scales = 1.0 + STAIN_SCALE * _signs((count, 1, 3), generator)
    shifts = STAIN_SHIFT * _signs((count, 3), generator)
    gamma = _factors(GAMMA, (count, 1), generator)
    return (to_dyes * scales) @ from_dyes * gamma[:, :, None], shifts @ from_dyes * gamma


def drawn_camera(count: int, generator: torch.Generator) -> Tensor:
    """Draw matrices (n, 3, 3) by which a camera's filters mix channels."""
    parts = MIXING * _signs((count, 3, 3), generator)
    return torch.eye(3) + parts * (1.0 - torch.eye(3))


def _degraded(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, add noise to, compress or resample a share of images, all kinds equally often."""
    kinds = torch.rand(len(pixels), generator=generator) * 4 / DEGRADED
    blur, noise, file, coarse = (torch.nonzero(kinds.floor() == kind)[:, 0] for kind in range(4))
    sigmas = 0.3 + 1.5 * torch.rand(len(blur), generator=generator)
    pixels[blur] = blurred(pixels[blur], sigmas)
    grain = torch.randn((len(noise), *pixels.shape[1:]), generator=generator)
    strength = 0.04 * torch.rand(len(noise), 1, 1, 1, generator=generator)
    pixels[noise] += strength * grain
    qualities = 30 + 60 * torch.rand(len(file), generator=generator)
    pixels[file] = compressed(pixels[file], qualities)
    down, up = torch.randint(0, len(_KERNELS), (2,), generator=generator).tolist()
    factor = 0.33 + 0.57 * float(torch.rand((), generator=generator))
    pixels[coarse] = resampled(pixels[coarse], factor, (_KERNELS[down], _KERNELS[up]))
    return pixels


def _through(pixels: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Apply a matrix (n, 3, 3) and a shift (n, 3) to each pixel, a row vector of channels."""
    count, _, *size = pixels.shape
    flat = torch.baddbmm(shift[:, None], pixels.permute(0, 2, 3, 1).flatten(1, 2), matrix)
    return flat.view(count, *size, 3).permute(0, 3, 1, 2)


def _cosines() -> Tensor:
    k, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    basis = torch.cos(math.pi * (2 * x + 1) * k / 16) / 2
    basis[0] /= math.sqrt(2.0)
    return basis


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(*shape, generator=generator) - 1


def _factors(largest: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.exp(largest * _signs(shape, generator))


def as_elsewhere(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Alter the cells (n, 3, side, side) of a slide as another laboratory would photograph them.

    The laboratory is drawn once for all cells. Noise is left out: sensors add little, and more
    would be as large as an attack. Pixels are as `augment` takes them, and stay black outside.
    """
    count = len(pixels)

    def drawn() -> float:
        return float(torch.rand((), generator=generator))

    made = zoomed(pixels, _factors(ZOOMED, (1,), generator).expand(count))
    inside = (made.amax(dim=1, keepdim=True) > 0).float()
    if width := round(MOST_CUT * drawn() * inside.shape[-1]):
        inside = 1.0 - nn.functional.max_pool2d(1.0 - inside, 2 * width + 1, 1, width)
    for gains in drawn_light(1, generator):
        made = made * gains
    matrix, shift = drawn_stain(1, generator)
    made = stained(made, matrix.expand(count, 3, 3), shift.expand(count, 3))
    made = mixed(made, drawn_camera(1, generator).expand(count, 3, 3)).clamp(0.0, 1.0)
    if (sigma := MOST_BLURRED * drawn()) > LEAST_BLURRED:
        made = blurred(made, torch.full((count,), sigma))
    resolution = 1.0 - (1.0 - LEAST_RESOLUTION) * drawn()
    if resolution < FULL_RESOLUTION:
        made = resampled(made, resolution, ("area", "bilinear"))
    if (part := drawn() / COMPRESSED) < 1.0:
        quality = LEAST_QUALITY + (MOST_QUALITY - LEAST_QUALITY) * part
        made = compressed(made.clamp(0.0, 1.0), torch.full((count,), quality))
    return (made * inside).clamp(0.0, 1.0)
