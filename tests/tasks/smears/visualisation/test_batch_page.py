import base64
import re
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.smears.reports.slide_reasons import SlideReason
from tasks.smears.visualisation.batch_page import (
    NIGHTS_SHOWN,
    ODD_SHOWN,
    SLIDES_SHOWN,
    batch_page,
    odd_slides,
)
from tasks.smears.visualisation.highlights import CELLS_SHOWN
from tasks.smears.visualisation.overlay import COLOURS, ShownSlide
from tasks.smears.visualisation.viewer.overlays import ShownField
from tests.support import nights
from tests.support.columns import with_column
from tests.support.pages import EVIL, Page

MB = 1_000_000


@pytest.fixture(scope="module")
def page() -> str:
    return batch_page(nights.night_of(nights.image_rows(4000)))


def words(page: str) -> str:
    return Page(page).words


def test_the_page_says_what_the_night_was(page: str) -> None:
    night = nights.night_of(nights.image_rows(4000))
    said = words(page)
    assert "Batch night" in said
    assert "7 March 2026" in said
    assert f"{night.row['images']:,}" in said
    assert f"{night.row['abnormal']:,} cells; at most 5% expected" in said
    for reason in night.row["reasons"]:
        assert reason in said
    assert "damaged" in said
    assert "slidewatch screen --batch night" in said
    assert "sha256 " + 64 * "a" in said


@pytest.mark.parametrize("light", ["green", "amber", "red"])
def test_the_light_is_said_in_words_and_by_a_shape(light: str) -> None:
    night = nights.night_of(nights.image_rows(300))
    page = batch_page(replace(night, row=night.row | {"light": light, "reasons": ["because"]}))
    assert f"{light.capitalize()}: " in words(page)
    assert f'class="sign {light}"' in page
    assert "because" in words(page)


def test_every_image_has_words_and_every_table_a_caption(page: str) -> None:
    found = Page(page)
    images = found.of("img")
    assert len(images) == sum(CELLS_SHOWN.values())
    for image in images:
        assert image["alt"]
        assert str(image["src"]).startswith("data:image/webp;base64,")
    assert len(found.of("table")) == len(found.of("caption")) > 2
    assert [tag for tag, _ in found.elements].count("h1") == 1
    identifiers = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    anchors = {str(each["href"])[1:] for each in found.of("a") if str(each["href"])[0] == "#"}
    assert anchors <= set(identifiers)


def test_only_the_page_s_own_script_may_run(page: str) -> None:
    policy = next(str(m["content"]) for m in Page(page).of("meta") if "http-equiv" in m)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert "unsafe" not in rules["script-src"]


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert "url(http" not in page
    assert "@import" not in page


def test_names_from_outside_stay_text() -> None:
    found = Page(batch_page(nights.hostile_night()))
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert all(str(image["src"]).startswith("data:") for image in found.of("img"))
    assert not [a for _, attributes in found.elements for a in attributes if a.startswith("on")]
    assert "alert(1)" in "".join(found.text)


def test_the_same_night_gives_the_same_page() -> None:
    assert batch_page(nights.night_of(nights.image_rows(900))) == batch_page(
        nights.night_of(nights.image_rows(900))
    )


def test_a_cell_that_cannot_be_seen_again_has_a_placeholder() -> None:
    night = nights.night_of(nights.image_rows(900), see=lambda i: "the image cannot be read")
    found = Page(batch_page(night))
    assert not found.of("img")
    labels = [str(each.get("aria-label")) for each in found.of("div") if each.get("role") == "img"]
    assert len(labels) == sum(CELLS_SHOWN.values())
    assert all("the image cannot be read" in label for label in labels)
    assert "no picture was made" in batch_page(replace(night, thumbnails={}))


