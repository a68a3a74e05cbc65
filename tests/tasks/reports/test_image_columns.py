import pyarrow as pa

from tasks.reports.image_columns import SHIFTS, no_smears, of_no_smears
from tests.support.cell_rows import FAILED, UNCERTAIN, cell


def test_every_row_of_a_slide_that_is_no_smear_or_whose_diagnoses_turn_is_for_review() -> None:
    """Though its cells look ordinary by themselves; other slides stay as they are."""
    one = {"verdict": "accept", "review_reason": None, "failure": None, "steady": True}
    rows = [
        cell(slide) | one | {"steady": slide != "turns"}
        for slide in ("good", "turns", "rubbish", None)
        for _ in range(30)
    ]
    rows[30] |= UNCERTAIN | {"verdict": "review"}
    rows[60] |= cell("rubbish", **FAILED) | {"verdict": "review", "steady": None}
    shifts = pa.Table.from_pylist(
        [
            {"slide_id": slide, "implausible": wrong}
            for slide, wrong in {"rubbish": True, "good": False, None: None}.items()
        ],
        SHIFTS,
    )
    slides = no_smears(shifts, pa.Table.from_pylist(rows))
    assert sorted(map(str, slides)) == ["rubbish", "turns"]
    made = of_no_smears(pa.Table.from_pylist(rows), slides).to_pylist()
    reason = "its slide is no smear"
    for row, before in zip(made, rows, strict=True):
        if row["slide_id"] in slides and row["status"] == "scored":
            known = f"{before['review_reason']}, " if before["review_reason"] else ""
            before |= {"verdict": "review", "review_reason": f"{known}{reason}"}
        assert row == before
    assert made[30]["review_reason"] == f"uncertain, {reason}"
    nameless = of_no_smears(pa.Table.from_pylist(rows), [None]).to_pylist()
    assert [row["review_reason"] for row in nameless[90:]] == [reason] * 30
