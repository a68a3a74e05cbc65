from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from storage.smears.schemas.evaluations import EVALUATION_SCHEMA
from tasks.metrics.metrics import SINGLE
from tasks.smears.evaluation.measures import HOME
from tasks.smears.visualisation.robustness_page import robustness_page
from tests.support.pages import Page

SCRIPT = "<script>alert('1')</script>"
DETECTORS = ("slidewatch", "energy", "maximum softmax")
FACTS = {"Detector": "nih-1", "Seeds": "3"}
SCHEMA = EVALUATION_SCHEMA


def row(**fields: Any) -> dict[str, Any]:
    usual = {"evaluation": "e", "seed": 0, "set": "far/digits", "composition": SINGLE}
    return dict.fromkeys(SCHEMA.names) | usual | {"measure": "AUROC", "value": 0.9} | fields


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), SCHEMA)


def all_rows(seeds: int) -> Iterator[dict[str, Any]]:
    """Rows of every kind, as an evaluation makes them."""
    sets: list[tuple[str, float | None]] = [("near/white", None), ("attack/fgsm", 2 / 255)]
    sets += [("attack/fgsm", 0.05), ("attack/other", None)]
    for seed in range(seeds):
        for name, strength in sets:
            place = {"seed": seed, "set": name, "strength": strength}
            for i, detector in enumerate(DETECTORS):
                yield row(**place, detector=detector, value=0.9 + i / 100 + seed / 1000)
                yield row(**place, detector=detector, measure="caught", value=0.5 + i / 10)
            yield row(**place, detector="slidewatch verdict", measure="caught", value=0.97)
            if name.startswith("attack"):
                yield row(**place, measure="success rate", value=0.8)
            for share in (1.0, 0.1):
                for detector in ("own normal", "population"):
                    of = {"composition": f"night of {HOME}", "share": share, "detector": detector}
                    yield row(**place, **of, measure="caught at 0.05", value=share / 2)
        for level in range(1, 6):
            own = {"seed": seed, "set": "corruption/blur", "strength": float(level)}
            yield row(**own, measure="accuracy", value=0.95)
            yield row(**own, detector="slidewatch", measure="called abnormal", value=level / 10)
        own = {"seed": seed, "set": HOME, "detector": "own normal", "composition": "slides"}
        yield row(**own, share=0.0, measure="false alarms at 0.05", value=0.04)
        yield row(seed=seed, set=HOME, measure="accuracy", value=0.96)


def a_page(seeds: int = 3) -> str:
    return robustness_page("Robustness", FACTS, table(*all_rows(seeds)))


def test_a_page_is_whole_and_needs_nothing_else() -> None:
    text = a_page()
    page = Page(text)
    links = [a.get(k) or "" for _, a in page.elements for k in ("src", "href", "xlink:href")]
    assert all(link.startswith("#") for link in links if link)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert {link[1:] for link in links if link} <= set(ids)
    assert len(ids) == len(set(ids))
    assert not page.of("script")
    assert not page.of("link")
    assert "url(http" not in text
    assert "@import" not in text


def test_a_page_can_be_read_without_eyes_or_mouse() -> None:
    page = Page(a_page())
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.of("svg"))
    assert page.of("html")[0]["lang"] == "en"
    boxes = [box for box in page.of("div") if box.get("class") == "scroll"]
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    assert all("scope" in heading for heading in page.of("th"))
    assert len(page.of("table")) == len(page.of("caption")) == len(boxes)


def test_a_page_has_every_part() -> None:
    page = Page(a_page())
    sections = [section["id"] for section in page.of("section")]
    assert sections == ["summary", "attacks", "covariate", "compositions", "limits"]
    text = " ".join(page.text)
    assert "mean over 3 seeds" in text
    for label in ("attack/fgsm, 2/255", "attack/fgsm, .050", "attack/other", "nih-1"):
        assert label in text
    charts = [chart["aria-label"] or "" for chart in page.of("svg")]
    assert len(charts) == 5
    assert [tag for tag, _ in page.elements if tag in ("svg", "table")][:3] == ["svg"] * 3
    assert any("maximum softmax .921 at 2 to .921 at 12.75" in label for label in charts)
    assert any("corruption/blur .100 at 1 to .500 at 5" in label for label in charts)


def test_a_table_is_a_pivot_of_the_results_in_their_order() -> None:
    text = " ".join(" ".join(Page(a_page(2)).text).split())
    head = "set slidewatch energy maximum softmax"
    assert f"AUROC {head} near/white .901 .900 to .901 .911" in text
    head = "set composition detector 100% 10%"
    night = f"night of {HOME}"
    assert f"{head} near/white {night} own normal .500 .050" in text
    assert f"attack/other {night} population .500 .050" in text


def test_names_from_outside_stay_inert() -> None:
    rows = [row(set=f"attack/{SCRIPT}", strength=s / 255, detector="slidewatch") for s in (2, 4)]
    rows += [row(set=HOME, measure=f"called {SCRIPT}"), row(set=SCRIPT, composition=SCRIPT)]
    rows.append(row(set=SCRIPT, share=0.5, detector=SCRIPT, measure="caught at 0.05"))
    rows.append(row(set=HOME, share=0.0, measure=f"called {SCRIPT}"))
    text = robustness_page(SCRIPT, {SCRIPT: SCRIPT}, table(*rows))
    assert "<script" not in text
    assert any(SCRIPT in piece for piece in Page(text).text)


def test_an_empty_table_makes_a_page() -> None:
    page = robustness_page("t", {}, SCHEMA.empty_table())
    assert "Nothing was measured." in page
    assert [s["id"] for s in Page(page).of("section")] == ["summary", "limits"]


def test_one_seed_shows_its_interval_and_several_their_range() -> None:
    one = row(detector="slidewatch", value=0.9, low=0.8, high=0.95)
    text = robustness_page("t", FACTS, table(one))
    assert "One seed" in text
    assert ".900<small>.800 to .950</small>" in text
    text = robustness_page("t", FACTS, table(one, one | {"seed": 1, "value": 0.7}))
    assert ".800<small>.700 to .900</small>" in text


@pytest.mark.parametrize("value", [None, 0.5])
def test_what_is_not_known_is_a_dash(value: float | None) -> None:
    rows = [row(detector="slidewatch"), row(set="far/cats", detector="energy", value=value)]
    text = robustness_page("t", {}, table(*rows))
    assert text.count("<td>–</td>") == 2 + (value is None)
