"""Cards of detectors and lineages of statistics, with the least that they are of."""

from datetime import timedelta

import numpy as np

from storage.models.detectors import DetectorCard, TapCard
from storage.models.statistics import Contribution, Lineage
from storage.records import arrays_to_bytes
from storage.store import digest_of
from tests.support.models import WHEN

CONTENT = arrays_to_bytes({"calibration/scores": np.arange(3.0)})


def card(name: str, later: int = 0, content: bytes = CONTENT) -> DetectorCard:
    return DetectorCard(
        created_at=WHEN + timedelta(seconds=later),
        digest=digest_of(content),
        name=name,
        model="tiny",
        model_digest="m",
        statistics_version=1,
        taps={"layer1": TapCard(width=4, shrinkage=0.1, condition_number=9.0, dead_units=0)},
        images={"Parasitized": 3},
        calibrated_by="patient",
        calibrating_groups=3,
        calibrating_images=9,
        alpha=0.05,
        uncertain_below=0.75,
        warnings=[],
        sequence=0,
    )


def moments(version: int) -> bytes:
    return arrays_to_bytes({"taps/tap/n": np.array([version, 1.0])})


def lineage(version: int, *batches: str) -> Lineage:
    return Lineage(
        created_at=WHEN - timedelta(days=version),  # a clock that was set back changes no order
        digest=digest_of(moments(version)),
        model="tiny",
        version=version,
        parent=version - 1 or None,
        operation="merge",
        contributions=[
            Contribution(batch=batch, attempt=1, manifest_digest="d", images=3, held_out=1)
            for batch in batches
        ],
        images={"Parasitized": 3},
    )
