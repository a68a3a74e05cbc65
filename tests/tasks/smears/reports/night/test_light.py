"""Nights that drift, judged by their counts."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chisquare, kstest, norm

from storage.smears.grouping import grouping
from tasks.reports.image_columns import STRANGEST
from tasks.reports.image_rows import QValues
from tasks.smears.reports.night.counts import BINS, TAP_EDGES, NightCounts, Row
from tasks.smears.reports.night.judged import strange_patients, strange_slides
from tasks.smears.reports.night.light import (
    UNIFORM,
    Drift,
    Finding,
    clustered_p_value,
    effective_clusters,
    judge,
    population_stability,
    signed_distance,
)
from tests.support.cell_rows import MADE_BY
from tests.support.columns import with_column
from tests.support.grouped import as_published, group

ALPHA, CALIBRATED = 0.05, 6000
NO_NIGHTS: list[Row] = []


def cells(
    rng: np.random.Generator,
    *,
    patients: int = 20,
    each: int = 50,
    likeness: float = 0.1,
    shift: float = 0.0,
    other: float = 0.0,
    failed: float = 0.0,
    parasitized: float = 0.1,
    slides_only: bool = False,
    beyond: float = 0.0,
) -> pa.Table:
    """Image rows of a night: normal scores of which ``likeness`` is common to a patient's cells.

    With .1 the patients' rates of abnormal cells deviate by about .03, as real ones do. The share
    ``beyond`` lies outside the population, however ordinary it is on its slide.
    """
    n = patients * each
    who = np.repeat(np.arange(patients), each)
    score = np.sqrt(likeness) * rng.standard_normal(patients)[who]
    score += np.sqrt(1 - likeness) * rng.standard_normal(n) + shift
    score[rng.random(n) < other] = 12.0
    p = (1 + np.round(CALIBRATED * norm.sf(score))) / (CALIBRATED + 1)
    bad = rng.random(n) < failed
    p = np.where(bad, np.nan, p)
    night = QValues()
    night.add(p)
    q = night.of(p)
    abnormal = p <= ALPHA
    names = [f"P{i}" for i in who]
    return pa.table(
        {
            "slide_id": pa.array(names, pa.string()),
            "patient_id": pa.array([None] * n if slides_only else names, pa.string()),
            "status": np.where(bad, "failed", "scored"),
            "failure": pa.array(np.where(bad, "damaged: cut short", None).tolist(), pa.string()),
            "diagnosis": pa.array(
                np.where(rng.random(n) < parasitized, "Parasitized", "Uninfected"), mask=bad
            ),
            "abnormal": pa.array(abnormal, mask=bad),
            "review_reason": pa.array(np.where(abnormal, "abnormal", None).tolist(), pa.string()),
            "verdict": np.where(abnormal | bad, "review", "accept"),
            "p_value": pa.array(p, mask=bad),
            "population_p_value": pa.array(np.where(np.arange(n) < beyond * n, 0.0, p), mask=bad),
            "q_value": pa.array(q, mask=bad),
            "distance_tap": pa.array(np.exp(score), mask=bad),
        }
    )


def tally(rows: pa.Table) -> NightCounts:
    """Count a night's images."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.parquet"
        pq.write_table(as_published(rows, ["tap"]), images)
        with grouping(images, STRANGEST) as groups:
            scores = groups.tap_scores("tap", 0.0, 1.0, TAP_EDGES)
            return NightCounts(groups.batch(ALPHA), groups.p_values(BINS), {"tap": scores})


def row(rows: pa.Table, earlier: Sequence[Row] = NO_NIGHTS) -> dict[str, Any]:
    """The published row of a night."""
    return group(rows, scales={"tap": (0.0, 1.0)}, earlier=earlier, made_by=MADE_BY).batch


@cache
def night_before(number: int, **options: Any) -> Row:
    return row(cells(np.random.default_rng(100 + number), **options))


def history(nights: int, **options: Any) -> list[Row]:
    """Quiet nights, or what ``options`` make of them."""
    return [night_before(number, **options) for number in range(nights)]


def light_of(rows: pa.Table, earlier: Sequence[Row] = NO_NIGHTS, **options: Any) -> Drift:
    return judge(tally(rows), earlier, detector="d", alpha=ALPHA, **options)


def judged(earlier: Sequence[Row] = NO_NIGHTS, seed: int = 0, **options: Any) -> Drift:
    return light_of(cells(np.random.default_rng(seed), **options), earlier)


# --- measures


