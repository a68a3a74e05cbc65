from dataclasses import dataclass, replace

import pytest

from flows.jobs.quarantine import probe, quarantine
from flows.smears.jobs import drawings


@dataclass(frozen=True)
class Ten:
    """A job of ten rows."""

    without: tuple[int, ...] = ()

    def rows(self) -> int:
        return 10

    def probe(self, row: int) -> None:
        raise ValueError(f"row {row} is probed")

    def quarantine(self, rows: list[int]) -> "Ten":
        return replace(self, without=tuple(rows))


def test_each_row_is_tried_and_the_guilty_ones_are_left_out() -> None:
    asked: list[int] = []

    def kills(job: Ten, row: int) -> bool:
        asked.append(row)
        return row in (2, 7)

    assert quarantine(Ten(), kills) == Ten(without=(2, 7))
    assert asked == list(range(10))


def test_a_probe_is_the_jobs_own() -> None:
    with pytest.raises(ValueError, match="row 3 is probed"):
        probe(Ten(), 3)


@pytest.mark.parametrize("kind", ["field", "slide"])
def test_a_picture_that_kills_workers_is_not_drawn(kind: str) -> None:
    place = {"x": 0, "y": 0, "width": 8, "height": 8, "level": 0}
    field = drawings.FieldPictureJob(place | {"source_uri": "gone.png"}, (), {})
    slide = drawings.SlidePictureJob("gone.tif", ())
    job, draw = (field, drawings.draw_field) if kind == "field" else (slide, drawings.draw_slide)
    assert job.rows() == 1
    assert "kills" not in draw(job)
    assert job.quarantine([]) == job
    assert draw(job.quarantine([0])) == f"this {kind} alone kills the worker that draws it"
