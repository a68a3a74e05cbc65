import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.evaluation.metrics import METRICS
from tasks.evaluation.results.examples import Example
from tasks.evaluation.seeds import over_seeds
from tasks.visualisation.robustness_page import SCORES, robustness_page
from tasks.visualisation.robustness_tables import robustness_markdown
from tests.support.pages import Page

SCRIPT = "<script>alert(1)</script>"
DETECTORS = ("maximum softmax", "energy", "slidewatch", "layers (known-attack)")
FACTS = {"Detector": "nih-1", "Seeds": "3"}


def row(**fields: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(METRICS.names)
    usual = {"seed": 0, "group": "far", "set": "digits", "images": "as files", "value": 0.9}
    return nothing | usual | {"against": "clean", "metric": "AUROC"} | fields


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), METRICS)


def all_rows(seeds: int) -> Iterator[dict[str, Any]]:
    """Rows of every group, as an evaluation makes them."""
    sets = [("near", "white cells", None), ("near, masked", "other laboratory", None)]
    sets += [("attack", "fgsm", 2 / 255), ("attack", "fgsm", 0.05), ("attack", "deepfool", None)]
    for seed in range(seeds):
        counts = {"seed": seed, "positives": 500, "negatives": 1000 + seed}
        for group, name, strength in sets:
            place = counts | {"group": group, "set": name, "strength": strength}
            for against in ("clean", "clean and noise")[: 1 + (group == "attack")]:
                own = place | {"against": against}
                for i, detector in enumerate(DETECTORS):
                    yield row(**own, detector=detector, value=0.9 + i / 100 + seed / 1000)
                    yield row(**own, detector=detector, metric="caught", value=0.5 + i / 10)
                yield row(**own, detector="slidewatch verdict", metric="caught", value=0.97)
            yield row(**place, metric="success rate", value=0.8)
        for level in range(1, 6):
            own = {"seed": seed, "group": "covariate", "set": "blur", "strength": float(level)}
            own |= {"against": None}
            yield row(**own, metric="accuracy", value=0.95)
            yield row(**own, detector="slidewatch", metric="called abnormal", value=level / 10)
        for method in ("left out", "held out"):
            for patients in (5.0, 10.0, 50.0 + seed):
                own = {"seed": seed, "group": "false alarms", "set": method, "strength": patients}
                own |= {"against": None, "detector": "slidewatch"}
                yield row(**own, metric="by patient at 0.05", value=0.3 / patients)
        yield row(seed=seed, group="diagnosis", set="test", against=None, metric="accuracy")
        yield row(seed=seed, detector="slidewatch", metric="threshold", value=1.0)


