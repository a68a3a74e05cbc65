from tasks.smears.visualisation.batch_page import index_page
from tests.support.nights import image_rows, night_of
from tests.support.pages import Page

EVIL = "<script>alert(1)</script>"


def test_every_night_is_listed_newest_first_and_leads_to_its_page() -> None:
    night = night_of(image_rows(200))
    nights = [*night.earlier, night.row]
    pages = {"night": "night.html", "before-1": "before-1.html"}
    found = Page(index_page(nights, pages))
    assert [each["href"] for each in found.of("a")] == ["#main", "night.html", "before-1.html"]
    text = found.words
    places = [
        text.index(name) for name in ("night", "before-3", "before-2", "before-1", "before-0")
    ]
    assert places[1:] == sorted(places[1:])
    for light in ("green", "amber", "red"):
        assert light in text
    assert not found.of("script")


def test_nights_of_another_detector_are_marked() -> None:
    night = night_of(image_rows(200))
    other = night.row | {"batch": "old", "detector": "m-v0000"}
    assert "old †" in index_page([other, night.row], {})
    assert "†" not in index_page([night.row], {})


def test_a_store_without_nights_has_an_index() -> None:
    assert "No batch has been screened" in index_page([], {})


def test_what_changes_from_night_to_night_is_drawn() -> None:
    night = night_of(image_rows(400))
    nights = [night.row | {"batch": f"n{i}", "review": 10 * i} for i in range(3)]
    page = index_page(nights, {})
    labels = [str(each["aria-label"]) for each in Page(page).of("svg") if each.get("aria-label")]
    assert len(labels) == 2
    assert "Patients by batch" in labels[0]
    assert "images for review 0 at -2 to .050 at 0" in labels[1]
    assert "images failed" in labels[1]
    assert "by batch" not in index_page(nights[:1], {})


def test_names_stay_text() -> None:
    night = night_of(image_rows(200))
    page = index_page([night.row | {"batch": EVIL, "reasons": [EVIL]}], {EVIL: EVIL})
    assert EVIL not in page
    assert not Page(page).of("script")
