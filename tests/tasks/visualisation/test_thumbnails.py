import numpy as np
from PIL import Image

from tasks.visualisation.thumbnails import heat_picture


def test_heat_is_lightest_where_most_of_the_distance_arises() -> None:
    shares = np.full((4, 4), -1.0)
    shares[0, 3] = 50.0
    picture = heat_picture(Image.new("RGB", (64, 48), (120, 60, 60)), shares)
    assert picture.size == (64, 48)
    light = np.asarray(picture.convert("L"), float)
    assert light[4, 58] == light.max()
    assert light[40, 8] < light[4, 58] / 3


def test_what_is_nearer_everywhere_has_no_heat() -> None:
    image = Image.new("RGB", (8, 8), (200, 200, 200))
    light = np.asarray(heat_picture(image, np.full((2, 2), -3.0)).convert("L"))
    assert light.max() == light.min() < 100
