"""The page of a batch in a real browser: an installed Chromium, without a network."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.smears.answers.sheets import read_sheet
from tasks.smears.visualisation.batch_page import batch_page, index_page
from tasks.smears.visualisation.overlay import ShownSlide
from tasks.smears.visualisation.viewer.overlays import ShownField
from tasks.types import Light
from tests.support import nights
from tests.support.browser import LEAST_CONTRAST, chromium
from tests.support.rates import RATES


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every part, one whose every name is hostile, and the index."""
    made = tmp_path_factory.mktemp("pages")
    shown = [nights.shown_field(i, "C0P1_IMG_0", review_reason="crowded") for i in range(2)]
    fields = [*(each.row for each in shown), nights.field_row(9, "C0P1_IMG_1", kind="empty")]
    night = nights.night_of(
        nights.image_rows(3000),
        see=lambda i: nights.picture(i) if i % 5 else "it is gone",
        fields=fields,
        shown=[*shown, ShownField(fields[-1], "it is gone")],
        rates=RATES,
        called=nights.called_of,
    )
    thumbnails = dict(night.thumbnails)
    for number, uri in enumerate(night.called.places):
        thumbnails[uri] = nights.picture(number)
    afar = ShownSlide("/slides/a.svs", fields, nights.field_picture())
    night = replace(night, thumbnails=thumbnails, whole_slides=[afar])
    row = night.row | {"light": Light.AMBER, "reasons": ["a reason", "another " * 20]}
    (made / "night.html").write_text(batch_page(replace(night, row=row)))
    (made / "hostile.html").write_text(batch_page(nights.hostile_night()))
    rows = [*night.earlier, night.row]
    (made / "index.html").write_text(index_page(rows, {"night": "night.html"}))
    return made