def test_the_distance_is_that_of_kolmogorov_and_smirnov_at_the_edges_of_bins() -> None:
    rng = np.random.default_rng(0)
    for a, sign in ((0.5, 1), (2.0, -1)):
        p = rng.beta(a, 1, 20_000)
        counts = np.histogram(p, np.linspace(0, 1, BINS + 1))[0]
        found = signed_distance(counts)
        assert np.sign(found) == sign
        assert_allclose(abs(found), kstest(p, "uniform").statistic, atol=0.01)


@pytest.mark.parametrize("shift", [0.2, 0.5, 1.0])
def test_the_stability_index_of_normal_scores_is_the_shift_squared(shift: float) -> None:
    """Jeffreys' divergence of two normal distributions of variance 1."""
    edges = np.linspace(-5, 6, 400)
    a, b = (np.round(1e9 * np.diff(norm.cdf(edges - x))).astype(int) for x in (0, shift))
    assert_allclose(population_stability(a, b), shift**2, rtol=0.01)
    assert population_stability(a, a) == 0
    # An empty bin does not make it infinite.
    assert 0 < population_stability(np.array([0, 10, 90]), np.array([10, 90, 0])) < 10


def test_few_heavy_patients_count_as_few() -> None:
    assert effective_clusters(np.full((8, BINS), 3)) == pytest.approx(8)
    assert effective_clusters(np.array([[1000] * BINS] + [[1] * BINS] * 50)) < 1.2
    assert effective_clusters(np.zeros((0, BINS), int)) == 0


