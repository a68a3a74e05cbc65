"""Files as two makers' scanners write them: an Aperio slide of tissue, and fluorescence."""

import tracemalloc
import zipfile
from pathlib import Path

import pytest

from flows.options.flows import Screen, Segment
from flows.settings import Settings
from flows.smears.night import screen
from flows.smears.segment import segment
from tasks.images.opened_slides import is_slide, open_slide
from tasks.smears.segmentation.finding import find_cells
from tasks.smears.segmentation.survey import survey
from tests.support.needs import needs_data
from tests.support.paths import DATA

APERIO, HAMAMATSU = "CMU-1-Small-Region.svs", "test3-TRITC 2 (560).ndpi"
MIB = 2**20

pytestmark = needs_data("slides.zip")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    with zipfile.ZipFile(DATA / "slides.zip") as archive:
        for name in (APERIO, HAMAMATSU):
            maker = folder / Path(name).suffix[1:]
            maker.mkdir()
            archive.extract(name, maker)
    return folder


@pytest.mark.parametrize(
    ("path", "size", "levels", "microns", "kind"),
    [
        (f"svs/{APERIO}", (2220, 2967), 1, 0.499, "field"),
        (f"ndpi/{HAMAMATSU}", (3968, 4864), 7, 0.2282, "thick"),
    ],
)
def test_a_scanners_slide_is_opened_and_surveyed(
    scans: Path, path: str, size: tuple[int, int], levels: int, microns: float, kind: str
) -> None:
    uri = f"file://{scans / path}"
    assert is_slide(uri)
    slide = open_slide(uri)
    assert (slide.width, slide.height) == size
    assert len(slide.downsamples) == levels
    assert slide.microns_per_pixel == pytest.approx(microns, abs=1e-4)
    surveyed = survey(slide)
    assert {place["kind"] for place in surveyed} == {kind}
    for level in range(levels):
        box = slide.read(0, 0, *size, level)
        assert box.shape[1] == pytest.approx(size[0] / slide.downsamples[level], abs=1)


def test_tissue_is_searched_within_the_memory_that_its_pixels_say(scans: Path) -> None:
    """Tissue looks like cells that lie over one another, and a square of candidates killed."""
    slide = open_slide(f"file://{scans}/svs/{APERIO}")
    field = slide.read(1000, 1300, 400, 400)
    diameter = survey(slide)[0]["diameter"]
    tracemalloc.start()
    found = find_cells(field, diameter)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.cells) > 50
    assert peak < 600 * MIB


@pytest.mark.slow
def test_a_scanners_slide_is_cut_up_and_screened(scans: Path, tiny_ready: Settings) -> None:
    whole = segment.fn(Segment(images=str(scans / "svs"), name="whole"), tiny_ready)
    outcome = screen.fn(Screen(images=whole.manifest, batch="scan"), tiny_ready)
    # At half a micron a pixel most fields of this tissue are out of focus, and counted as such.
    assert whole.fields == {"field": 1, "unfocused": 8}
    assert outcome.scored == whole.images > 900