class Visit:
    """An opened page, and all it has complained of or asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def shown(self, column: int = 0) -> list[str]:
        """A column of the visible rows of the table of slides."""
        rows = self.page.locator("#slides tbody tr:not([hidden])")
        texts: list[str] = rows.evaluate_all(
            f"rows => rows.map(row => row.cells[{column}].firstChild?.textContent ?? '')"
        )
        return texts


@pytest.fixture
def visit(browser: Any, folder: Path) -> Iterator[Visit]:
    """The page with every part, opened."""
    with Visit(browser, folder / "night.html") as made:
        yield made


@pytest.mark.parametrize("name", ["night.html", "hostile.html", "index.html"])
@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_a_page_loads_alone_fits_and_can_be_read(
    browser: Any, folder: Path, name: str, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 844}
    with Visit(browser, folder / name, color_scheme=scheme, viewport=size) as visit:
        visit.page.wait_for_load_state("networkidle")
        assert visit.complaints == []
        elsewhere = [url for url in visit.requests if not url.startswith("data:")]
        assert elsewhere == [(folder / name).as_uri()]
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        ratio, text = visit.page.evaluate(LEAST_CONTRAST)
        assert ratio >= 4.5, text
        widths = visit.page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(widths) > 40 or name != "night.html"
        assert all(widths)


def test_names_from_outside_run_nothing(browser: Any, folder: Path) -> None:
    with Visit(browser, folder / "hostile.html") as visit:
        search = visit.page.get_by_role("searchbox")
        search.fill("onerror")
        visit.page.get_by_role("button", name="slide").click()
        assert visit.page.locator("img[src=x]").count() == 0
        assert visit.page.locator("script").count() == 1
        assert len(visit.shown()) > 2
        assert visit.complaints == []


def test_another_script_is_refused(browser: Any, folder: Path, tmp_path: Path) -> None:
    text = (folder / "night.html").read_text()
    tampered = tmp_path / "tampered.html"
    tampered.write_text(text.replace("</main>", "<script>document.title='run'</script></main>"))
    with Visit(browser, tampered) as visit:
        assert visit.page.title() != "run"
        assert "Content Security Policy" in " ".join(visit.complaints)


def test_slides_are_sorted_by_number_and_by_name(visit: Visit) -> None:
    before = visit.shown()
    button = visit.page.get_by_role("button", name="abnormal").first
    button.click()
    counts = [int(text) for text in visit.shown(6)]
    assert counts == sorted(counts)
    assert visit.page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    button.click()
    counts = [int(text) for text in visit.shown(6)]
    assert counts == sorted(counts, reverse=True)
    assert visit.page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    visit.page.get_by_role("button", name="slide").click()
    numbers = [int(name.rpartition("_")[2]) for name in visit.shown()]
    assert numbers == sorted(numbers)
    assert sorted(visit.shown()) == sorted(before)


def test_slides_are_found_by_name_and_by_review(visit: Visit) -> None:
    rows = len(visit.shown())
    search, status = visit.page.get_by_role("searchbox"), visit.page.get_by_role("status")
    search.fill("c1p1_img")
    found = visit.shown()
    assert 0 < len(found) < rows
    assert all(name.startswith("C1P1_IMG") for name in found)
    assert status.text_content() == f"{len(found)} of {rows} rows shown"
    search.fill("no such slide")
    assert visit.shown() == []
    search.fill("")
    assert len(visit.shown()) == rows
    visit.page.locator("#slides").get_by_role("checkbox").check()
    assert all(visit.shown(10))
    assert len(visit.shown()) < rows


def test_the_table_works_without_a_mouse(visit: Visit) -> None:
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.className") == "skip"
    visit.page.get_by_role("searchbox").focus()
    for _ in range(3):  # the checkbox, the table, its first heading
        visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.textContent") == "slide"
    visit.page.keyboard.press("Enter")
    assert visit.page.locator("th[aria-sort]").count() == 1
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert visit.page.evaluate(outline) == "solid"


def test_without_scripts_the_table_is_complete_and_no_control_is_dead(
    browser: Any, folder: Path
) -> None:
    with Visit(browser, folder / "night.html", java_script_enabled=False) as visit:
        assert visit.page.locator("#slides tbody tr").count() > 50
        assert not visit.page.locator(".controls").is_visible()


def test_the_index_leads_to_the_page(browser: Any, folder: Path) -> None:
    with Visit(browser, folder / "index.html") as visit:
        visit.page.get_by_role("link", name="night", exact=True).click()
        assert visit.page.get_by_role("heading", level=1).text_content() == "Batch night"
        visit.page.get_by_role("link", name="all batches").first.click()
        assert visit.page.get_by_role("heading", level=1).text_content() == "All batches"


def test_the_page_can_be_printed(visit: Visit) -> None:
    visit.page.emulate_media(media="print")
    assert not visit.page.locator(".controls").is_visible()
    assert visit.page.locator("#slides tbody tr").last.is_visible()
    assert visit.page.pdf(prefer_css_page_size=True)[:5] == b"%PDF-"


def test_a_link_opens_a_patient_below_whatever_sticks_to_the_top(visit: Visit) -> None:
    link = visit.page.locator("#patients a[href^='#patient-']").nth(3)
    target = visit.page.locator(str(link.get_attribute("href")))
    assert not target.is_visible()
    link.click()
    assert target.is_visible()
    top = target.evaluate("element => element.getBoundingClientRect().top")
    assert 0 <= top < 844


def test_a_field_can_be_panned_zoomed_switched_and_clicked(visit: Visit) -> None:
    visit.page.locator(".enlarge").first.click()
    layer = visit.page.locator("#viewer .picture .contours g")
    visit.page.locator("#viewer .picture .contours path").nth(2).wait_for()

    def placed() -> str:
        visit.page.wait_for_timeout(900)  # the movement has an end
        return str(layer.get_attribute("transform"))

    before = placed()
    box = visit.page.locator("#viewer .stage").bounding_box()
    edge = box["x"] + (box["width"] - box["height"] * 720 / 540) / 2  # of the picture
    beside = {"x": edge - 20, "y": box["y"], "width": 19, "height": 300}
    seen = visit.page.screenshot(clip=beside)
    cell = visit.page.locator("#viewer .picture path.parasitized").first
    switch = visit.page.locator("#viewer label.switch").filter(has_text="parasitized").first
    assert cell.is_visible()
    switch.click()
    assert not cell.is_visible()
    assert visit.page.screenshot(clip=beside) == seen  # the cell's contour ends with the picture
    switch.click()
    visit.page.get_by_role("button", name="zoom in").click()
    zoomed = placed()
    assert zoomed != before
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    visit.page.mouse.move(x, y)
    visit.page.mouse.down()
    visit.page.mouse.move(x + 60, y + 40, steps=4)
    visit.page.mouse.up()
    panned = placed()
    assert panned != zoomed
    visit.page.get_by_label("brightness").fill("150")
    canvas = visit.page.locator("#viewer .picture canvas").first
    assert "brightness(1.5)" in canvas.evaluate("each => getComputedStyle(each).filter")
    assert "µm" in str(visit.page.locator("#viewer .scale").text_content())
    visit.page.get_by_role("button", name="whole").click()
    placed()
    spot = cell.bounding_box()
    visit.page.mouse.click(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    visit.page.get_by_text("cell 0").wait_for()
    for key, number in zip("nnnb", (1, 0, 2, 0), strict=True):  # cell 1 has the highest priority
        visit.page.keyboard.press(key)
        visit.page.locator(f"#viewer .picked[data-id='{number:064x}']").wait_for()
    kept = visit.page.locator(f"#called .cell[data-id='{0:064x}'] input")
    visit.page.keyboard.press("p")
    visit.page.get_by_text("Marked as a parasite").wait_for()
    assert kept.is_checked()
    visit.page.get_by_role("button", name="Close").click()
    assert not visit.page.locator("#viewer").is_visible()
    assert visit.complaints == []


def test_marked_parasites_are_saved_as_a_sheet_of_answers(visit: Visit) -> None:
    patient = visit.page.locator("#called .patient").first
    patient.get_by_label("a parasite").nth(1).check()
    with visit.page.expect_download() as saved:
        patient.get_by_role("button", name="Save these answers").click()
    batch, lines = read_sheet(Path(saved.value.path()).read_bytes())
    assert batch == "night"
    shown = [cell.get_attribute("data-id") for cell in patient.locator(".cell").all()]
    assert [line.image_id for line in lines] == shown
    assert "slidewatch review import FILE --store /nights/store" in patient.inner_text()
    assert [line.answer == "Parasitized" for line in lines] == [n == 1 for n in range(len(shown))]
    assert {line.answer for line in lines} == {"Parasitized", "Uninfected"}
