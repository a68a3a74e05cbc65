"""Whole slides: memory against their size, and regions beside OpenSlide's own reading."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from openslide import OpenSlide

from tasks.images.opened_slides import open_slide
from tasks.smears.segmentation.survey import survey
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.peak import extra_peak
from tests.support.rendered_slides import render_slide

SMALL, LARGE = (4_000, 8_000) if QUICK else (10_000, 40_000)
ROUNDS = 3 if QUICK else 15
FIELDS = 40  # read of every slide
REGION = 1024

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Slides of both sizes, of which a quarter is fields and a quarter too thick."""
    folder, made = tmp_path_factory.mktemp("slides"), {}
    for side in (SMALL, LARGE):
        made[side] = folder / f"{side}.tif"
        quarter = (side // 1024) ** 2 // 4
        render_slide(
            made[side], width=side, height=side, fields=quarter, thick=quarter, seed=0, levels=4
        )
    return made


def read_fields(path: Path) -> Callable[[], object]:
    """Survey a slide and read its fields, one after another."""

    def work() -> int:
        slide = open_slide(path.as_uri())
        found = survey(slide)
        fields = [place for place in found.places if place.kind == "field"]
        for place in (fields * FIELDS)[:FIELDS]:
            slide.read(place.x, place.y, place.width, place.height, found.level)
        return len(fields)

    return work


def test_memory_does_not_depend_on_the_slides_size(slides: dict[int, Path], record: Record) -> None:
    small, large = (extra_peak(read_fields, slides[side]) for side in (SMALL, LARGE))
    record(f"MiB for a slide of {LARGE} pixels a side, rival {SMALL}", "MiB",
           ours=[large], rival=[small])  # fmt: skip
    assert large < 1.5 * small + 10


def test_a_region_beside_openslide(slides: dict[int, Path], record: Record) -> None:
    ours, rival = open_slide(slides[LARGE].as_uri()), OpenSlide(slides[LARGE])
    found = [place for place in survey(ours).places if place.kind == "field"]
    places = np.random.default_rng(0).permutation(len(found))[:ROUNDS]
    boxes = iter([found[i] for i in places for _ in range(2)])

    def read_ours() -> None:
        place = next(boxes)
        ours.read(place.x, place.y, REGION, REGION)

    def read_rival() -> None:
        place = next(boxes)
        np.asarray(rival.read_region((place.x, place.y), 0, (REGION, REGION)).convert("RGB"))

    taken = in_turn(len(places), {"ours": read_ours, "rival": read_rival})
    milliseconds = {name: [1000 * each for each in seconds] for name, seconds in taken.items()}
    record(f"ms for a region of {REGION} x {REGION} pixels, rival OpenSlide", "ms",
           ours=milliseconds["ours"], rival=milliseconds["rival"], bound=0.3)  # fmt: skip


def test_a_survey_of_a_large_slide(slides: dict[int, Path], record: Record) -> None:
    opened = {side: open_slide(path.as_uri()) for side, path in slides.items()}
    taken = in_turn(
        3, {str(side): lambda slide=slide: survey(slide) for side, slide in opened.items()}
    )
    each = {side: [1e12 * s / side**2 for s in taken[str(side)]] for side in opened}
    record(f"survey of a megapixel of {LARGE} x {LARGE} pixels, rival of {SMALL} x {SMALL}", "us",
           ours=each[LARGE], rival=each[SMALL], bound=0.5)  # fmt: skip
