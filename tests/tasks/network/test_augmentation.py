import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.network import augmentation
from tasks.network.augmentation import (
    as_elsewhere,
    augment,
    blurred,
    compressed,
    marked,
    mixed,
    resampled,
    stained,
    turned,
    zoomed,
)

IDENTITY = torch.eye(3).repeat(4, 1, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(count: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    """Squares of colour in the middle of black."""
    images = torch.zeros(count, 3, side, side)
    inside = slice(side // 4, side - side // 4)
    size = (count, 3, side // 2, side // 2)
    images[:, :, inside, inside] = 0.2 + 0.7 * torch.rand(size, generator=generator(seed))
    return images


@given(seed=st.integers(0, 2**32), count=st.integers(1, 5))
def test_black_surroundings_stay_black_and_light_stays_in_range(seed: int, count: int) -> None:
    images = cells(count, seed=seed % 1000)
    with pytest.MonkeyPatch.context() as patch:
        # It alone moves where the cell ends.
        patch.setattr(augmentation, "zoomed", lambda pixels, _factors: pixels)
        patch.setattr(augmentation, "DEGRADED", 1.0)
        found = augment(images, generator(seed))
    assert found.shape == images.shape
    assert 0 <= found.min() <= found.max() <= 1
    for before, after in zip(images, found, strict=True):
        assert ((after > 0).any(0)).sum() <= ((before > 0).any(0)).sum()
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_variations_are_repeated_by_their_seed() -> None:
    images = cells(16)
    found = augment(images, generator(3))
    assert found.equal(augment(images, generator(3)))
    assert not found.equal(augment(images, generator(4)))


def test_turns_and_flips_lose_nothing() -> None:
    images = cells(32)
    for before, after in zip(images, turned(images, generator()), strict=True):
        ways = [torch.rot90(i, k, (1, 2)) for i in (before, before.flip(2)) for k in range(4)]
        assert any(way.equal(after) for way in ways)


def test_more_dye_darkens_the_light_that_it_takes() -> None:
    images = cells(4)
    inside = images > 0
    assert torch.allclose(stained(images, IDENTITY, torch.zeros(4, 3))[inside], images[inside])
    twice = stained(images, 2 * IDENTITY, torch.zeros(4, 3))
    assert torch.allclose(twice[inside], images[inside] ** 2, atol=1e-6)
    green = stained(images, IDENTITY, torch.tensor([[0.0, 0.3, 0.0]]).repeat(4, 1))
    factor = (green / images)[:, :, 8, 8]
    assert torch.allclose(factor, torch.tensor([1.0, math.exp(-0.3), 1.0]), atol=1e-5)


def test_channels_are_mixed_as_row_vectors() -> None:
    takes = torch.eye(3)
    takes[0, 2] = 0.5  # blue takes half of red
    images = cells(2)
    found = mixed(images, takes.repeat(2, 1, 1))
    assert torch.allclose(found[:, 2], images[:, 2] + 0.5 * images[:, 0])
    assert torch.allclose(found[:, :2], images[:, :2])


def test_zoom_enlarges_about_the_middle() -> None:
    images = cells(2, 64)
    large, small, same = (zoomed(images, torch.full((2,), by)) for by in (1.5, 0.5, 1.0))
    area = [int((each > 0.1).any(1).sum()) for each in (large, small, images)]
    assert area[0] == pytest.approx(2.25 * area[2], rel=0.1)
    assert area[1] == pytest.approx(0.25 * area[2], rel=0.1)
    assert torch.allclose(same, images, atol=1e-5)


def test_a_mark_changes_absorbance_by_its_core_and_rim_and_a_channel_sees_it_at_its_size() -> None:
    cell = torch.tensor([0.8, 0.5, 0.6]).view(1, 3, 1, 1).expand(1, 3, 41, 41)
    core, rim = math.log(0.25), math.log(1.5)
    marks = torch.tensor([[0.0, 0.0, 0.5, 0.25, 0.0, core, rim, 0.0, 0.0, 0.2]])
    found = marked(cell, marks)[0]
    times = found.log() / cell[0].log()
    torch.testing.assert_close(times[0], times[1])  # without dispersion no hue: it is no dye
    assert times[0, 20, 20] == pytest.approx(0.25, rel=0.01)
    at_rim = math.exp(core * math.exp(-2) + rim)
    assert times[0, 20, 20 + 10] == pytest.approx(at_rim, rel=0.05)  # half a half side away
    assert times[0, 20 + 5, 20] == pytest.approx(at_rim, rel=0.05)
    assert times[2, 20, 20 + 12] == pytest.approx(at_rim, rel=0.05)  # a fifth further out
    assert times[0, 0, 0] == pytest.approx(1.0, abs=0.01)


def test_a_blur_keeps_the_mean_and_lowers_the_variance() -> None:
    images = torch.rand(3, 3, 32, 32, generator=generator())
    found = blurred(images, torch.tensor([0.1, 0.6, 1.2]))
    assert torch.allclose(found[0], images[0], atol=1e-4)
    spread = found.flatten(1).std(dim=1)
    assert spread[0] > spread[1] > spread[2]
    assert torch.allclose(found.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.01)


@pytest.mark.parametrize("side", [16, 20, 96])
def test_compression_loses_more_at_less_quality_and_about_what_a_file_loses(side: int) -> None:
    ramp = np.linspace(0, 4 * np.pi, side)
    grey = 127 + 60 * np.sin(ramp)[:, None] * np.cos(ramp)[None]
    grey = np.random.default_rng(0).normal(grey, 12)
    image = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    tensor = torch.from_numpy(image).permute(2, 0, 1).float()[None] / 255
    losses = []
    for quality in (30, 60, 90):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
        file = np.asarray(Image.open(buffer), float) - image
        made = compressed(tensor, torch.tensor([float(quality)])) - tensor
        losses.append(float(255 * made.square().mean().sqrt()))
        assert losses[-1] == pytest.approx(float(np.sqrt((file**2).mean())), rel=0.5)
    assert losses[0] > losses[1] > losses[2] > 0


@pytest.mark.parametrize("kernel", ["nearest-exact", "area", "bilinear", "bicubic"])
def test_resampling_keeps_size_and_flat_colour(kernel: str) -> None:
    flat = torch.full((2, 3, 20, 20), 0.4)
    assert torch.allclose(resampled(flat, 0.45, (kernel, kernel)), flat, atol=1e-5)


def test_no_image_takes_anything_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "DEGRADED", 1.0)
    images = cells(6)
    alone = torch.zeros_like(images)
    alone[2] = images[2]
    assert torch.allclose(
        augment(images, generator(1))[2], augment(alone, generator(1))[2], atol=1e-6
    )


def discs(count: int, side: int = 32) -> torch.Tensor:
    """Discs of one colour each, on black."""
    places = torch.arange(side) - (side - 1) / 2
    inside = (places[:, None] ** 2 + places**2).sqrt() < 0.4 * side
    colours = 0.3 + 0.5 * torch.rand(count, 3, 1, 1, generator=generator(9))
    return colours * inside


def test_a_seed_alters_all_cells_of_a_slide_alike_and_another_seed_otherwise() -> None:
    one = discs(1)
    found = as_elsewhere(one.expand(3, -1, -1, -1), generator(5))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    assert not torch.allclose(found[0], one[0], atol=0.02)
    first, second, other = (as_elsewhere(discs(4), generator(seed)) for seed in (1, 1, 2))
    assert first.equal(second)
    assert not torch.allclose(first, other, atol=0.02)


def test_pixels_stay_light_and_surroundings_black() -> None:
    images = discs(8)
    for seed in range(20):
        found = as_elsewhere(images, generator(seed))
        assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
        assert float(found[:, :, 0, 0].max()) == 0.0
        assert float(found[:, :, 16, 16].min()) > 0.0


def test_laboratories_differ_in_colour_and_in_how_much_of_a_cell_is_cut_out() -> None:
    images = discs(1)
    made = [as_elsewhere(images, generator(seed))[0] for seed in range(40)]
    middles = np.stack([each[:, 16, 16].numpy() for each in made])
    assert middles.std(axis=0).min() > 0.05
    areas = np.asarray([float((each.amax(dim=0) > 0.02).float().mean()) for each in made])
    assert areas.max() > 1.2 * areas.min()
