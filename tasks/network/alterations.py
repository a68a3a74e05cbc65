"""Alter all cells of a slide as another laboratory would have photographed them.

The properties of a laboratory are drawn once for a slide: the stain (in absorbance), the camera's
colours, the light, the magnification, the tightness of the cut, the focus, the resolution and the
compression. Noise is left out: sensors add little, and more would be as large as an attack.
"""

import torch
from torch import Tensor, nn

from tasks.network.augmentation import (
    Augmentation,
    blurred,
    compressed,
    drawn_camera,
    drawn_light,
    drawn_stain,
    drawn_zoom,
    mixed,
    resampled,
    stained,
    zoomed,
)

# As training images vary, except for their size in the frame, which finders choose.
VARIED = Augmentation(zoom=0.2)
MOST_CUT = 0.05  # of the side: the widest rim of a cell that is cut off
MOST_BLURRED = 1.2  # pixels of the network's input, deviation of a Gaussian
LEAST_BLURRED = 0.3  # less is invisible
LEAST_RESOLUTION, FULL_RESOLUTION = 0.5, 0.9  # of the side; at the second and above nothing is done
COMPRESSED = 0.7  # share of slides that are compressed
LEAST_QUALITY, MOST_QUALITY = 30, 93  # of a JPEG


def as_elsewhere(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Alter the cells of one slide as another laboratory would show them.

    Args:
        pixels: (n, 3, side, side) in [0, 1], black outside the cells; left as they are.
        generator: source of all random numbers, on the processor.

    Returns:
        (n, 3, side, side) in [0, 1], black outside the cells that remain.
    """
    count = len(pixels)

    def drawn() -> float:
        return float(torch.rand((), generator=generator))

    made = zoomed(pixels, drawn_zoom(1, generator, VARIED).expand(count))
    inside = _cut((made.amax(dim=1, keepdim=True) > 0).float(), MOST_CUT * drawn())
    for gains in drawn_light(1, generator, VARIED):
        made = made * gains
    matrix, shift = drawn_stain(1, generator, VARIED)
    made = stained(made, matrix.expand(count, 3, 3), shift.expand(count, 3))
    made = mixed(made, drawn_camera(1, generator, VARIED).expand(count, 3, 3)).clamp(0.0, 1.0)
    if (sigma := MOST_BLURRED * drawn()) > LEAST_BLURRED:
        made = blurred(made, torch.full((count,), sigma))
    resolution = 1.0 - (1.0 - LEAST_RESOLUTION) * drawn()
    if resolution < FULL_RESOLUTION:
        made = resampled(made, resolution, ("area", "bilinear"))
    if (part := drawn() / COMPRESSED) < 1.0:
        quality = LEAST_QUALITY + (MOST_QUALITY - LEAST_QUALITY) * part
        made = compressed(made.clamp(0.0, 1.0), torch.full((count,), quality))
    return (made * inside).clamp(0.0, 1.0)


def _cut(inside: Tensor, share: float) -> Tensor:
    """Remove a rim, as wide as a share of the side, from masks (n, 1, side, side)."""
    width = round(share * inside.shape[-1])
    if not width:
        return inside
    return 1.0 - nn.functional.max_pool2d(1.0 - inside, 2 * width + 1, 1, width)
