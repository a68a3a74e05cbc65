"""Define the columns of the results of evaluations."""

import pyarrow as pa

from storage.reports.schemas.shared import Column, schema_of
from storage.smears.schemas.columns import count, number

EVALUATION_SCHEMA = schema_of(
    [
        Column("evaluation", pa.string(), "its name"),
        count("seed", "seed of the model's training, from 0"),
        Column(
            "set",
            pa.string(),
            "the strange or treated images: GROUP/NAME of other images, attack/NAME, "
            "corruption/NAME, or unseen patients",
        ),
        number(
            "strength",
            "L-infinity bound of an attack on pixels in [0, 1]; level of a corruption, 1 to 5",
        ),
        Column(
            "composition",
            pa.string(),
            "single cells, compared with ordinary ones; or slides (named) and nights (whose "
            "images name no slide) composed of them and of whose ordinary cells",
        ),
        number("share", "share of the set in a composed slide or night"),
        Column("detector", pa.string(), "null if the network or the attack itself is measured"),
        Column("measure", pa.string(), "name of the measure"),
        number("value", "null if it cannot be computed"),
        number("low", "lower bound of its 95% interval over patients or slides"),
        number("high", "upper bound"),
        count("strange", "images of the set that were measured", "images"),
        count("ordinary", "ordinary images that were measured", "images"),
    ]
)
