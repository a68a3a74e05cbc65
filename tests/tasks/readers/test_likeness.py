"""Cells that are most like one."""

import numpy as np
import pytest

from tasks.detector.mahalanobis import TiedGaussian
from tasks.readers.likeness import DIRECTIONS, learn_likeness, nearest


def cells(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Make cells of four kinds, which differ in few features of many that vary more."""
    rng = np.random.default_rng(seed)
    kind = np.arange(400) % 4
    taps = {}
    for tap, width in (("a", 40), ("b", 60)):
        loud = np.geomspace(1, 100, width)
        away = np.zeros((4, width))
        away[:, :3] = 4 * rng.standard_normal((4, 3))  # in the features that vary least
        taps[tap] = (rng.standard_normal((400, width)) * loud + away[kind]).astype(np.float32)
    return taps, kind


def gaussians(taps: dict[str, np.ndarray]) -> dict[str, TiedGaussian]:
    loud = {tap: np.geomspace(1, 100, values.shape[1]) for tap, values in taps.items()}
    means = {tap: np.zeros((2, values.shape[1])) for tap, values in taps.items()}
    return {tap: TiedGaussian(means[tap], np.diag(loud[tap]), 0.0) for tap in taps}


def test_the_nearest_are_of_the_same_kind_though_other_features_vary_more() -> None:
    taps, kind = cells()
    points = learn_likeness(gaussians(taps), taps).place(taps)
    assert points.shape == (400, DIRECTIONS)
    assert points.dtype == np.float32
    found = [nearest([points], points[cell], 11) for cell in range(40)]
    assert all(places[0] == (0, cell) for cell, places in enumerate(found))
    same = [kind[row] == kind[cell] for cell, each in enumerate(found) for _, row in each[1:]]
    assert np.mean(same) > 0.9
    raw = np.concatenate([taps["a"], taps["b"]], axis=1)
    plain = [nearest([raw], raw[cell], 11) for cell in range(40)]
    by_raw = [kind[row] == kind[cell] for cell, each in enumerate(plain) for _, row in each[1:]]
    assert np.mean(by_raw) < 0.5


def test_distances_are_those_of_the_whitened_space_where_all_directions_are_kept() -> None:
    rng = np.random.default_rng(1)
    taps = {"a": rng.standard_normal((50, 5)), "b": rng.standard_normal((50, 6))}
    factors = {tap: np.tril(rng.standard_normal((w, w))) + 3 * np.eye(w) for tap, w in
               (("a", 5), ("b", 6))}  # fmt: skip
    tied = {tap: TiedGaussian(np.zeros((2, len(f))), f, 0.0) for tap, f in factors.items()}
    points = learn_likeness(tied, taps).place(taps)
    difference = {tap: values[3] - values[9] for tap, values in taps.items()}
    wanted = sum(
        each @ np.linalg.inv(factors[tap] @ factors[tap].T) @ each
        for tap, each in difference.items()
    )
    assert ((points[3] - points[9]) ** 2).sum() == pytest.approx(wanted, rel=1e-4)


def test_without_a_detector_features_are_standardised() -> None:
    taps, kind = cells()
    taps["a"][:, 0] = 3.0  # never varies
    taps["c"] = (100.0 * kind[:, None] * [1, -1, 1] + 1).astype(np.float32)
    points = learn_likeness({}, taps).place(taps)
    rows = [row for _, row in nearest([points], points[0], 11)[1:]]
    assert np.mean(kind[rows] == kind[0]) > 0.6


def test_nights_are_searched_together() -> None:
    rng = np.random.default_rng(2)
    points = rng.standard_normal((300, 4), dtype=np.float32) + 1000
    parts = [points[:100], points[100:110], points[110:]]
    starts = [0, 100, 110]
    found = [starts[night] + row for night, row in nearest(parts, points[7], 20)]
    distances = ((points - points[7]) ** 2).sum(axis=1)
    assert set(found[:5]) == set(np.argsort(distances)[:5].tolist())
    assert len(found) == 20
    assert nearest([points[:3]], points[0], 20)[0] == (0, 0)


def test_no_cells_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="no cells"):
        learn_likeness({}, {})