def test_patients_that_vary_are_no_drift_where_a_test_of_cells_sees_nothing_else() -> None:
    rng, clustered, naive = np.random.default_rng(0), [], []
    for _ in range(200):
        p_values = cells(rng, patients=15, each=300)["p_value"].to_numpy().reshape(15, 300)
        clusters = np.stack([np.histogram(p, BINS, (0, 1))[0] for p in p_values])
        clustered.append(clustered_p_value(clusters))
        naive.append(chisquare(clusters.sum(axis=0)).pvalue)
    assert np.mean(np.array(clustered) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert np.mean(np.array(naive) <= 0.05) > 0.5


def test_patients_that_agree_are_drift_and_one_alone_is_not() -> None:
    clusters = tally(cells(np.random.default_rng(0), shift=0.5)).clusters
    assert clustered_p_value(clusters) <= 0.005
    assert clustered_p_value(clusters[:1]) == 1


# --- counting


def test_a_night_is_counted() -> None:
    table = cells(np.random.default_rng(0), failed=0.1, other=0.02)
    night, values = tally(table), table.to_pydict()
    assert night.row["images"] == table.num_rows
    assert night.row["scored"] == values["status"].count("scored") == night.p_values.sum()
    assert night.row["abnormal"] == values["abnormal"].count(True)
    assert night.row["failures"] == {"damaged": values["status"].count("failed")}
    assert sum(night.row["diagnoses"].values()) == night.row["scored"]
    assert night.tap_scores["tap"].sum() == night.row["scored"]
    assert len(night.clusters) == 20
    score = np.log(np.asarray([d for d in values["distance_tap"] if d is not None]))
    edges = [-np.inf, *TAP_EDGES, np.inf]
    assert night.tap_scores["tap"].tolist() == np.histogram(score, edges)[0].tolist()
    assert night.p_values[0] == night.row["abnormal"]  # at five percent


def test_slides_are_clusters_where_no_patient_is_named() -> None:
    assert len(tally(cells(np.random.default_rng(0), slides_only=True)).clusters) == 20


# --- the light


def test_quiet_nights_are_green() -> None:
    """Less than one in twenty of them is not, of one night's history as of many nights'."""
    earlier = history(14)
    nights = [cells(np.random.default_rng(seed)) for seed in range(20)]
    lights = [light_of(night, past).light for night in nights for past in (NO_NIGHTS, earlier)]
    assert lights.count("red") == 0
    assert lights.count("amber") < 2


def test_two_hundred_thousand_cells_are_judged_by_the_size_of_a_deviation() -> None:
    found = judged(patients=100, each=2000, shift=0.1)
    assert found.ks_distance is not None
    assert found.ks_distance > 0.02
    assert found.light == "green"


def test_a_photograph_that_failed_counts_as_much_as_one_with_all_its_cells() -> None:
    rng = np.random.default_rng(0)
    read, failed = cells(rng, patients=1, each=81), cells(rng, patients=1, each=5, failed=1.0)
    uris = [pa.array([f"{name} {i}" for i in range(n)]) for name, n in (("cell", 81), ("file", 5))]
    read = read.append_column("uri", uris[0]).append_column("source_uri", pa.array(["good"] * 81))
    rows = pa.concat_tables([read, failed.append_column("uri", uris[1])], promote_options="default")
    drift = light_of(rows)
    assert drift.light == "red"
    assert "5 of 6 files failed (83.3%): 5 damaged" in drift.reasons


@pytest.mark.parametrize(
    ("options", "light", "reason"),
    [
        ({"shift": 2.0}, "red", "cells as a whole are more abnormal than those that calibrated"),
        ({"shift": 2.0}, "red", "of the scored images are abnormal, expected 5.0%"),
        ({"shift": 0.6}, "amber", "cells as a whole are more abnormal"),
        (
            {"shift": 0.8},
            "amber",
            "the distribution of distances at tap differs from earlier batches: stability index",
        ),
        ({"shift": -0.8}, "amber", "cells as a whole are less abnormal"),
        ({"shift": -2.0}, "amber", "cells as a whole are less abnormal"),
        ({"other": 0.02}, "amber", "are surely abnormal: at most 10% of these are so by chance"),
        ({"failed": 0.002, "each": 100}, "amber", " images failed (0."),
        ({"failed": 0.05}, "amber", " images failed (5."),
        ({"failed": 0.5}, "red", " images failed ("),
        ({"parasitized": 0.6}, "amber", "diagnosed parasitized: "),
        ({"patients": 1, "each": 500, "shift": 3.0}, "red", "cells as a whole are more abnormal"),
        ({"patients": 1, "each": 20, "shift": 3.0}, "red", "of the scored images are abnormal"),
    ],
)
def test_a_night_that_is_odd_has_another_light_and_says_why(
    options: dict[str, Any], light: str, reason: str
) -> None:
    found = judged(history(8), **options)
    assert found.light == light
    assert [text for text in found.reasons if reason in text]


@pytest.mark.parametrize("earlier", [0, 8])
def test_a_single_photograph_among_thousands_of_cells_is_amber_and_says_what_was_meant(
    earlier: int,
) -> None:
    rows = cells(np.random.default_rng(0), each=100)
    failures = ["not_a_cell: 640 x 480 pixels", *[None] * (rows.num_rows - 1)]
    assert light_of(rows).light == "green"
    found = light_of(with_column(rows, "failure", failures), history(earlier))
    assert found.light == "amber"
    assert found.reasons[0].startswith("1 of 2,000 images is a photograph of many cells, or too")
    assert "`slidewatch screen --as fields` with these alone cuts" in found.reasons[0]


def test_a_night_of_nothing_but_photographs_says_what_was_meant() -> None:
    rows = cells(np.random.default_rng(0), failed=1.0)
    photographs = ["not_a_cell: 1280 x 960 pixels"] * rows.num_rows
    found = light_of(with_column(rows, "failure", photographs))
    assert (found.light, found.reasons[0]) == ("red", "no image could be scored")
    assert found.reasons[-1].startswith("1,000 of 1,000 images are photographs of many cells")


@pytest.mark.parametrize("options", [{"patients": 2}, {"each": 5}])
def test_a_small_night_says_that_drift_was_not_judged(options: dict[str, int]) -> None:
    found = judged(**options)
    assert found.light == "green"
    assert "only a great change would show" in found.reasons[0]


@pytest.mark.parametrize("earlier", [0, 8])
def test_a_night_of_no_images_and_one_with_none_scored_are_red(earlier: int) -> None:
    past = history(earlier)
    for table, reason in (
        (cells(np.random.default_rng(0)).slice(0, 0), "there are no images"),
        (cells(np.random.default_rng(0), failed=1.0), "no image could be scored"),
    ):
        found = light_of(table, past)
        assert (found.light, found.reasons[0]) == ("red", reason)
        written = row(table, past)
        assert written["ks_distance"] is written["psi"] is None
        assert written["p_values"] == [0] * BINS


def test_red_nights_and_those_of_another_detector_are_not_what_is_usual() -> None:
    quiet, bad = history(6), history(6, shift=2.0)
    assert {each["light"] for each in bad} == {"red"}
    night = tally(cells(np.random.default_rng(0)))
    found = judge(night, [*quiet, *bad], detector="d", alpha=ALPHA)
    assert found == judge(night, quiet, detector="d", alpha=ALPHA)
    assert found.nights == 6
    other = judge(night, quiet, detector="other", alpha=ALPHA)
    assert (other.nights, other.psi_earlier) == (0, None)


def test_only_the_last_thirty_nights_are_compared_with() -> None:
    old, new = history(1, parasitized=0.9), history(1)
    nights = old * 40 + new * 30
    assert judged(nights) == judged(new * 30)


def test_a_night_that_was_always_so_is_usual_to_the_history() -> None:
    found = judged(history(8, shift=0.6), shift=0.6)
    assert found.psi_earlier is not None
    assert found.psi is not None
    assert found.psi_earlier < 0.1 < found.psi
    assert found.light == "amber"  # but it is still not what calibrated


def test_the_row_tells_what_was_measured() -> None:
    table, past = cells(np.random.default_rng(0), shift=2.0), history(8)
    night = tally(table)
    found = judge(night, past, detector="d", alpha=ALPHA)
    written = row(table, past)
    assert written["light"] == "red"
    assert set(found.reasons) < set(written["reasons"])  # besides those of its slides
    assert written["p_values"] == night.p_values.tolist()
    assert written["ks_distance"] == found.ks_distance
    assert written["tap_scores"] == {"tap": night.tap_scores["tap"].tolist()}
    assert_allclose(UNIFORM.sum(), 1)


def test_white_cells_are_not_counted_as_parasites() -> None:
    rows = cells(np.random.default_rng(0), failed=0.1, parasitized=0.3)
    kinds = pa.array(["red" if i % 4 else "white" for i in range(rows.num_rows)])
    red = rows.filter(pa.array([kind == "red" for kind in kinds.to_pylist()]))
    parasitized = red["diagnosis"].to_pylist().count("Parasitized")
    assert tally(rows.append_column("kind", kinds)).row["parasitized"] == parasitized


def strange(**counts: Any) -> list[Finding]:
    """A night of twenty slides and 1,000 cells, in which nothing is strange but what is given."""
    row = {"slides": 20, "scored": 1000, "looked_at": 50, "turned": 0, "slides_implausible": 0}
    row |= {name: counts[name] for name in row if name in counts}
    told = {name: counts.get(name, 0) for name in ("commissioned", "blurred")}
    return [
        *strange_slides(row, counts.get("implausible_cells", 0), counts.get("shifted", 0), **told),
        *strange_patients({"negative": 20}, counts.get("unreadable", {})),
    ]


def drift(**counts: Any) -> Drift:
    return light_of(cells(np.random.default_rng(0)), further=strange(**counts))


def test_a_night_of_shifted_slides_is_red_and_one_among_many_is_no_news() -> None:
    lights = [drift(shifted=n).light for n in (0, 1, 2, 9, 10, 20)]
    assert lights == ["green", "green", "amber", "amber", "red", "red"]
    found = drift(shifted=5)
    assert found.reasons[0].startswith("5 of 20 slides are of a laboratory, stain or camera")


def test_a_first_night_of_an_unknown_laboratory_says_to_commission_it() -> None:
    for blurred in (0, 20):
        assert "slidewatch commission" in drift(shifted=20, blurred=blurred).reasons[0]
        found = drift(shifted=20, blurred=blurred, commissioned=True)
        assert found.light == "red"
        assert "slidewatch commission" not in found.reasons[0]


def test_a_night_whose_diagnoses_turn_under_a_blur_is_red() -> None:
    assert drift(turned=3).light == "green"
    found = drift(turned=48)
    assert found.light == "red"
    assert found.reasons[0].startswith("48 of 50 diagnoses that were looked at again turn")


def test_cells_that_are_no_smear_make_a_night_red_where_they_are_more_than_a_few() -> None:
    lights = [drift(slides_implausible=1, implausible_cells=n).light for n in (0, 40, 50, 1000)]
    assert lights == ["amber", "amber", "red", "red"]
    found = drift(slides_implausible=1, implausible_cells=500)
    assert found.reasons[0].startswith("1 of 20 slides cannot be a smear of blood (50% of")


def test_a_night_is_never_green_while_a_patient_cannot_be_read() -> None:
    found = drift(unreadable={"shifted": 1})
    assert found.light == "amber"
    assert found.reasons[0] == "the images of 1 of 20 patients cannot be read: 1 shifted"
    lights = [drift(unreadable={"shifted": 5, "blurred": n}).light for n in (4, 5, 15)]
    assert lights == ["amber", "red", "red"]


def test_cells_beyond_the_population_are_compared_with_earlier_nights() -> None:
    quiet = history(6)
    assert judged(quiet, beyond=0.02).light == "green"
    found = judged(quiet, beyond=0.24)
    assert found.light == "amber"
    assert any(text.startswith("unlike all known slides: 2") for text in found.reasons)


def test_a_night_with_copies_is_amber_and_says_how_many() -> None:
    table = cells(np.random.default_rng(0))
    marks = np.arange(table.num_rows) < 7
    drift = light_of(table.append_column("repeated", pa.array(marks)))
    assert drift.light == "amber"
    assert any(each.startswith("7 of 1,000 images are copies") for each in drift.reasons)
