"""The golden store knows slides and a laboratory, whose values must open for ever, too."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flows.jobs.laboratory_slides import Added
from storage.batches.features import decoded_by
from storage.batches.ledger import (
    is_announced,
    list_seals,
    read_seal,
    read_shard_record,
    screening_version,
)
from storage.batches.manifests import load_batch
from storage.models.detectors import load_detector, load_detector_card
from storage.models.laboratories import (
    detector_at,
    load_laboratory,
    load_laboratory_arrays,
    load_night,
)
from storage.models.statistics import latest_statistics, load_moments
from storage.parquet import read_table
from storage.reports.sql import answer
from storage.reports.tables import BATCHES, SLIDES, report_digest, report_path
from storage.store import Store
from tasks.detector.detector import Detector
from tasks.detector.moments import ClassStatistics
from tasks.detector.slides.distance import SlideNormal, standardised_distances
from tasks.detector.slides.groups import GroupKey
from tasks.detector.slides.normal import slide_normal
from tasks.detector.slides.own_normal import Shift, cell_scores, slide_shift
from tasks.laboratories.learning import LaboratoryNormal
from tasks.reports.night.summary import BatchSummary
from tasks.types import Light
from tests.system.golden import make_golden as golden
from tests.system.golden import slides
from tests.system.golden.stores import (
    PATH,
    STRANGE,
    VERSIONS,
    assert_newer_is_refused,
    assert_same,
    copies,
)

# Their detectors know how slides differ, and they have a laboratory.
of_slides = copies(VERSIONS)

TAPS = {tap: values[:4] for tap, values in golden.BLOCK.taps.items()}
CLASSES = np.ones(4, np.intp)


def chances(own: Any, normal: SlideNormal) -> tuple[list[float], list[float]]:
    """Squared distances that the scores of four cells are of, and their p-values."""
    deviations = standardised_distances(normal, TAPS, CLASSES, np.zeros(4, bool))
    scores, p = cell_scores(own.calibration, normal, deviations)
    return np.exp(scores).tolist(), p.tolist()


def test_statistics_by_slide_open(of_slides: Store) -> None:
    lineage = latest_statistics(of_slides, "golden")
    assert lineage is not None
    found = ClassStatistics.from_arrays(load_moments(of_slides, lineage)).slides
    assert found is not None
    assert found.keys == (GroupKey("night", "P1", "S1"), GroupKey("night", "P2", "S2"))
    assert found.n.tolist() == [[1, 1], [1, 2]]
    assert found.means["layer2"].tolist() == [[[0], [1]], [[2], [3]]]
    assert found.scatter["layer1"][1].tolist() == [[0.5, 0], [0, 0.5]]


def test_features_know_how_they_were_made(of_slides: Store) -> None:
    batch = load_batch(of_slides, "night")
    limits = load_detector_card(of_slides).floor
    assert decoded_by(of_slides, "golden", "night") == (2 if limits is None else 3)
    record = read_shard_record(of_slides, batch, "golden", batch.shard(0))
    assert record is not None
    assert record.versions == {"numpy": "2.0"}


def test_a_detector_that_knows_slides_scores_as_it_did(of_slides: Store) -> None:
    card = load_detector_card(of_slides)
    assert (card.slides, card.sequence) == (3, 1)
    own = Detector.from_arrays(load_detector(of_slides, card)).own
    assert own is not None
    # By hand: W + B is 2 I at layer1 and 1 at layer2, four cells are too few for a slide.
    normal = slide_normal(own.priors, TAPS, CLASSES)
    assert normal.level == "population"
    found, p = chances(own, normal)
    np.testing.assert_allclose(found, [1 / 32, 5 / 32, 1 / 32, 13 / 32])
    np.testing.assert_allclose(p, [13 / 16, 10 / 16, 13 / 16, 1 / 4])
    # Their mean residual is (-1/4, 0) at layer1, and B + W / 4 is 5/4 I.
    shift = slide_shift(own, TAPS, CLASSES)
    assert shift == Shift(4, pytest.approx(np.log(1 / 20)), 10 / 16, False, "layer1")


def test_a_laboratory_opens_and_scores_as_it_did(of_slides: Store) -> None:
    card, laboratory = detector_at(of_slides, None, slides.LABORATORY)
    assert laboratory == load_laboratory(of_slides, slides.LABORATORY)
    assert (laboratory.label, laboratory.detector) == (slides.LABEL, card.name)
    assert (laboratory.slides, laboratory.cells, laboratory.false_alarms) == (
        2,
        5,
        {"0.05": 0.0625},
    )
    arrays = load_laboratory_arrays(of_slides, laboratory)
    assert_same({name: arrays[name] for name in slides.AT_LABORATORY}, slides.AT_LABORATORY)
    normal = LaboratoryNormal.from_arrays(arrays)
    # By hand: S is I / 4 at layer1 and 1 at layer2.
    found, p = chances(normal.own, normal.reference)
    np.testing.assert_allclose(found, [1 / 4, 5 / 4, 1 / 4, 13 / 4])
    np.testing.assert_allclose(p, [13 / 16, 10 / 16, 13 / 16, 1 / 4])
    # The mean residual is (1/4, 0) at layer1, and B + W / 4 is I / 2.
    shift = slide_shift(normal.own, TAPS, CLASSES)
    assert shift == Shift(4, pytest.approx(np.log(1 / 8)), 1 / 4, True, "layer1")


def test_the_night_of_a_laboratory_opens(of_slides: Store) -> None:
    (night,) = load_laboratory(of_slides, slides.LABORATORY).nights
    batch = load_batch(of_slides, night.batch, night.attempt)
    assert night.manifest_digest == batch.manifest_digest
    assert (night.slides, night.cells) == (2, 5)
    arrays = load_night(of_slides, slides.LABORATORY, night)
    assert_same({name: arrays[name] for name in slides.NIGHT}, slides.NIGHT)
    added = Added.from_arrays(arrays)
    assert added.statistics.n.tolist() == [[1, 1], [1, 2]]
    assert added.normal is not None
    assert added.normal.rows.tolist() == [0, 1, 3]


def test_the_reports_of_a_laboratory_open(of_slides: Store) -> None:
    batch = load_batch(of_slides, "night")
    seal = read_seal(of_slides, batch, slides.KEY)
    assert seal is not None
    assert (seal.laboratory, seal.key) == (slides.LABEL, slides.KEY)
    assert screening_version(of_slides, batch, slides.KEY, 9) == 1
    assert is_announced(of_slides, batch, seal)
    images = read_table(of_slides, *PATH, columns=list(slides.IMAGES)).to_pydict()
    assert images == slides.IMAGES
    sealed = {SLIDES: seal.slides_digest, BATCHES: seal.batch_digest}
    for kind, values in ((SLIDES, slides.SLIDE), (BATCHES, slides.BATCH)):
        path = report_path("night", golden.DAY, kind)
        assert sealed[kind] == report_digest(of_slides, path)
        assert read_table(of_slides, *path, columns=list(values)).to_pydict() == values
    row = read_table(of_slides, *report_path("night", golden.DAY, BATCHES)).to_pylist()[0]
    night = BatchSummary.parse(row)
    assert (night.light, night.laboratory, night.slides_shifted) == (Light.AMBER, slides.LABEL, 1)
    assert night.tap_scores == {"layer1": (1, 3), "layer2": (4, 0)}
    assert night.bins == ((0, 0.25, 0.5, 0.75, 1), (-1, 0, 1))
    sql = (
        "select i.laboratory, s.shift from images i join slides s using (slide_id) where i.abnormal"
    )
    with answer(of_slides, sql) as found:
        assert found.read_all().to_pylist() == [{"laboratory": slides.LABEL, "shift": -2.0}]
    sql = "select name, nights, cells, false_alarms_05, false_alarms_01 from laboratories"
    with answer(of_slides, sql) as found:
        assert [tuple(row.values()) for row in found.read_all().to_pylist()] == [
            (slides.LABORATORY, 1, 5, 0.0625, None)
        ]


OF_SLIDES: dict[str, Callable[[Store], object]] = {
    "laboratories/kampala/v0001/card.json": lambda store: load_laboratory(store, slides.LABORATORY),
    "batches/night/announced/{key}.json": lambda store: [
        is_announced(store, load_batch(store, "night"), seal)
        for seal in list_seals(store, load_batch(store, "night"))
    ],
}


@pytest.mark.parametrize("path", OF_SLIDES)
@STRANGE
def test_what_a_newer_slidewatch_wrote_of_slides_and_laboratories_is_refused(
    of_slides: Store, path: str, strange: dict[str, int]
) -> None:
    assert_newer_is_refused(of_slides, path, OF_SLIDES[path], strange)