def some_scores(rows: int, seeds: int = 1, name: str = "fgsm") -> pa.Table:
    """As many scores: a third clean, a third attacked, a third of white cells, by detector."""
    rng = np.random.default_rng(0)
    kind = np.arange(rows) % 3
    return pa.table(
        {
            "seed": np.arange(rows) // 3 % seeds,
            "group": np.array(["ordinary", "attack", "near"])[kind],
            "set": np.array(["test", name, "white cells"])[kind],
            "strength": pa.array(np.where(kind == 1, 2 / 255, np.nan), from_pandas=True),
            "images": np.repeat(["as files"], rows),
            "treatment": np.array(["clean", "changed", "changed"])[kind],
            "detector": np.array(DETECTORS[:3])[np.arange(rows) // (3 * seeds) % 3],
            "score": rng.normal(kind * 1.5),
            "counted": rng.random(rows) < 0.95,
            "uri": np.repeat([SCRIPT], rows),
        }
    )


def example(change: int = 4, side: int = 8) -> Example:
    clean = np.full((side, side, 3), 100, np.uint8)
    changed = clean.copy()
    changed[2, 3, 0] += change
    return Example("fgsm, 2/255", clean, changed, ("before: .9", "after: .1"))


def a_page(seeds: int = 3, rows: int = 900) -> str:
    metrics = table(*all_rows(seeds))
    return robustness_page("Robustness", FACTS, metrics, some_scores(rows, seeds), [example()])


def test_figures_of_seeds_become_their_mean_and_their_range() -> None:
    counts = {"detector": "energy", "negatives": 5}
    reduced = over_seeds(
        table(
            row(seed=0, value=0.8, low=0.7, high=0.85, positives=10, **counts),
            row(seed=1, value=0.9, low=0.75, high=0.95, positives=12, **counts),
            row(seed=2, value=None, **counts),
            row(seed=0, value=0.5, strength=0.1, **counts),
            row(seed=0, value=float("nan"), metric="caught", **counts),
        )
    ).to_pylist()
    assert [(r["strength"], r["metric"]) for r in reduced] == [
        (None, "AUROC"),
        (0.1, "AUROC"),
        (None, "caught"),
    ]
    first, second, unknown = reduced
    assert first["mean"] == pytest.approx(0.85)
    assert (first["min"], first["max"], first["low"], first["high"]) == (0.8, 0.9, 0.7, 0.95)
    assert (first["seeds"], first["positives_min"], first["positives_max"]) == (2, 10, 12)
    assert (second["seeds"], second["mean"], second["low"]) == (1, 0.5, None)
    assert (unknown["seeds"], unknown["mean"]) == (0, None)


def test_what_differs_is_not_averaged() -> None:
    keys = ("group", "set", "images", "against", "detector", "metric")
    rows = [row(detector="energy"), *(row(**{"detector": "energy"} | {k: "x"}) for k in keys)]
    assert over_seeds(table(*rows)).num_rows == len(rows)


def test_a_page_is_whole_and_needs_nothing_else() -> None:
    text = a_page()
    page = Page(text)
    links = [a.get(k) or "" for _, a in page.elements for k in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:image/png")) for link in links if link)
    assert {link[1:] for link in links if link.startswith("#")} <= {
        attributes.get("id") for _, attributes in page.elements
    }
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not page.of("script")
    assert not page.of("link")
    assert "url(http" not in text
    assert "@import" not in text


def test_a_page_can_be_read_without_eyes_or_mouse() -> None:
    page = Page(a_page())
    assert len(page.of("img")) == 3
    assert all(image.get("alt") for image in page.of("img"))
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.of("svg"))
    assert page.of("html")[0]["lang"] == "en"
    boxes = [box for box in page.of("div") if box.get("class") == "scroll"]
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    assert all("scope" in heading for heading in page.of("th"))
    assert len(page.of("table")) == len(page.of("caption"))


def test_a_page_has_every_part() -> None:
    page = Page(a_page())
    sections = [section["id"] for section in page.of("section")]
    assert sections == [
        "summary",
        "limits",
        "scores",
        "roc",
        "strength",
        "covariate",
        "alarms",
        "examples",
        "all",
    ]
    text = " ".join(page.text)
    assert "mean over 3 seeds" in text
    assert "fgsm, 2/255" in text
    assert "fgsm, .05" in text
    assert "level 5" in text
    assert "known-attack has learned" in text


def test_the_same_tables_give_the_same_bytes() -> None:
    assert a_page() == a_page()


def test_names_from_outside_stay_inert() -> None:
    fields = {"group": SCRIPT, "set": SCRIPT, "images": "as files", "detector": SCRIPT}
    metrics = table(row(**fields), row(**fields, metric=SCRIPT), row(**fields | {"against": "|"}))
    scores = some_scores(90, name=SCRIPT)
    hostile = replace(example(), heading='"><img src=x onerror=alert(1)>', captions=(SCRIPT,))
    text = robustness_page(SCRIPT, {SCRIPT: SCRIPT}, metrics, scores, [hostile])
    page = Page(text)
    assert "<script" not in text
    assert len(page.of("img")) == 3
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert any(SCRIPT in piece for piece in page.text)
    markdown = robustness_markdown(SCRIPT, {SCRIPT: "a\n# b"}, metrics)
    assert not re.search(r"(?<!\\)<", markdown)
    assert "\n# b" not in markdown


def test_empty_tables_make_a_page() -> None:
    page = robustness_page("t", {}, METRICS.empty_table(), SCORES.empty_table(), [])
    assert "Nothing was measured." in page
    assert [s["id"] for s in Page(page).of("section")] == ["summary", "limits"]
    assert "Nothing was measured." in robustness_markdown("t", {}, METRICS.empty_table())


def test_one_seed_shows_its_interval() -> None:
    metrics = table(row(detector="slidewatch", value=0.9, low=0.8, high=0.95))
    text = robustness_page("t", FACTS, metrics, SCORES.empty_table(), [])
    assert "One seed" in text
    assert "<small>.800 to .950</small>" in text
    Page(a_page(seeds=1))


def test_nulls_are_shown_as_unknown() -> None:
    nothing = dict.fromkeys(METRICS.names)
    metrics = table(nothing, row(value=None, detector="energy"), row(detector="slidewatch"))
    scores = pa.Table.from_pylist([dict.fromkeys(SCORES.names)], SCORES)
    Page(robustness_page("t", {}, metrics, scores, []))
    assert "| digits | .900 | – |" in robustness_markdown("t", {}, metrics)


def test_columns_of_null_type_and_further_columns_are_no_matter() -> None:
    plain = pa.Table.from_pylist([row(detector="slidewatch", low=None) | {"model": "m"}])
    assert plain.schema.field("low").type == pa.null()
    assert "digits" in robustness_page("t", {}, plain, SCORES.empty_table(), [])


def test_the_best_of_a_row_is_bold_where_it_should_be_caught() -> None:
    rows = [
        row(detector="slidewatch", value=0.95),
        row(detector="energy", value=0.97),
        row(detector="ViM", value=0.97),
        row(detector="slidewatch", metric="false alarms", value=0.05),
        row(detector="energy", metric="false alarms", value=0.06),
    ]
    markdown = robustness_markdown("t", {}, table(*rows))
    assert "| digits | .950 | **.970** | **.970** |" in markdown
    assert "| digits | .050 | .060 | – |" not in markdown  # nothing is known of ViM: no column
    assert "| digits | .050 | .060 |" in markdown


def test_own_columns_come_first() -> None:
    names = ("energy", "slidewatch verdict", "ViM", "slidewatch")
    rows = [row(detector=name, metric="caught") for name in names]
    markdown = robustness_markdown("t", {}, table(*rows))
    assert "| set | slidewatch | slidewatch verdict | energy | ViM |" in markdown


def test_rounded_and_computed_attacks_stand_beside_each_other_but_not_in_the_summary() -> None:
    own = {"group": "attack", "set": "bim", "detector": "slidewatch"}
    rows = [row(**own, value=0.7), row(**own | {"images": "as computed"}, value=0.8)]
    summary, everything = robustness_markdown("t", {}, table(*rows)).split("## Attack")
    assert ".700" in summary
    assert ".800" not in summary
    assert "| bim | as files | .700 |" in everything
    assert "| bim | as computed | .800 |" in everything


def test_false_alarms_are_a_table_of_methods_by_patients() -> None:
    markdown = robustness_markdown("t", {}, table(*all_rows(1)))
    assert "false alarms by patient at 0.05" in markdown
    assert "| method | 5 patients | 10 patients | 50 patients |" in markdown
    assert "| held out | .060 | .030 | .0060 |" in markdown


def test_a_figure_that_some_seeds_lack_says_so() -> None:
    markdown = robustness_markdown("t", {}, table(*all_rows(3)))
    assert "(1 of 3 seeds)" in markdown


def test_markdown_tables_have_equal_rows() -> None:
    metrics = table(*all_rows(2), row(set="a|b\\|c\nd", detector="x|y"))
    lines = robustness_markdown("Robustness", FACTS, metrics).split("\n")
    tables: list[list[int]] = [[]]
    for line in lines:
        if line.startswith("|"):
            tables[-1].append(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)))
        elif tables[-1]:
            tables.append([])
    tables = [rows for rows in tables if rows]
    assert len(tables) > 5
    assert all(len(set(rows)) == 1 and len(rows) > 2 for rows in tables)


