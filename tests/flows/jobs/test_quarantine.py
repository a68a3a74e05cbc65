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
    item, work = {
        "field": ((place | {"source_uri": "gone.png"}, (), {}), drawings.draw_field),
        "slide": (("gone.tif", ()), drawings.draw_slide),
    }[kind]
    job = drawings.DrawingJob((item,), work)
    assert job.rows() == 1
    assert "kills" not in drawings.draw(job)[0]
    assert job.quarantine([]) == job
    killed = drawings.draw(job.quarantine([0]))
    assert killed == [f"this {kind} alone kills the worker that draws it"]
