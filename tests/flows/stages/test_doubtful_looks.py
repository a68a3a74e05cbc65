"""The images of a night that are looked at twice, whoever runs the jobs and however often."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.jobs.scoring.plan import plan_parts
from flows.jobs.scoring.scores import ScoreJob, score_part
from flows.jobs.scoring.screened import Screened
from flows.settings import Settings
from flows.stages import scoring
from flows.stages.publish import publish
from flows.stages.scoring import look_at_doubtful
from storage.batches.ledger import Screening, complete_looks, looks_path
from storage.models.detectors import DetectorCard
from storage.parquet import read_table
from storage.reports.tables import report_path
from tasks.detector.calibration import Calibration
from tasks.detector.detector import Detector, fit_gaussians
from tasks.detector.moments import merge_tree
from tasks.second_look import choice
from tasks.second_look.changed_rows import BEYOND, MADE
from tests.support.models import WHEN
from tests.support.shards import Night, keep_detector, start

MOST = 9


@pytest.fixture
def night(store_with_model: Any, cells: Any, monkeypatch: pytest.MonkeyPatch) -> Night:
    """A night in parts of ten cells, of which nine may be looked at twice."""
    monkeypatch.setattr("flows.jobs.scoring.plan.SHARDS_A_JOB", 1)
    monkeypatch.setattr(choice, "LEAST", MOST)
    run_here(monkeypatch)
    return start(store_with_model, cells)


def run_here(
    monkeypatch: pytest.MonkeyPatch, order: Callable[[list[Any]], Iterable[Any]] = iter
) -> None:
    """Run the jobs of second looks in this process, in some order."""

    def here(_: object, work: Callable[[Any], Any], jobs: list[Any], **__: object) -> Iterator[Any]:
        yield from (work(job) for job in order(jobs))

    monkeypatch.setattr(scoring, "run_jobs", here)


def scored(night: Night, *, looks: bool = True) -> tuple[DetectorCard, int]:
    """Score a night of which every cell is for review; returns how many parts it has."""
    calibration = Calibration(np.zeros(2), np.ones(2), np.arange(5.0), np.full(5, 0.2))
    stability = Calibration(np.zeros(2), np.ones(2), np.linspace(-1, 1, 100), np.full(100, 0.01))
    total = merge_tree(result.statistics for result in night.run(fit=True))  # type: ignore[misc]
    made = Detector(fit_gaussians(total), calibration, None, stability if looks else None)
    card = keep_detector(night.store, made, alpha=0.99)
    parts = plan_parts(night.store, night.batch, by_slide=False)
    for number, part in enumerate(parts):
        score_part(ScoreJob(
            night.store, night.batch, night.card, card, number, part.slides, part.spans, WHEN, None,
        ))  # fmt: skip
    Screening(scored_at=WHEN).write(night.store, "batches", night.batch.key, "screenings", "d.json")
    return card, len(parts)


def of(night: Night, card: DetectorCard) -> Screened:
    return Screened(night.store, night.batch, night.card, card)


def look(night: Night, card: DetectorCard, parts: int) -> None:
    look_at_doubtful(None, of(night, card), parts)  # type: ignore[arg-type]


def kept(night: Night, parts: int) -> dict[int, bytes]:
    done = complete_looks(night.store, night.batch, "d")
    assert done <= set(range(parts))
    return {n: night.store.read_bytes(*looks_path(night.batch, "d", n)) for n in done}


def published(night: Night, card: DetectorCard, parts: int) -> pa.Table:
    settings = Settings(store=night.store.url)
    publish(of(night, card), settings, parts)
    return read_table(night.store, *report_path("night", night.batch.batch_date))


def test_the_most_doubtful_of_every_slide_are_looked_at_and_the_report_says_it(
    night: Night,
) -> None:
    card, parts = scored(night)
    look(night, card, parts)
    report = published(night, card, parts).to_pandas()
    made = report[report["second_look"] == MADE]
    assert len(made) == MOST
    assert set(report["second_look"][report["verdict"] == "review"]) == {MADE, BEYOND}
    # There are more slides than images that may be looked at.
    assert made.groupby(["patient_id", "slide_id"], observed=True).size().max() == 1
    assert made["stability"].notna().all()
    assert report["stability"].notna().sum() == MOST
    same = report["second_look"] != MADE
    for name in night.card.classes:
        first, then = report[f"first_probability_{name}"], report[f"probability_{name}"]
        assert (first[same] == then[same]).all()
        assert (first[~same] != then[~same]).any()
    chances = report[[f"probability_{name}" for name in night.card.classes]]
    names = np.asarray(night.card.classes)[chances.to_numpy().argmax(axis=1)]
    assert report["diagnosis"].tolist() == names.tolist()
    reasons = made["review_reason"].str.contains("unstable")
    assert (reasons == made["unstable"].astype(bool)).all()
    assert not complete_looks(night.store, night.batch, "d")


def test_slides_are_counted_by_the_first_pass(night: Night) -> None:
    card, parts = scored(night)
    look(night, card, parts)
    report = published(night, card, parts).to_pandas()
    path = report_path("night", night.batch.batch_date, "slides")
    slides = read_table(night.store, *path).to_pandas().set_index("slide_id")
    first = report["first_probability_Parasitized"] > report["first_probability_Uninfected"]
    counted = first.groupby(report["slide_id"].astype(str)).sum()
    assert slides["parasitized"].to_dict() == counted.to_dict()


def test_a_run_that_goes_on_looks_at_what_is_left_and_ends_in_the_same_bytes(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, parts = scored(night)
    look(night, card, parts)
    whole = kept(night, parts)
    assert len(whole) > 1
    night.store.remove("batches", night.batch.key, "looks")
    run_here(monkeypatch, lambda jobs: iter(jobs[-1:]))
    look(night, card, parts)
    (last,) = kept(night, parts)
    begun: list[int] = []
    run_here(monkeypatch, lambda jobs: (begun.append(job.part) or job for job in reversed(jobs)))
    look(night, card, parts)
    assert kept(night, parts) == whole
    assert sorted(begun) == sorted(whole.keys() - {last})


def test_a_detector_of_before_looks_at_none_and_says_what_to_do(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    card, parts = scored(night, looks=False)
    look(night, card, parts)
    assert "fit again to enable it" in capsys.readouterr().err
    report = published(night, card, parts)
    for name in ("stability", "unstable", "second_look"):
        assert report[name].null_count == report.num_rows
    for name in night.card.classes:
        assert report[f"first_probability_{name}"].equals(report[f"probability_{name}"])
