import numpy as np
import pyarrow as pa
import pytest

from tasks.smears.visualisation.highlights import (
    ABNORMAL,
    CELLS_SHOWN,
    EXAMPLES,
    MOST_OF_A_SLIDE,
    PERSON,
    SAMPLE,
    UNCERTAIN,
)
from tests.support import nights
from tests.support.columns import with_column


def scored(rows: pa.Table) -> list[dict[str, object]]:
    return [row for row in rows.to_pylist() if row["status"] == "scored"]


@pytest.mark.parametrize("length", [7, 250])
@pytest.mark.parametrize("name", list(CELLS_SHOWN))
def test_parts_make_no_difference(name: str, length: int) -> None:
    rows = nights.image_rows(700)
    whole, pieces = nights.highlights_of(rows, 5000), nights.highlights_of(rows[:300], length)
    later = (nights.highlights_of(rows[n : n + 200], length, start=n) for n in (300, 500))
    pieces.add(*later)
    assert pieces.sheet(name).equals(whole.sheet(name))
    assert np.array_equal(pieces.scores, whole.scores)
    assert pieces.failures == whole.failures


def test_the_most_abnormal_are_shown_first_and_few_of_a_slide() -> None:
    rows = nights.image_rows(5000)
    expected, of_slide = [], dict[object, int]()
    for row in sorted(scored(rows), key=lambda row: -row["abnormality"]):  # type: ignore[operator]
        of_slide[row["slide_id"]] = of_slide.get(row["slide_id"], 0) + 1
        if of_slide[row["slide_id"]] <= MOST_OF_A_SLIDE:
            expected.append(row["uri"])
    shown = nights.highlights_of(rows, 300).sheet(ABNORMAL)
    assert shown["uri"].to_pylist() == expected[: CELLS_SHOWN[ABNORMAL]]


def test_one_slide_does_not_swamp_the_sheet() -> None:
    rows = nights.image_rows(2000)
    score = rows["abnormality"].to_numpy().copy()
    score[:50] += 100  # the whole first slide
    rows = with_column(rows, "abnormality", score)
    slides = nights.highlights_of(rows).sheet(ABNORMAL)["slide_id"].to_pylist()
    assert len(slides) == CELLS_SHOWN[ABNORMAL]
    assert slides.count("C0P1_IMG_0") == MOST_OF_A_SLIDE


@pytest.mark.parametrize("slide", ["only", None])
def test_a_night_of_one_slide_still_fills_the_sheet(slide: str | None) -> None:
    rows = nights.image_rows(300, slide_id=pa.array([slide] * 300, pa.string()))
    sheet = nights.highlights_of(rows, 40).sheet(ABNORMAL)
    scores = sorted((row["abnormality"] for row in scored(rows)), reverse=True)  # type: ignore[type-var]
    assert sheet["abnormality"].to_pylist() == scores[: CELLS_SHOWN[ABNORMAL]]


def test_the_least_certain_have_the_lowest_highest_probability() -> None:
    sheet = nights.highlights_of(nights.image_rows(3000)).sheet(UNCERTAIN)
    best = np.maximum(*(sheet[f"probability_{name}"].to_numpy() for name in nights.CLASSES))
    assert list(best) == sorted(best)
    assert best.max() < 0.52


def test_the_sample_is_drawn_by_digest_from_all_scored_images() -> None:
    rows = nights.image_rows(1000)
    digests = sorted(row["image_id"] for row in scored(rows))  # type: ignore[type-var]
    assert (
        nights.highlights_of(rows, 77).sheet(SAMPLE)["image_id"].to_pylist()
        == digests[: CELLS_SHOWN[SAMPLE]]
    )


def test_scores_are_counted_as_the_report_has_flagged_them() -> None:
    rows = nights.image_rows(4000)
    # One that no smear has is abnormal though its score is low.
    flags = rows["abnormal"].to_pylist()
    low = next(i for i, row in enumerate(rows.to_pylist()) if row["abnormal"] is False)
    flags[low] = True
    rows = with_column(rows, "abnormal", flags)
    highlights = nights.highlights_of(rows)
    middle = highlights.scores.shape[1] // 2
    assert highlights.edges[middle] == pytest.approx(nights.THRESHOLD)
    ordinary, abnormal = highlights.scores
    assert abnormal.sum() == sum(bool(row["abnormal"]) for row in scored(rows))
    assert abnormal[:middle].sum() == 1
    assert ordinary[middle:].sum() == 0
    assert highlights.scores.sum() == len(scored(rows))


def test_a_person_sees_abnormal_cells_of_smears_the_most_probable_parasites_first() -> None:
    rows = nights.image_rows(4000)
    reasons = rows["review_reason"].to_pylist()
    rubbish = [i for i, row in enumerate(rows.to_pylist()) if row["abnormal"]][::2]
    for i in rubbish:
        reasons[i] = "unlike any smear"
    sheet = nights.highlights_of(with_column(rows, "review_reason", reasons), 300).sheet(PERSON)
    assert sheet.num_rows == CELLS_SHOWN[PERSON]
    assert set(sheet["review_reason"].to_pylist()) <= {"abnormal", "abnormal, uncertain"}
    chances = sheet["probability_Parasitized"].to_pylist()
    assert chances == sorted(chances, reverse=True)


def test_failures_keep_a_few_examples_of_each_reason() -> None:
    rows = nights.image_rows(1000)
    failures = nights.highlights_of(rows, 100).failures
    uris = [row["uri"] for row in rows.to_pylist() if row["status"] == "failed"]
    assert failures == {"damaged": [(uri, "cut short") for uri in uris[:EXAMPLES]]}


@pytest.mark.parametrize("n", [0, 40])
def test_a_night_without_scored_images_has_empty_sheets(n: int) -> None:
    highlights = nights.highlights_of(nights.unscored_rows(n))
    assert all(highlights.sheet(name).num_rows == 0 for name in CELLS_SHOWN)
    assert highlights.scores.sum() == 0


def test_what_is_kept_does_not_grow_with_the_images() -> None:
    large = nights.highlights_of(nights.image_rows(20_000), 500)
    for name, table in large._kept.items():
        assert CELLS_SHOWN[name] <= table.num_rows <= 2 * CELLS_SHOWN[name]
