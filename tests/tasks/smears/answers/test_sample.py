import pyarrow as pa
import pytest

from tasks.smears.answers.sheets import COLUMNS, Sample, choose, ordered, scored_cells


def report(cells: int, flagged: int) -> pa.Table:
    """Cells of which the first are abnormal, and every second is parasitized."""
    rows = [
        {
            "image_id": f"{i:064x}",
            "slide_id": f"slide {i % 5}",
            "patient_id": f"patient {i % 3}",
            "diagnosis": "Parasitized" if i % 2 else "Uninfected",
            "abnormality": float(cells - i),
            "p_value": 0.001 if i < flagged else 0.5,
            "review_reason": "abnormal" if i < flagged else None,
            "verdict": "review" if i < flagged else "accept",
            **{"batch": "night", "uri": f"{i}.png", "status": "scored", "kind": "red"},
            "abnormal": i < flagged,
        }
        for i in range(cells)
    ]
    return pa.Table.from_pylist(rows).select(COLUMNS)


def chosen(parts: list[pa.Table], *, limit: int, per_slide: int, unmarked: float) -> Sample:
    return choose(scored_cells(parts), limit=limit, per_slide=per_slide, unmarked=unmarked)


def test_a_quarter_of_the_cells_are_others_unmarked() -> None:
    sample = chosen([report(200, 30)], limit=100, per_slide=100, unmarked=0.25)
    assert sample.rows["flagged"].to_pylist().count(True) == 30
    assert sample.rows["flagged"].to_pylist().count(False) == 10
    assert sample.of == {
        (True, "Uninfected"): 15,
        (True, "Parasitized"): 15,
        (False, "Uninfected"): 85,
        (False, "Parasitized"): 85,
    }


def test_the_most_abnormal_are_chosen_and_a_slide_sends_so_many() -> None:
    sample = chosen([report(200, 30)], limit=7, per_slide=2, unmarked=0.0)
    assert sorted(sample.rows["uri"].to_pylist()) == sorted(f"{i}.png" for i in range(7))
    sample = chosen([report(200, 30)], limit=100, per_slide=2, unmarked=0.0)
    assert sorted(int(uri[:-4]) for uri in sample.rows["uri"].to_pylist()) == list(range(10))


def test_the_choice_is_the_same_whatever_the_parts_are() -> None:
    whole = report(200, 30)
    parts = [whole.slice(0, 90), whole.slice(90)]
    one, two = (
        chosen(given, limit=20, per_slide=9, unmarked=0.3).rows["image_id"].to_pylist()
        for given in ([whole], parts)
    )
    assert one == two


def test_a_copy_is_one_cell_and_a_night_without_any_has_none() -> None:
    copies = pa.concat_tables([report(20, 5), report(20, 5)])
    assert chosen([copies], limit=100, per_slide=99, unmarked=0.0).rows.num_rows == 5
    assert chosen([], limit=100, per_slide=9, unmarked=0.25).rows.num_rows == 0


def test_a_night_in_which_nothing_is_flagged_is_read_all_the_same() -> None:
    assert chosen([report(50, 0)], limit=8, per_slide=9, unmarked=0.25).rows.num_rows == 8


@pytest.mark.parametrize("reader", ["Ada", "Ben"])
def test_a_reader_has_an_order_of_her_own_and_always_the_same(reader: str) -> None:
    images = [f"{i:064x}" for i in range(50)]
    mine = ordered(images, reader)
    assert mine == ordered(images[::-1], reader)
    assert mine != ordered(images, "Cleo")
    assert sorted(mine) == images
