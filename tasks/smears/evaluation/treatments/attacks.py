"""Make adversarial images, which a detector of abnormal images has to find.

The attacks are those of foolbox (Rauber et al. 2020). Pixels are in [0, 1], and strengths are
L-infinity bounds in these units.
"""

from typing import Any

import torch
from torch import Tensor

from tasks.network.classifier import Classifier

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
