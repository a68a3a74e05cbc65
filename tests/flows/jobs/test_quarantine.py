import pytest

from flows.smears.jobs import drawings


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
