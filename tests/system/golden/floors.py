"""Values of what a smear can be, which golden stores have from v6 on."""

import numpy as np

from storage.arrays import Arrays
from storage.models.detectors import FloorCard
from tasks.types import nested

# By hand: of two features at layer1 and one at layer2, all of variance 1 within and 3 between.
FLOOR: Arrays = nested(
    "own/floor",
    {"within": np.eye(3), "between": 3 * np.eye(3), "limits": np.asarray([2.0, 1.5, 4.0])},
)
CARD = FloorCard(shift=2.0, spread=1.5, reach=4.0, slides=5)
SLIDE = {"smear_shift": [0.5], "smear_spread": [0.25], "implausible": [False]}
BATCH = {"slides_implausible": [0], "implausible_cells": [0], "beyond_population": [1]}
