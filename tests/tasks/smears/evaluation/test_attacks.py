import io
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from torch import Tensor, nn

from tasks.images.decoding import decode_rgb
from tasks.network.classifier import Classifier, to_pixels
from tasks.network.spec import NetworkSpec
from tasks.smears.evaluation.treatments import (
    EPSILONS,
    STRENGTHS,
    attack,
    matched_noise,
    round_to_8_bits,
)
from tests.support.networks import drawn

SIDE = 32
# A bound holds but for the rounding of float32.
ROUNDING = 1e-6
EVERY = [(name, strength) for name, strengths in STRENGTHS.items() for strength in strengths]


def blotches(count: int, seed: int) -> Tensor:
    """Blotches of 8 bits on black, as masked cells are, with some white in them."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=rng)
    pixels = nn.functional.interpolate(1.4 * coarse - 0.2, SIDE, mode="bilinear").clamp(0, 1)
    pixels[:, :, :4] = 0.0
    return round_to_8_bits(pixels)


@pytest.fixture(scope="module")
def classifier(spec: NetworkSpec) -> Classifier:
    """An untrained network that diagnoses half of 200 images as each class."""
    made, ordinary = drawn(spec).requires_grad_(False), blotches(200, seed=1)
    made.backbone.get_submodule("fc").bias.copy_(-made(ordinary).median(dim=0).values)
    return made


@pytest.fixture(scope="module")
def images(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Images and the labels that the classifier gives them."""
    pixels = blotches(8, seed=2)
    labels = classifier(pixels).argmax(dim=1)
    assert set(labels.tolist()) == {0, 1}
    return pixels, labels


def margin(classifier: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
    """The lead of the label over the other class, below 0 if the attack fools the network."""
    logits = classifier(pixels)
    rows = torch.arange(len(labels))
    return logits[rows, labels] - logits[rows, 1 - labels]


@pytest.mark.parametrize(("name", "strength"), EVERY)
def test_attacked_images_are_images_within_the_bound_that_fool_where_noise_does_not(
    classifier: Classifier, images: tuple[Tensor, Tensor], name: str, strength: float
) -> None:
    pixels, labels = images
    before, unchanged = margin(classifier, pixels, labels), pixels.clone()
    attacked = attack(name, classifier, pixels, labels, strength, seed=0)
    assert pixels.equal(unchanged)
    assert (attacked.shape, attacked.dtype) == (pixels.shape, torch.float32)
    assert not attacked.requires_grad
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    changed = (attacked - pixels).flatten(1).abs().amax(dim=1)
    assert (changed > 0).all()
    assert changed.max() <= strength + ROUNDING
    after = margin(classifier, attacked, labels)
    noisy = margin(classifier, matched_noise(pixels, strength, seed=0), labels)
    assert (after < before).all()
    assert (before - after).mean() > 3 * (before - noisy).abs().mean()
    if (name, strength) == ("pgd", max(EPSILONS)):
        assert (after < 0).float().mean() >= 0.9


@pytest.mark.parametrize("name", STRENGTHS)
def test_seeds_make_attacks_repeatable(
    classifier: Classifier, images: tuple[Tensor, Tensor], name: str
) -> None:
    few, strength = (images[0][:1], images[1][:1]), STRENGTHS[name][0]
    torch.manual_seed(99)
    first = attack(name, classifier, *few, strength, seed=5)
    torch.manual_seed(100)
    assert first.equal(attack(name, classifier, *few, strength, seed=5))
    assert first.equal(attack(name, classifier, *few, strength, seed=6)) == (name != "pgd")


@pytest.mark.parametrize("strength", EPSILONS)
def test_noise_is_as_large_as_the_attack_has_no_aim_and_stays_an_image(strength: float) -> None:
    grey = torch.full((5, 3, 40, 40), 0.5)
    noise = matched_noise(grey, strength, seed=3) - grey
    assert_allclose(noise.abs(), np.full(noise.shape, strength), atol=ROUNDING)
    signs = noise.sign().flatten(1)
    assert (signs.mean(dim=1).abs() < 5 / math.sqrt(signs.shape[1])).all()
    assert not signs[0].equal(signs[1])
    torch.manual_seed(7)
    assert matched_noise(grey, strength, seed=3).equal(noise + grey)
    assert not matched_noise(grey, strength, seed=2).equal(noise + grey)
    pixels = blotches(4, seed=3)
    noisy = matched_noise(pixels, strength, seed=1)
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert (noisy.min(), noisy.max()) == (0, 1)


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
