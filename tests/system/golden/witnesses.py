"""Values of two witnesses of a diagnosis, which golden stores have from v7 on.

From v8 on the laboratory has a discriminant of its own.
"""

import numpy as np

from storage.arrays import Arrays
from storage.models.detectors import WitnessCard
from tasks.types import nested

# By hand: f scores f_0 / 2 + f_1 + 0.25 at layer1; the network's log-odds are believed by half.
WITNESSES: Arrays = nested(
    "witnesses",
    {
        "weights/layer1": np.asarray([0.5, 1.0]),
        "numbers": np.asarray([0.0, 0.25, -1.0]),
        "scales": np.asarray([[0.5, 0.0], [2.0, 1.0], [1.0, -0.5]]),
    },
)
# At the laboratory f scores f_0 + f_1 / 2 - 0.5.
AT_LABORATORY: Arrays = nested(
    "discriminant",
    {"weights/layer1": np.asarray([1.0, 0.5]), "numbers": np.asarray([-0.5, -1.5])},
)
SEEN: Arrays = nested(
    "labelled",
    {
        "network": np.asarray([-2.0, 1.5]),
        "features/layer1": np.asarray([[0.0, -1.0], [1.0, 1.0]], np.float32),
    },
)
CARD = WitnessCard(taps=["layer1"], slides=4, cells=200, disagreeing=0.03, errors_disagreeing=None)
IMAGE = {
    "network_probability": [0.75, 0.25, 0.5, 0.5, None],
    "statistics_probability": [0.5, 0.25, 0.75, 0.5, None],
}
