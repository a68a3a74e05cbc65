"""Make adversarial images, which a detector of abnormal images has to find.

Known attacks come from foolbox (Rauber et al. 2020); the adaptive one is ours and knows the
detector. Pixels are in [0, 1], and strengths are L-infinity bounds in these units.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.detector.detector import Detector
from tasks.network.classifier import Classifier, Outputs

EPSILONS = (2 / 255, 4 / 255, 8 / 255)
PGD_STEPS = 10
CLIPPED_ROUNDS = 5
ADAPTIVE_STEPS = 30
# The weights of the detector against the classifier in the adaptive attack; each is tried.
ADAPTIVE_WEIGHTS = (0.1, 1.0)


@dataclass(frozen=True)
class Target:
    """The target of an attack: a classifier in evaluation mode, its detector, and a threshold.

    Images with at least the abnormality ``threshold`` are called abnormal; logits are divided by
    ``temperature``.
    """

    classifier: Classifier
    detector: Detector
    threshold: float
    temperature: float = 1.0


Perturb = Callable[[Target, Tensor, Tensor, float | None], Tensor]


@dataclass(frozen=True)
class Attack:
    """A function to perturb pixels (B, 3, S, S) with labels (B,), and the strengths to try.

    An attack without strengths looks for the smallest sufficient perturbation in L2.
    """

    perturb: Perturb
    strengths: tuple[float | None, ...]


def attack(
    name: str, target: Target, pixels: Tensor, labels: Tensor, strength: float | None, seed: int
) -> Tensor:
    """Make adversarial versions (B, 3, S, S) of images in [0, 1], not rounded to 8 bits.

    An image that does not fool the classifier is returned as far as the attack got.
    """
    torch.manual_seed(seed)  # foolbox draws random starts from the global generator
    return ATTACKS[name].perturb(target, pixels, labels, strength).detach()


def matched_noise(pixels: Tensor, attacked: Tensor, strength: float | None, seed: int) -> Tensor:
    """Add random noise of an attack's size to pixels (B, 3, S, S).

    Random signs times the strength match an attack with an L-infinity bound; Gaussian noise of the
    same L2 norm, image by image, matches one without a bound.
    """
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    noise = noise.to(pixels.device)
    if strength is not None:
        return (pixels + strength * noise.sign()).clamp(0, 1)
    wanted = l2_norm(attacked - pixels)
    noisy = pixels
    size = wanted / l2_norm(noise)
    for _ in range(CLIPPED_ROUNDS):
        noisy = (pixels + size.view(-1, 1, 1, 1) * noise).clamp(0, 1)
        # A black surround clips half of the noise; the rest has to make up for it.
        size = size * wanted / l2_norm(noisy - pixels).clamp_min(1e-12)
    return noisy


def round_to_8_bits(pixels: Tensor) -> Tensor:
    """Round pixels in [0, 1] to the values that a lossless image file stores."""
    return (pixels * 255).round() / 255


def l2_norm(difference: Tensor) -> Tensor:
    """Compute L2 norms (B,) over all pixels and colours."""
    norms: Tensor = torch.linalg.vector_norm(difference.flatten(1), dim=1)
    return norms


def linf_norm(difference: Tensor) -> Tensor:
    """Compute L-infinity norms (B,)."""
    return difference.flatten(1).abs().amax(dim=1)


def differentiable_abnormality(detector: Detector, taps: Mapping[str, Tensor]) -> Tensor:
    """Compute the abnormality (B,) of taps (B, d) in a form that torch can differentiate."""
    calibration, columns = detector.calibration, []
    for name, gaussian in detector.gaussians.items():
        features = taps[name].double()
        factor = torch.as_tensor(gaussian.factor, device=features.device)
        means = torch.as_tensor(gaussian.means, device=features.device)
        means = means[~means.isnan().any(dim=1)]
        offsets = (features[:, None] - means).flatten(0, 1)
        white = torch.linalg.solve_triangular(factor, offsets.T, upper=False)
        distances = white.square().sum(dim=0).view(len(features), len(means))
        columns.append(distances.amin(dim=1).clamp_min(torch.finfo(torch.float64).tiny).log())
    mean, deviation = (
        torch.as_tensor(a, device=columns[0].device)
        for a in (calibration.mean, calibration.deviation)
    )
    return ((torch.stack(columns, dim=1) - mean) / deviation).amax(dim=1)


def diagnosed(target: Target, pixels: Tensor) -> Outputs:
    """Compute taps and the logits (B, C) of the diagnosis for pixels (B, 3, side, side).

    With two witnesses the logits combine both, as for a slide without a lean.
    """
    taps, logits = target.classifier.features(pixels)
    known = target.detector.witnesses
    if known is None:
        return taps, logits
    place, scales = known.positive, known.scales
    network = (logits[:, place] - logits[:, 1 - place]).double() / target.temperature
    scores = torch.full_like(network, known.discriminant.offset)
    for tap, weights in known.discriminant.weights.items():
        scores = scores + taps[tap].double() @ torch.as_tensor(weights, device=network.device)
    total = scales.network.scale * network + scales.network.bias
    total = total + scales.statistics.scale * scores + scales.statistics.bias
    half = (scales.both.scale * total + scales.both.bias) / 2
    return taps, torch.stack([half, -half] if place == 0 else [-half, half], dim=1)


def _adaptive(target: Target, pixels: Tensor, labels: Tensor, strength: float | None) -> Tensor:
    """Attack classifier and detector together; keep the least abnormal image that fools.

    For each weight w this is a signed projected ascent of the cross-entropy minus w times the
    abnormality above the alarm's threshold, in steps that shrink to 0.
    """
    assert strength is not None
    best = pixels.clone()
    best_abnormality = torch.full((len(pixels),), torch.inf, dtype=torch.float64)
    best_abnormality = best_abnormality.to(pixels.device)
    for weight in ADAPTIVE_WEIGHTS:
        moved = pixels + strength * (2 * torch.rand_like(pixels) - 1)
        for step in range(ADAPTIVE_STEPS + 1):
            # The attack is judged by the pixels as stored in a file.
            moved = round_to_8_bits(moved.clamp(0, 1)).detach().requires_grad_(True)
            taps, logits = diagnosed(target, moved)
            abnormality = differentiable_abnormality(target.detector, taps)
            better = (logits.argmax(dim=1) != labels) & (abnormality.detach() < best_abnormality)
            best[better] = moved.detach()[better]
            best_abnormality[better] = abnormality.detach()[better]
            loss = nn.functional.cross_entropy(logits, labels, reduction="none")
            # An image that is certainly misclassified is pushed no further.
            loss = loss.clamp_max(1.0).double() - weight * (
                abnormality - target.threshold
            ).clamp_min(-0.5)
            (gradient,) = torch.autograd.grad(loss.sum(), moved)
            size = max(2 * strength * (1 - step / ADAPTIVE_STEPS) / 5, 1 / 255)
            offset = (moved + size * gradient.sign() - pixels).clamp(-strength, strength)
            moved = pixels + offset
    never = best_abnormality.isinf()
    best[never] = round_to_8_bits(moved.clamp(0, 1)).detach()[never]
    return best


def _from_foolbox(make: Callable[[Any], Any]) -> Perturb:
    """Wrap an attack of foolbox, imported late because few installations have it."""

    def perturb(target: Target, pixels: Tensor, labels: Tensor, strength: float | None) -> Tensor:
        import foolbox

        library: Any = foolbox  # without types
        model = library.PyTorchModel(target.classifier, bounds=(0, 1), device=pixels.device)
        _, attacked, _ = make(library.attacks)(model, pixels, labels, epsilons=strength)
        return torch.as_tensor(attacked)

    return perturb


ATTACKS: dict[str, Attack] = {
    # Goodfellow, Shlens & Szegedy 2015
    "fgsm": Attack(_from_foolbox(lambda fa: fa.LinfFastGradientAttack()), (*EPSILONS, 0.05)),
    # Kurakin, Goodfellow & Bengio 2017: ten steps of a quarter of the bound
    "bim": Attack(
        _from_foolbox(lambda fa: fa.LinfBasicIterativeAttack(rel_stepsize=0.25, steps=10)), EPSILONS
    ),
    # Madry et al. 2018, from a random start
    "pgd": Attack(
        _from_foolbox(lambda fa: fa.LinfPGD(rel_stepsize=2.5 / PGD_STEPS, steps=PGD_STEPS)),
        EPSILONS,
    ),
    # Moosavi-Dezfooli, Fawzi & Frossard 2016
    "deepfool": Attack(_from_foolbox(lambda fa: fa.L2DeepFoolAttack(steps=50)), (None,)),
    # Carlini & Wagner 2017
    "carlini-wagner": Attack(
        _from_foolbox(
            lambda fa: fa.L2CarliniWagnerAttack(binary_search_steps=5, steps=50, stepsize=0.01)
        ),
        (None,),
    ),
    "adaptive": Attack(_adaptive, (8 / 255,)),
}
