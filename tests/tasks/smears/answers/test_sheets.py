from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from storage.reports.schemas.images import image_schema
from tasks.smears.answers import sheets
from tests.support.columns import with_column

CLASSES = ["Parasitized", "Uninfected"]
SCHEMA = image_schema(CLASSES, [])


def report(*rows: dict[str, Any]) -> pa.Table:
    ordinary = {"status": "scored", "verdict": "review", "batch": "night", "abnormal": True}
    return pa.Table.from_pylist(
        [
            ordinary | {"image_id": f"id{number}", "uri": f"{number}.png"} | row
            for number, row in enumerate(rows)
        ],
        SCHEMA,
    )


def chosen(*rows: dict[str, Any], per_slide: int = 10, done: tuple[str, ...] = ()) -> Any:
    table = report(*rows)
    # In two parts, as a report of two row groups.
    parts = iter([table.slice(0, 1), table.slice(1)])
    found, left_out = sheets.candidates(parts, done=done, per_slide=per_slide)
    return found["image_id"].to_pylist(), dict(left_out)


# --- what a person sees


def test_the_most_abnormal_cells_come_first_and_accepted_ones_not_at_all() -> None:
    assert chosen(
        {"abnormality": 1.0},
        {"abnormality": 3.0},
        {"abnormality": 9.0, "verdict": "accept"},
        {"abnormality": 2.0, "abnormal": False},
    ) == (["id1", "id3", "id0"], {})
    assert chosen({"verdict": "accept"}) == ([], {})


def test_one_bad_slide_does_not_fill_the_list() -> None:
    bad = [{"abnormality": 9.0 - n, "slide_id": "bad"} for n in range(4)]
    ids, left_out = chosen(*bad, {"abnormality": 0.5, "slide_id": "good"}, per_slide=2)
    assert ids == ["id0", "id1", "id4"]
    assert left_out == {"beyond the limit of their slide": 2}


def test_cells_that_name_no_slide_are_not_one_slide() -> None:
    ids, left_out = chosen(*[{"abnormality": float(n)} for n in range(4)], per_slide=1)
    assert (len(ids), left_out) == (4, {})


def test_what_was_seen_failed_or_is_there_twice_is_left_out() -> None:
    assert chosen(
        {"abnormality": 4.0, "image_id": "a", "slide_id": "s"},
        {"abnormality": 4.0, "image_id": "a", "slide_id": "s"},
        {"abnormality": 5.0, "image_id": "b", "slide_id": "s"},
        {"status": "failed", "image_id": None},
        done=("b",),
        per_slide=1,
    ) == (["a"], {"the same image again": 1, "reviewed before": 1, "failed": 1})


@given(st.text(), st.sampled_from(["", ".png", ".PNG", ".tiff", ".exe", ".png/../../x"]))
def test_a_file_name_is_safe_whatever_the_image_is_called(name: str, ending: str) -> None:
    found = sheets.image_name("0a1b", f"file:///{name}{ending}")
    assert found.startswith("0a1b")
    assert found.removeprefix("0a1b") in {"", ".png", ".tiff", ".jpg", ".jpeg", ".tif", ".bmp"}
    assert sheets.image_name("ab", "zip://night/x.jpg::s3://bucket/night.zip") == "ab.jpg"


# --- what a person said


def read(text: str) -> Any:
    batch, lines = sheets.read_sheet(text.encode())
    return sheets.check_answers(lines, batch=batch, known={"a", "b", "c"}, classes=CLASSES)


def test_answers_are_read_in_any_case_and_empty_ones_are_none() -> None:
    found = read(
        "\ufeffAnswer;image_id;batch;note;reader\n"
        "uninfected;A;night;;\n;b;night;what is it;\nOTHER;c;night; dust ;Ada\n"
    )
    assert [(v.image_id, v.answer, v.note, v.reader) for v in found] == [
        ("a", "Uninfected", "", ""),
        ("c", sheets.OTHER, "dust", "Ada"),
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["a,night,healthy"], "line 2: no answer 'healthy'; there are Parasitized, Uninfected"),
        (["x,night,other"], "line 2: no image 'x' was scored in batch night"),
        ([",night,other"], "no image ''"),
        (["1.2E+63,night,other"], r"no image '1\.2e\+63'"),
        (["a,night,other", "", "a,night,other"], "line 4: the image of line 2 again"),
        (
            ["a,night,other", "a,night,uninfected"],
            "line 3: the image of line 2 again, there 'other' and here 'uninfected'",
        ),
        (["a,night,other", "b,dusk,other"], "line 3: batch 'dusk'"),
        (["a,night,other,"], "no answer|more cells|nothing"),
        (["a,night,"], "no row has an answer yet"),
        ([], "no row has an answer yet"),
        ([f"x{n},night,other" for n in range(9)], "line 6.*and 4 more"),
    ],
)
def test_wrong_answers_are_named_by_line(rows: list[str], says: str) -> None:
    text = "\n".join(["image_id,batch,answer", *rows])
    if rows == ["a,night,other,"]:  # an empty cell too many is a spreadsheet's habit
        assert len(read(text)) == 1
        return
    with pytest.raises(sheets.AnswerError, match=says):
        read(text)


