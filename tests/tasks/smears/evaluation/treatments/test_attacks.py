import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch import Tensor, nn

from tasks.detector.calibration import abnormality, log_distance, threshold
from tasks.detector.detector import Detector, score
from tasks.detector.mahalanobis import class_distances
from tasks.detector.probabilities import Adaptation, as_logits, log_odds
from tasks.detector.slides.groups import GroupKey, group_statistics
from tasks.detector.witnesses import Scales, Witnesses, discriminant
from tasks.images.decoding import decode_rgb
from tasks.network.classifier import Classifier, to_pixels
from tasks.network.spec import NetworkSpec
from tasks.smears.evaluation.treatments import attacks
from tasks.smears.evaluation.treatments.attacks import (
    ATTACKS,
    EPSILONS,
    Target,
    attack,
    diagnosed,
    differentiable_abnormality,
    l2_norm,
    linf_norm,
    matched_noise,
    round_to_8_bits,
)
from tests.support.detectors import fit_detector
from tests.support.networks import drawn

SIDE = 32
OURS = {"adaptive"}  # the others are foolbox's
# A bound holds but for the rounding of float32.
ROUNDING = 1e-6


def blotches(count: int, seed: int) -> Tensor:
    """Blotches of 8 bits on black, as masked cells are, with some white in them."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=rng)
    pixels = nn.functional.interpolate(1.4 * coarse - 0.2, SIDE, mode="bilinear").clamp(0, 1)
    pixels[:, :, :4] = 0.0
    return round_to_8_bits(pixels)


def fitted(taps: dict[str, Tensor], labels: Tensor, classes: int) -> Detector:
    features = {name: values.double().numpy() for name, values in taps.items()}
    return fit_detector(features, labels.numpy(), classes, np.arange(len(labels)) % 40)


@pytest.fixture(scope="module")
def target(spec: NetworkSpec) -> Target:
    """An untrained network, and a detector that knows 200 images as it diagnoses them."""
    classifier = drawn(spec).requires_grad_(False)
    ordinary = blotches(200, seed=1)
    # Between its classes, so that it knows both.
    classifier.backbone.get_submodule("fc").bias.copy_(-classifier(ordinary).median(dim=0).values)
    taps, logits = classifier.features(ordinary)
    detector = fitted(taps, logits.argmax(dim=1), 2)
    return Target(classifier, detector, threshold(detector.calibration, 0.05))


@pytest.fixture(scope="module")
def images(target: Target) -> tuple[Tensor, Tensor]:
    """Images and the labels that the classifier gives them."""
    pixels = blotches(8, seed=2)
    labels = target.classifier(pixels).argmax(dim=1)
    assert set(labels.tolist()) == {0, 1}
    return pixels, labels


@pytest.fixture(scope="module")
def attacked(
    target: Target, images: tuple[Tensor, Tensor]
) -> Callable[[str, float | None], Tensor]:
    made: dict[tuple[str, float | None], Tensor] = {}

    def attacked(name: str, strength: float | None) -> Tensor:
        if (name, strength) not in made:
            before = images[0].clone()
            made[name, strength] = attack(name, target, *images, strength, seed=0)
            assert images[0].equal(before)
        return made[name, strength]

    return attacked


def margin(classifier: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
    """How far the label is ahead of the other class, below 0 where it fools."""
    logits = classifier(pixels)
    rows = torch.arange(len(labels))
    return logits[rows, labels] - logits[rows, 1 - labels]


def abnormalities(target: Target, pixels: Tensor) -> np.ndarray:
    taps, _ = target.classifier.features(pixels)
    return score(target.detector, {k: v.numpy() for k, v in taps.items()}).abnormality


def differences(target: Target, labels: Tensor, one: Tensor, other: Tensor) -> np.ndarray:
    """Subtract the abnormalities of one attack's images from another's, where both fool."""
    fooled = [margin(target.classifier, made, labels) < 0 for made in (one, other)]
    both = fooled[0] & fooled[1]
    assert both.sum() >= 4
    return (abnormalities(target, one) - abnormalities(target, other))[both]


Made = Callable[[str, float | None], Tensor]
EVERY = [(name, strength) for name, made in ATTACKS.items() for strength in made.strengths]


@pytest.mark.parametrize(("name", "strength"), EVERY)
def test_attacked_images_are_images_within_the_bound(
    attacked: Made, images: tuple[Tensor, Tensor], name: str, strength: float | None
) -> None:
    pixels = attacked(name, strength)
    assert pixels.shape == images[0].shape
    assert pixels.dtype == torch.float32
    assert not pixels.requires_grad
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    changed = linf_norm(pixels - images[0])
    assert (changed > 0).all()
    if strength is not None:
        assert changed.max() <= strength + ROUNDING


@pytest.mark.parametrize(("name", "strength"), EVERY)
def test_attacks_lower_the_margin_of_what_is_right_and_noise_does_not(
    target: Target, attacked: Made, images: tuple[Tensor, Tensor], name: str, strength: float | None
) -> None:
    pixels, labels = images
    before = margin(target.classifier, pixels, labels)
    drop = before - margin(target.classifier, attacked(name, strength), labels)
    noisy = matched_noise(pixels, attacked(name, strength), strength, seed=0)
    by_chance = before - margin(target.classifier, noisy, labels)
    assert (drop > 0).all()
    assert drop.mean() > 3 * by_chance.abs().mean()


@pytest.mark.parametrize("name", ["deepfool", "carlini-wagner", "bim", "pgd", "adaptive"])
def test_strong_attacks_fool_a_network_that_was_right(
    target: Target, attacked: Made, images: tuple[Tensor, Tensor], name: str
) -> None:
    strength = ATTACKS[name].strengths[-1]
    fooled = margin(target.classifier, attacked(name, strength), images[1]) < 0
    assert fooled.float().mean() >= 0.9


def test_attacks_without_a_bound_look_for_the_smallest_change(
    target: Target, attacked: Made, images: tuple[Tensor, Tensor]
) -> None:
    large = l2_norm(attacked("pgd", 8 / 255) - images[0])
    for name in ("deepfool", "carlini-wagner"):
        pixels = attacked(name, None)
        assert l2_norm(pixels - images[0]).median() < 0.3 * large.median()
        # Half of the way does not fool: there is little to save.
        half = images[0] + 0.5 * (pixels - images[0])
        assert (margin(target.classifier, half, images[1]) > 0).float().mean() >= 0.9


@pytest.mark.parametrize("name", ATTACKS)
def test_seeds_make_attacks_repeatable(
    target: Target, images: tuple[Tensor, Tensor], name: str
) -> None:
    few, strength = (images[0][:1], images[1][:1]), ATTACKS[name].strengths[0]
    torch.manual_seed(99)
    first = attack(name, target, *few, strength, seed=5)
    torch.manual_seed(100)
    assert first.equal(attack(name, target, *few, strength, seed=5))
    other = attack(name, target, *few, strength, seed=6)
    assert first.equal(other) == (name not in {"pgd", *OURS})


# Noise


@pytest.mark.parametrize("strength", [*EPSILONS, None])
def test_noise_is_as_large_as_the_attack_and_has_no_aim(strength: float | None) -> None:
    grey = torch.full((5, 3, 40, 40), 0.5)
    sizes = torch.tensor([0.1, 0.3, 1.0, 2.0, 0.0])
    change = torch.randn(grey.shape, generator=torch.Generator().manual_seed(1))
    change *= (sizes / l2_norm(change)).view(-1, 1, 1, 1)
    noise = matched_noise(grey, grey + change, strength, seed=3) - grey
    if strength is None:
        assert_allclose(l2_norm(noise), sizes, rtol=1e-4, atol=1e-6)
        kurtosis = (noise[:4].flatten(1) ** 4).mean(1) / (noise[:4].flatten(1) ** 2).mean(1) ** 2
        assert_allclose(kurtosis, 3, atol=0.5)  # a normal distribution's
        noise = noise[:4]
    else:
        assert_allclose(noise.abs(), np.full(noise.shape, strength), atol=ROUNDING)
    for one, wanted in zip(noise, change, strict=False):
        along = nn.functional.cosine_similarity(one.flatten(), wanted.flatten(), dim=0)
        assert abs(along) < 5 / math.sqrt(one.numel())
        assert abs((one > 0).float().mean() - 0.5) < 0.05


@pytest.mark.parametrize("strength", [8 / 255, None])
def test_noise_is_repeatable_differs_by_image_and_stays_an_image(
    attacked: Made, images: tuple[Tensor, Tensor], strength: float | None
) -> None:
    pixels = images[0]
    other = attacked("pgd", 8 / 255)
    noisy = matched_noise(pixels, other, strength, seed=1)
    torch.manual_seed(7)
    assert noisy.equal(matched_noise(pixels, other, strength, seed=1))
    assert not noisy.equal(matched_noise(pixels, other, strength, seed=2))
    assert not (noisy[0] - pixels[0]).sign().equal((noisy[1] - pixels[1]).sign())
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert pixels.min() == 0
    assert pixels.max() == 1


# Files


def test_rounding_is_what_a_png_keeps() -> None:
    rng = np.random.default_rng(0)
    nearest = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)
    nearest[0, 0, :2] = [[0] * 3, [255] * 3]
    between = np.clip(nearest + rng.uniform(-0.499, 0.499, nearest.shape), 0, 255) / 255
    pixels = torch.from_numpy(between.astype(np.float32)).permute(0, 3, 1, 2)
    for image, kept in zip(nearest, round_to_8_bits(pixels), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        read = np.array(decode_rgb(file.getvalue()))
        assert kept.equal(to_pixels(read[None])[0])
        assert round_to_8_bits(kept).equal(kept)


def test_norms_are_over_all_pixels_and_colours() -> None:
    difference = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    rows = difference.numpy().reshape(4, -1)
    assert_allclose(l2_norm(difference), np.sqrt((rows**2).sum(axis=1)), rtol=1e-6)
    assert_allclose(linf_norm(difference), np.abs(rows).max(axis=1))


# What knows the detector


class Linear(nn.Module):
    """A network without bends, in float64: two taps and logits that are linear in pixels."""

    def __init__(self, seed: int, bias: float = 0.0, side: int = 4) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        d = 3 * side * side
        self.matrices = {
            name: torch.randn(d, width, generator=rng, dtype=torch.float64) / math.sqrt(d)
            for name, width in (("a", 6), ("b", 4), ("logits", 2))
        }
        self.bias = torch.tensor([bias, -bias], dtype=torch.float64)

    def features(self, pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        flat = pixels.double().flatten(1)
        taps = {name: flat @ self.matrices[name] for name in ("a", "b")}
        return taps, flat @ self.matrices["logits"] + self.bias


def linear_target(bias: float = 0.0, classes: int = 2, limit: float | None = None) -> Target:
    network = Linear(0, bias)
    pixels = torch.rand(300, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    taps, _ = network.features(pixels)
    labels = torch.arange(300) % 2 * (classes - 1)
    detector = fitted(taps, labels, classes)
    at = threshold(detector.calibration, 0.05) if limit is None else limit
    return Target(network, detector, at)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 4])  # of four classes, two have no images
def test_differentiable_abnormality_is_the_detectors(classes: int) -> None:
    target = linear_target(classes=classes)
    rng = torch.Generator().manual_seed(3)
    pixels = torch.rand(50, 3, 4, 4, generator=rng) * torch.linspace(0, 9, 50).view(-1, 1, 1, 1)
    taps, _ = target.classifier.features(pixels)
    found = differentiable_abnormality(target.detector, taps)
    expected = score(target.detector, {k: v.numpy() for k, v in taps.items()}).abnormality
    assert found.dtype == torch.float64
    assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert np.isnan(target.detector.gaussians["a"].means).any() == (classes == 4)
    # Either tap and either class decides for some of them, so all of it is compared.
    gaussians = target.detector.gaussians
    distances = [class_distances(gaussians[name], taps[name].numpy()) for name in ("a", "b")]
    logs = np.stack([log_distance(d.min(axis=1)) for d in distances], axis=1)
    calibration = target.detector.calibration
    assert_allclose(abnormality(calibration, logs), expected)
    by_tap = ((logs - calibration.mean) / calibration.deviation).argmax(axis=1)
    assert set(by_tap) == {0, 1}
    assert all(len(set(d.argmin(axis=1))) == 2 for d in distances)


@pytest.mark.parametrize("classes", [2, 4])
def test_its_gradient_agrees_with_finite_differences(classes: int) -> None:
    target = linear_target(classes=classes)
    rng = torch.Generator().manual_seed(4)
    pixels = torch.rand(6, 3, 4, 4, generator=rng, dtype=torch.float64).requires_grad_(True)

    def of(pixels: Tensor) -> Tensor:
        return differentiable_abnormality(target.detector, target.classifier.features(pixels)[0])

    assert torch.autograd.gradcheck(of, (pixels,), eps=1e-6, atol=1e-7, rtol=1e-5)
    (gradient,) = torch.autograd.grad(of(pixels).sum(), pixels)
    assert (gradient.flatten(1).norm(dim=1) > 0.01).all()


def test_an_image_at_a_class_mean_has_a_finite_abnormality() -> None:
    target = linear_target()
    taps = {
        name: torch.tensor(gaussian.means[:1]).requires_grad_(True)
        for name, gaussian in target.detector.gaussians.items()
    }
    found = differentiable_abnormality(target.detector, taps)
    assert torch.isfinite(found).all()
    (gradient,) = torch.autograd.grad(found.sum(), taps["a"], allow_unused=True)
    assert gradient is None or torch.isfinite(gradient).all()


def test_the_adaptive_attack_looks_less_abnormal_than_pgd_at_the_same_bound(
    target: Target, attacked: Made, images: tuple[Tensor, Tensor]
) -> None:
    for strength in ATTACKS["adaptive"].strengths:
        adaptive, pgd = attacked("adaptive", strength), attacked("pgd", strength)
        assert (differences(target, images[1], adaptive, pgd) < 0).all()
    # It is what a file holds that fools.
    assert_array_equal(adaptive, round_to_8_bits(adaptive))


def test_the_adaptive_attack_descends_the_abnormality_and_does_not_only_choose(
    target: Target, images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = replace(target, threshold=-5.0)  # every image is far above it
    aware = attack("adaptive", strict, *images, 8 / 255, seed=0)
    monkeypatch.setattr(attacks, "ADAPTIVE_WEIGHTS", (0.0, 0.0))
    blind = attack("adaptive", strict, *images, 8 / 255, seed=0)
    less = differences(target, images[1], aware, blind)
    assert less.mean() < -0.2
    assert (less < 0).all()


def test_the_adaptive_attack_keeps_the_least_abnormal_of_what_fools() -> None:
    target = linear_target()
    pixels = round_to_8_bits(torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(6)))
    labels = target.classifier.features(pixels)[1].argmax(dim=1)
    seen: list[tuple[Tensor, Tensor]] = []
    features = target.classifier.features

    def spy(pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        taps, logits = features(pixels)
        abnormal = differentiable_abnormality(target.detector, taps).detach()
        seen.append((logits.argmax(dim=1) != labels, abnormal))
        return taps, logits

    target.classifier.features = spy  # type: ignore[method-assign]
    moved = attack("adaptive", target, pixels, labels, 0.2, seed=0)
    taps, logits = features(moved)
    wrong = logits.argmax(dim=1) != labels
    assert wrong.float().mean() > 0.5
    least = torch.stack([torch.where(w, a, torch.inf) for w, a in seen]).amin(dim=0)
    found = differentiable_abnormality(target.detector, taps)
    assert_allclose(found[wrong], least[wrong])
    assert least[~wrong].isinf().all()


@pytest.mark.parametrize("limit", [None, math.inf])
def test_images_that_cannot_be_made_to_fool_come_back_as_far_as_the_attack_got(
    limit: float | None,
) -> None:
    target = linear_target(bias=100.0, limit=limit)
    pixels = round_to_8_bits(torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(7)))
    labels = torch.zeros(8, dtype=torch.long)
    moved = attack("adaptive", target, pixels, labels, 8 / 255, seed=0)
    assert torch.isfinite(moved).all()
    assert (linf_norm(moved - pixels) > 4 / 255).all()
    assert linf_norm(moved - pixels).max() <= 8 / 255 + ROUNDING
    assert moved.equal(round_to_8_bits(moved))


def with_witnesses(target: Target, positive: int) -> Target:
    """The target, with a second witness that knows its images as the network diagnoses them."""
    pixels = blotches(200, 5)
    taps, logits = target.classifier.features(pixels)
    labels, keys = logits.argmax(dim=1).numpy(), [GroupKey("", f"P{i % 8}", "") for i in range(200)]
    features = {tap: values.numpy() for tap, values in taps.items()}
    known = discriminant(group_statistics(features, labels, keys, 2), positive)
    scales = Scales(Adaptation(0.5, 0.25), Adaptation(2.0, -1.0), Adaptation(1.5, 0.5))
    second = replace(target.detector, witnesses=Witnesses(positive, known, scales))
    return replace(target, detector=second, temperature=1.75)


@pytest.mark.parametrize("positive", [0, 1])
def test_what_the_adaptive_attack_descends_is_the_diagnosis_of_both_witnesses(
    target: Target, positive: int
) -> None:
    both = with_witnesses(target, positive)
    known = both.detector.witnesses
    assert known is not None
    pixels = blotches(20, 9)
    taps, logits = both.classifier.features(pixels)
    found = diagnosed(both, pixels)[1].numpy()
    said = known.scales.combine(
        log_odds(logits.numpy(), 1.75, positive),
        known.discriminant.scores({tap: values.numpy() for tap, values in taps.items()}),
    )
    assert_allclose(found, as_logits(said.both, 1.0, positive), rtol=1e-5, atol=1e-5)
    assert_array_equal(diagnosed(target, pixels)[1], target.classifier(pixels))