def test_slides_abnormal_together_are_named_first_and_once() -> None:
    rows = nights.image_rows(2000)
    for name, value in (("abnormality", 9.0), ("p_value", 0.001), ("abnormal", True)):
        rows = with_column(rows, name, [value] * 50 + rows[name].to_pylist()[50:])
    page = batch_page(nights.night_of(rows))
    (section,) = re.findall(r'<section id="together">(.*?)</section>', page, re.DOTALL)
    assert section.count("C0P1_IMG_0<") == 1
    assert 'href="#together"' in page
    slides = re.search(r'<section id="slides">(.*?)</section>', page, re.DOTALL)
    assert slides is not None
    first = re.findall(r'<th scope="row" class="name" id="slide-0">(.*?)</th>', slides[1])[0]
    assert re.fullmatch(r'C0P1_IMG_0<i class="swatch".*rgb\(20\d, 1[45]\d, 1[56]\d\)"></i>', first)


def test_many_slides_are_cut_and_the_page_says_how_many_are_left_out() -> None:
    rows = nights.image_rows(6000, slide_id=[f"slide {i // 5}" for i in range(6000)])
    page = batch_page(nights.night_of(rows, see=lambda i: "none"))
    assert f"The first {SLIDES_SHOWN} of 1,200 slides" in words(page)
    assert f"the other {1200 - SLIDES_SHOWN} are in the slide report" in words(page)
    reviewed = re.findall(r'<tr data-review="(yes|no)">', page)
    assert len(reviewed) == SLIDES_SHOWN
    assert reviewed == sorted(reviewed, reverse=True)


def test_earlier_nights_are_listed_newest_first() -> None:
    night = nights.night_of(nights.image_rows(400), nights=4)
    earlier = [night.row | {"batch": f"n{i}", "detector": "other"} for i in range(3 * NIGHTS_SHOWN)]
    page = batch_page(replace(night, earlier=[*earlier, *night.earlier]))
    (table,) = re.findall(r"<caption><span>This batch and those.*?</table>", page, re.DOTALL)
    names = re.findall(r'row" class="name">(?:<strong>)?([^<]*)', table)
    assert [name.strip() for name in names[:5]] == ["night", *(f"before-{i}" for i in (3, 2, 1, 0))]
    assert len(names) == NIGHTS_SHOWN
    assert "†" in names[-1]
    assert "another detector" in words(page)


def test_a_first_night_and_one_without_scores_have_pages() -> None:
    said = words(batch_page(nights.night_of(nights.unscored_rows(40), nights=0)))
    assert "Red: " in said
    assert "no image could be scored" in said


def test_names_of_any_length_do_not_make_the_page_long() -> None:
    rows = nights.image_rows(
        3000,
        uri=[f"/photos/{'<' * 4000}{i}.png" for i in range(3000)],
        slide_id=[f"{'&' * 4000}{i // 5}" for i in range(3000)],
    )
    assert len(batch_page(nights.night_of(rows)).encode()) < 10 * MB


def test_numbers_of_a_slide_sort_as_numbers(page: str) -> None:
    cells: list[Any] = re.findall(r'data-value="([^"]*)"', page)
    assert cells
    assert all(np.isfinite(float(cell)) for cell in cells)


# --- fields of view

SLIDE = "C0P1_IMG_0"


def test_fields_are_shown_with_what_their_cells_are() -> None:
    fields = [
        nights.shown_field(3, SLIDE, x=1024, y=2048, review_reason="out of focus"),
        ShownField(nights.field_row(1), "the field cannot be read any more"),
    ]
    rows = [*(each.row for each in fields), nights.field_row(4, SLIDE, kind="empty")]
    rows.append(
        nights.field_row(5, SLIDE, kind=None, failure="damaged: cut", review_reason="failed")
    )
    page = batch_page(nights.night_of(nights.image_rows(400), fields=rows, shown=fields))
    found = Page(page)
    (image,) = (each for each in found.of("img") if "with contours" in str(each["alt"]))
    assert str(image["src"]).startswith("data:image/webp")
    assert len([path for path in found.of("path") if path.get("data-said")]) == 3
    assert image["alt"] == (
        "field_3.jpg at 1,024, 2,048, with contours of 30 cells: "
        "3 parasitized, 2 abnormal, 1 failed"
    )
    said = words(page)
    assert "2 read, 1 damaged, 1 empty. Below are the fields" in said
    assert "out of focus" in said
    assert "the field cannot be read any more" in said
    assert all(name in said for name in COLOURS)
    assert 'href="#fields"' in page