def test_a_file_that_is_no_sheet_says_what_is_missing() -> None:
    with pytest.raises(sheets.AnswerError, match="no column answer, batch; it has: image_id, x"):
        read("image_id,x\n1,2\n")
    with pytest.raises(sheets.AnswerError, match="empty"):
        read("")
    with pytest.raises(sheets.AnswerError, match="not UTF-8"):
        sheets.read_sheet(b"\x89PNG\r\n\x1a\n\xff")


# --- what it says of the abnormal list


def test_precision_counts_what_was_worth_a_look() -> None:
    table = report(
        {"diagnosis": "Uninfected"},
        {"diagnosis": "Uninfected"},
        {"diagnosis": "Parasitized"},
        {"diagnosis": "Parasitized", "image_id": "id2"},  # the same file under another name
        {"diagnosis": "Parasitized"},  # nobody looked
        {"diagnosis": "Parasitized", "abnormal": False},
        {"diagnosis": None, "abnormal": None, "status": "failed"},
    )
    said = {
        "id0": "Uninfected",
        "id1": "Parasitized",
        "id2": sheets.OTHER,
        "id5": sheets.OTHER,
        "id6": sheets.OTHER,
    }
    assert sheets.precision(iter([table.slice(0, 2), table.slice(2)]), said) == (3, 1, 1)
    assert sheets.precision(iter([table]), {}) == (0, 0, 0)  # before anybody looked


def test_a_sheet_has_what_the_report_says() -> None:
    assert set(sheets.FROM_REPORT) <= set(SCHEMA.names)


def out_of_fold(count: int, flipped: float, seed: int = 0) -> tuple[pa.Table, NDArray[np.bool_]]:
    """Calibrated diagnoses (AUROC about .99), and which of their labels were turned round."""
    rng = np.random.default_rng(seed)
    log_odds = np.where(rng.random(count) < 0.5, 1.0, -1.0) * rng.normal(5.0, 2.5, count)
    truth = rng.random(count) < 1 / (1 + np.exp(-log_odds))
    wrong = rng.permutation(count) < flipped * count
    rows = {
        "uri": [f"{i:06d}.png" for i in range(count)],
        "image_id": [f"{i:064x}" for i in range(count)],
        "patient_id": ["p"] * count,
        "slide_id": ["s"] * count,
        "label": np.where(truth ^ wrong, *CLASSES),
        "fold": [0] * count,
        "log_odds": log_odds,
        "probability": 1 / (1 + np.exp(-log_odds)),
        "stain": [0] * count,
    }
    return pa.table(rows), wrong


def test_planted_wrong_labels_are_among_the_worst() -> None:
    """5% are turned round; the diagnoses themselves are wrong of 2%."""
    table, wrong = out_of_fold(4000, 0.05)
    ranked = sheets.ranked_labels(table, CLASSES)
    worst = [int(i, 16) for i in ranked["image_id"].to_pylist()[:200]]
    found = wrong[worst].sum()
    assert found / len(worst) > 0.7  # precision; as many are looked at as are wrong, so recall too
    assert found / wrong.sum() > 0.7


def test_labels_are_ranked_by_log_odds_where_probabilities_are_ties() -> None:
    sure, _ = out_of_fold(3, 0.0)
    sure = with_column(sure, "log_odds", [50.0, 90.0, -70.0])
    sure = with_column(sure, "probability", [1.0, 1.0, 0.0])
    sure = with_column(sure, "label", [CLASSES[1], CLASSES[1], CLASSES[0]])
    ranked = sheets.ranked_labels(sure, CLASSES)
    assert [int(i, 16) for i in ranked["image_id"].to_pylist()] == [1, 2, 0]


def test_an_image_that_is_there_twice_is_one_label() -> None:
    table, _ = out_of_fold(10, 0.0)
    assert sheets.ranked_labels(pa.concat_tables([table, table]), CLASSES).num_rows == 10


def test_answers_take_the_place_of_labels_and_other_is_none() -> None:
    manifest = pa.table({"uri": ["a", "b", "c"], "label": ["Parasitized", "Uninfected", None]})
    found = sheets.corrected(manifest, ["1", "2", "3"], {"1": "Uninfected", "2": "other"}, CLASSES)
    assert found["label"].to_pylist() == ["Uninfected", None, None]
    assert found["published_label"].to_pylist() == ["Parasitized", "Uninfected", None]
