"""Divide points into the two parts that differ most, by k-means.

It takes the steps of scikit-learn's ``KMeans(2, n_init=4, random_state=0)``, and finds the same
parts. To import scikit-learn takes longer than a photograph's network.
"""

import numpy as np

from tasks.types import Float, Mask

STARTS, MOST_STEPS = 4, 300
TOLERANCE = 1e-4  # of the mean variance: centres that move less have settled
CANDIDATES = 2  # for a second centre


def second_half(points: Float) -> Mask:
    """Mark (n,) the second of the two halves of points (n, D), at least two of which differ.

    The halves are those with the least squared distance from their means, of a few random starts.
    """
    points = points - points.mean(axis=0)
    tolerance = TOLERANCE * points.var(axis=0).mean()
    random = np.random.RandomState(0)
    best, least = np.zeros(len(points), bool), np.inf
    for _ in range(STARTS):
        second, centres = _settled(points, _two_apart(points, random), tolerance)
        within = float(((points - centres[second.astype(int)]) ** 2).sum())
        # Rounding alone may make the same halves a little better, in the other order.
        if within < least and 0 < (second == best).sum() < len(points):
            best, least = second, within
    return best


def _two_apart(points: Float, random: np.random.RandomState) -> Float:
    """Choose two of the points (2, D) by chance, rather far apart (k-means++)."""
    first = points[random.choice(len(points), p=np.full(len(points), 1 / len(points)))]
    apart = ((points - first) ** 2).sum(axis=1)
    sums = np.cumsum(apart)
    places = np.searchsorted(sums, random.uniform(size=CANDIDATES) * apart.sum())
    tried = points[np.minimum(places, len(points) - 1)]
    left = [np.minimum(apart, ((points - each) ** 2).sum(axis=1)).sum() for each in tried]
    return np.stack([first, tried[np.argmin(left)]])


def _settled(points: Float, centres: Float, tolerance: float) -> tuple[Mask, Float]:
    """Move two centres to the means of their nearest points until these stay the same."""
    second = _nearer_second(points, centres)
    for _ in range(MOST_STEPS):
        before, old = second, centres
        centres = np.stack([points[second == k].mean(axis=0) for k in (False, True)])
        second = _nearer_second(points, centres)
        if (second == before).all() or ((centres - old) ** 2).sum() <= tolerance:
            break
    return second, centres


def _nearer_second(points: Float, centres: Float) -> Mask:
    squares = (centres**2).sum(axis=1)
    return np.asarray(2 * points @ (centres[1] - centres[0]) > squares[1] - squares[0])
