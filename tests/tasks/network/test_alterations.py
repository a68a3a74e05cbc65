import numpy as np
import torch

from tasks.network.alterations import as_elsewhere


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(count: int, side: int = 32) -> torch.Tensor:
    """Discs of one colour each, on black."""
    places = torch.arange(side) - (side - 1) / 2
    inside = (places[:, None] ** 2 + places**2).sqrt() < 0.4 * side
    colours = 0.3 + 0.5 * torch.rand(count, 3, 1, 1, generator=generator(9))
    return colours * inside


def test_all_cells_of_a_slide_are_altered_in_the_same_way() -> None:
    one = cells(1)
    found = as_elsewhere(one.expand(3, -1, -1, -1), generator(5))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    assert not torch.allclose(found[0], one[0], atol=0.02)


def test_a_seed_gives_the_same_laboratory_and_another_seed_another_one() -> None:
    images = cells(4)
    first, second, other = (as_elsewhere(images, generator(seed)) for seed in (1, 1, 2))
    assert first.equal(second)
    assert not torch.allclose(first, other, atol=0.02)


def test_pixels_stay_light_and_surroundings_black() -> None:
    images = cells(8)
    for seed in range(20):
        found = as_elsewhere(images, generator(seed))
        assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
        assert float(found[:, :, 0, 0].max()) == 0.0
        assert float(found[:, :, 16, 16].min()) > 0.0


def test_laboratories_differ_in_colour_and_in_how_much_of_a_cell_is_cut_out() -> None:
    images = cells(1)
    made = [as_elsewhere(images, generator(seed))[0] for seed in range(40)]
    middles = np.stack([each[:, 16, 16].numpy() for each in made])
    assert middles.std(axis=0).min() > 0.05
    areas = np.asarray([float((each.amax(dim=0) > 0.02).float().mean()) for each in made])
    assert areas.max() > 1.2 * areas.min()