def test_a_difference_says_how_much_it_is_amplified() -> None:
    metrics, scores = METRICS.empty_table(), SCORES.empty_table()
    for change, words in ((1, "×127"), (4, "×31"), (127, "×1"), (150, "×1"), (0, "no difference")):
        assert words in robustness_page("t", {}, metrics, scores, [example(change)])


def test_only_scores_that_count_are_drawn() -> None:
    metrics = table(*all_rows(1))
    scores = some_scores(900).set_column(8, "counted", pa.array([False] * 900))
    page = Page(robustness_page("t", {}, metrics, scores, []))
    assert {"scores", "roc"}.isdisjoint(section["id"] for section in page.of("section"))


def labels(page: str) -> list[str]:
    return [chart["aria-label"] or "" for chart in Page(page).of("svg")]


def scores_of(seed: int, treatment: str, scores: list[float], **fields: Any) -> pa.Table:
    usual = {"group": "attack", "set": "bim", "images": "as files", "detector": "slidewatch"}
    own = dict.fromkeys(SCORES.names) | usual | {"seed": seed, "treatment": treatment}
    rows = [own | {"counted": True, "score": score} | fields for score in scores]
    return pa.Table.from_pylist(rows, SCORES)


def test_a_roc_curve_is_the_mean_over_seeds_of_the_weakest_attack_as_files() -> None:
    clean, above, below = [1.0, 2.0, 3.0], [4.0, 5.0], [-1.0, -2.0]
    ordinary = {"group": "ordinary", "set": "test"}
    scores = [
        *(scores_of(seed, "clean", clean, **ordinary) for seed in (0, 1)),
        scores_of(0, "changed", above, strength=0.01),
        scores_of(1, "changed", below, strength=0.01),
        *(scores_of(seed, "changed", above, strength=0.05) for seed in (0, 1)),
        scores_of(1, "changed", above, strength=0.01, images="as computed"),
    ]
    metrics = table(row(group="attack", set="bim", detector="slidewatch"))
    page = robustness_page("t", {}, metrics, pa.concat_tables(scores), [])
    curves = [label for label in labels(page) if label.startswith("ROC")]
    assert curves == ["ROC curves, attack: bim, .01. Caught at .05 false alarms: slidewatch .500"]