def test_slides_with_fields_say_how_many_were_read() -> None:
    fields = [nights.field_row(0, SLIDE), nights.field_row(1, SLIDE, kind="thick")]
    page = batch_page(nights.night_of(nights.image_rows(400), fields=fields))
    (slide,) = re.findall(rf"<tr[^>]*>\s*<th[^>]*>{SLIDE}<.*?</tr>", page, re.DOTALL)
    assert '>50<small class="narrow">1 of 2 fields read</small>' in slide


def test_slides_are_shown_from_afar() -> None:
    rows = [nights.field_row(0, SLIDE), nights.field_row(2, SLIDE, review_reason="dark")]
    rows.append(nights.field_row(0, SLIDE, kind="thick"))
    night = nights.night_of(nights.image_rows(400), fields=rows)
    shown = ShownSlide("/slides/a.svs", rows, nights.field_picture())
    gone = ShownSlide("/slides/b.svs", rows[:1], "the slide cannot be read any more")
    page = batch_page(replace(night, whole_slides=[shown, gone]))
    (image,) = (each for each in Page(page).of("img") if "as a whole" in str(each.get("alt")))
    assert str(image["src"]).startswith("data:image/webp")
    assert image["alt"] == (
        "a.svs as a whole, 2 of 3 fields read: 1 with parasitized cells, 1 for review"
    )
    assert "the slide cannot be read any more" in words(page)


def test_a_batch_of_cells_says_nothing_of_fields(page: str) -> None:
    assert "<h2>Fields" not in page
    assert 'id="fields"' not in page
    assert "fields read" not in page


def test_a_page_with_the_largest_pictures_of_fields_stays_small() -> None:
    shown = [nights.shown_field(i) for i in range(8)]
    night = nights.night_of(
        nights.image_rows(3000), fields=[each.row for each in shown], shown=shown
    )
    slides = [ShownSlide("/slides/a.svs", [shown[0].row], nights.field_picture())] * 4
    page = batch_page(replace(night, whole_slides=slides))
    assert 2 * MB < len(page.encode()) < 10 * MB


def test_hostile_names_of_fields_stay_text() -> None:
    shown = ShownField(nights.field_row(0, EVIL, source_uri=f"/photos/{EVIL}"), EVIL)
    slide = ShownSlide(f"/slides/{EVIL}", [shown.row], EVIL)
    row = nights.field_row(1, EVIL, kind=None, failure=f"{EVIL}: {EVIL}", review_reason=EVIL)
    night = nights.night_of(nights.image_rows(60), fields=[shown.row, row], shown=[shown])
    page = batch_page(replace(night, whole_slides=[slide]))
    found = Page(page)
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert all(str(image["src"]).startswith("data:") for image in found.of("img"))


def test_a_slide_that_is_no_smear_is_listed_once() -> None:
    wrong = [SlideReason.IMPLAUSIBLE, SlideReason.SHIFTED, SlideReason.TOGETHER]
    far, both = [SlideReason.SHIFTED], [SlideReason.SHIFTED, SlideReason.TOGETHER]
    found = odd_slides(pa.table({"review_reasons": [wrong, far, [], both]}))
    assert found == {"implausible": [0], "shifted": [1, 3], "together": [3]}


def test_what_is_not_shown_is_counted() -> None:
    reasons = [[SlideReason.SHIFTED]] * (ODD_SHOWN + 3)
    names = [f"slide {n}" for n in range(len(reasons))]
    night = nights.night_of(nights.image_rows(len(names), slide_id=names))
    page = batch_page(replace(night, slides=with_column(night.slides, "review_reasons", reasons)))
    section = page[page.index('<section id="shifted">') :].partition("</section>")[0]
    assert section.count("<tr>") == 1 + ODD_SHOWN
    assert "3 more are in the slide report." in section