def test_a_curve_is_measured_against_the_clean_cells_of_its_own_set_where_it_has_some() -> None:
    scores = [
        scores_of(0, "clean", [9.0, 9.5], group="ordinary", set="test"),
        scores_of(0, "clean", [1.0, 2.0]),
        scores_of(0, "changed", [4.0, 5.0]),
    ]
    metrics = table(row(group="attack", set="bim", detector="slidewatch"))
    page = robustness_page("t", {}, metrics, pa.concat_tables(scores), [])
    assert any("slidewatch 1" in label for label in labels(page) if label.startswith("ROC"))


def test_a_line_is_of_images_as_files_against_clean_cells_and_of_all_seeds() -> None:
    own = {"group": "attack", "set": "bim", "detector": "slidewatch"}
    rows = [row(**own, strength=n / 255, value=n / 10, seed=s) for n in (2, 4, 8) for s in (0, 1)]
    others = {"against": "clean and noise"}, {"images": "as computed"}
    rows += [row(**own | o, strength=1 / 255, value=0.99, seed=s) for o in others for s in (0, 1)]
    rows += [row(**own, strength=0.2, value=0.99, seed=1)]
    page = robustness_page("t", {}, table(*rows), SCORES.empty_table(), [])
    assert labels(page) == ["bim: AUROC. AUROC by Linf, 255ths: slidewatch .200 at 2 to .800 at 8"]


def test_a_histogram_is_cut_at_the_threshold_of_its_seed() -> None:
    assert "slidewatch, seed 0. Threshold 1." in a_page()


def test_a_page_stays_small_however_many_scores_there_are() -> None:
    small, large = len(a_page(rows=3000)), len(a_page(rows=300_000))
    assert large < 3_000_000
    assert large < 1.3 * small
