"""Changes that an attacker makes to files of statistics and of sites, and what is said of each."""

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from storage.arrays import Arrays
from tests.support.crafted import Header

LEAVES = st.sampled_from(
    [-7, -1, 0, 1, 2, 10**15, 10**400, 0.5, 1e300, -1e300, float("nan"), float("inf"), None, True,
     "", "x", "all", "../x", "\x1b[31m", "a" * 64, "a" * 10**4, [], {}, [[]], ["x"]]
)  # fmt: skip
GONE = object()
Change = Callable[[Header, Arrays], object]


@st.composite
def place_and_value(draw: st.DrawFn, document: Any) -> tuple[list[Any], Any]:
    """Draw the place of a field in a document, and a hostile value; `GONE` takes the field out."""
    path: list[Any] = []
    at = document
    while isinstance(at, dict | list) and at:
        options = sorted(at) if isinstance(at, dict) else list(range(len(at)))
        path.append(draw(st.sampled_from(options)))
        at = at[path[-1]]
    return path, GONE if draw(st.integers(0, 4)) == 0 else draw(LEAVES)


@st.composite
def changed_document(draw: st.DrawFn, document: Any) -> Any:
    """Draw a copy of a document with one field changed or taken out."""
    made = copy.deepcopy(document)
    path, value = draw(place_and_value(made))
    place = made
    for part in path[:-1]:
        place = place[part]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return made


def array(name: str, change: Callable[[Any], Any]) -> Change:
    def do(_: Header, arrays: Arrays) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            arrays[name] = change(arrays[name].copy())

    return do


def put(values: Any, place: Any, value: Any) -> Any:
    values[place] = value
    return values


def field(*path: Any, value: Any) -> Change:
    def do(header: Header, _: Arrays) -> None:
        for part in path[:-1]:
            header = header[part]
        header[path[-1]] = value

    return do


def both(*changes: Change) -> Change:
    return lambda header, arrays: [change(header, arrays) for change in changes]


def every(part: str, factor: float) -> Change:
    def do(_: Header, arrays: Arrays) -> None:
        for name in arrays:
            if name.endswith(part):
                arrays[name] = arrays[name] * factor

    return do


def keys(change: Callable[[list[list[str]]], object]) -> Change:
    def do(values: Any) -> Any:
        rows = json.loads(values.tobytes())
        change(rows)
        return np.frombuffer(json.dumps(rows).encode(), np.uint8)

    return array("0/slides/keys", do)


def twice(header: Header, arrays: Arrays) -> None:
    """Give the second batch the cells of the first, under its own name and slides' names."""
    name = header["contributions"][1]["batch"]
    header["contributions"][1]["images"] = header["contributions"][0]["images"]
    for key in [key for key in arrays if key.startswith("0/")]:
        arrays[f"1{key[1:]}"] = arrays[key]
    rows = [[name, *row[1:]] for row in json.loads(arrays["0/slides/keys"].tobytes())]
    arrays["1/slides/keys"] = np.frombuffer(json.dumps(rows).encode(), np.uint8)


DEEP = np.frombuffer(b"[" * 200_000 + b"]" * 200_000, np.uint8)
CONTRIBUTION = ("contributions", 0)
STATISTICS: dict[str, tuple[Change, str]] = {
    "one NaN in a mean": (
        array("0/early/raw/mean", lambda x: put(x, (0, 1), np.nan)), "mean is nan.* finite"),
    "negative counts": (every("raw/n", -1.0), "n is -.* at least 0"),
    "counts and scatter beyond the header": (
        both(every("/n", 1e4), every("scatter/early", 1e8)), "as the header says"),
    "a huge scatter": (
        both(every("raw/scatter", 1e8), every("slides/scatter/early", 1e8)), "deviations wide"),
    "a scatter of 1e300": (every("raw/scatter", 1e300), "scatter of class 0 is"),
    "no scatter": (every("scatter", 0.0), "variance of fitted cells is 0"),
    "a scatter that is no covariance": (
        array("0/early/raw/scatter", lambda x: put(x, (0, 0, 0), -1.0)), "semidefinite"),
    "a scatter that is not symmetric": (
        array("0/early/raw/scatter", lambda x: put(x, (0, 0, 1), x[0, 0, 0])), "symmetric"),
    "a mean far away": (
        array("0/early/raw/mean", lambda x: x + 1e3), "deviations away"),
    "-5 images": (field(*CONTRIBUTION, "images", value=-5), "images is -5, and must be 1 to"),
    "all counts 0": (
        both(every("/n", 0.0), every("mean", 0.0)), "0 cells|0 for a slide"),
    "one digest twice": (
        lambda h, _: h["contributions"][1].update(
            manifest_digest=h["contributions"][0]["manifest_digest"]), "there twice"),
    "one batch twice": (
        lambda h, a: (a.update({f"1{k[1:]}": v for k, v in a.items() if k[0] == "0"}),
                      h["contributions"][1].update(h["contributions"][0],
                                                   manifest_digest="e" * 64)), "there twice"),
    "the cells of one batch in another": (twice, "a cell counts once"),
    "a name with a path": (
        field(*CONTRIBUTION, "batch", value="../../x"), "is no batch name"),
    "a name with escape codes": (
        field(*CONTRIBUTION, "batch", value="\x1b[31mred"), "is no batch name"),
    "a local batch's name": (
        lambda h, a: h["contributions"][0].update(batch="first"), "that of no batch of this"),
    "a local batch's slides": (keys(lambda rows: put(rows, 0, ["first", "", "a" * 16])),
                               "the batch of a slide"),
    "names of patients": (keys(lambda rows: put(rows, 0, ["night-aaaa", "John", "s"])),
                          "hexadecimal"),
    "a slide twice": (keys(lambda rows: put(rows, 1, rows[0])), "each slide once"),
    "a missing array": (lambda _, a: a.pop("0/late/raw/mean"), "late/raw/mean is missing"),
    "no slides": (
        lambda _, a: [a.pop(k) for k in list(a) if k.startswith("0/slides")], "slides/.* is miss"),
    "an array more": (lambda _, a: a.update({"0/x": np.zeros(1)}), "must be left out"),
    "an array whose name steers the terminal": (
        lambda _, a: a.update({"0/\x1b[2J": np.zeros(1)}), r"arrays/\\x1b\[2J is there"),
    "an array of no batch": (lambda _, a: a.update({"7/x": np.zeros(1)}), "is of no batch"),
    "a deep nesting": (array("0/slides/keys", lambda _: DEEP), "not JSON"),
    "a removed patient": (
        field(*CONTRIBUTION, "without_patients", value=["P1"]), "empty in a file"),
    "a scatter by slide that is more than all": (
        array("0/slides/scatter/early", lambda x: 3 * x), "more spread than all"),
}  # fmt: skip
CARD = ("site",)
SITE: dict[str, tuple[Change, str]] = {
    "a scale of -1": (field(*CARD, "adaptation", "scale", value=-1.0), "scale is -1.0"),
    "a scale of 0": (field(*CARD, "adaptation", "scale", value=0.0), "scale is 0.0"),
    "accepted without a gain": (
        field(*CARD, "adaptation", "gain_low", value=-0.1), "accepted is True"),
    "NaN in its normal": (
        array("site/own/prior/early/means", lambda x: put(x, (0, 0), np.nan)), "not finite"),
    "NaN in its scores": (
        array("site/own/cells/scores", lambda x: put(x, 0, np.nan)), "nan.* finite"),
    "a discriminant turned round": (
        array("site/discriminant/weights/early", np.negative), "the cosine of discriminant"),
    "a discriminant a million times as long": (
        array("site/discriminant/weights/late", lambda w: 1e6 * w), "the length of discriminant"),
    "a discriminant that calls everything": (
        array("site/discriminant/numbers", lambda x: put(x, 0, 1e9)), "numbers is 1000000000"),
    "NaN in its discriminant": (
        array("site/discriminant/weights/early", lambda w: put(w, 0, np.nan)), "nan.* finite"),
    "a tap less in its discriminant": (
        lambda _, a: a.pop("site/discriminant/weights/late"), "weights/late is missing"),
    "a discriminant that the card does not tell": (
        field(*CARD, "adaptation", "statistics", value=False), "discriminant/.* is there"),
    "version -7": (field(*CARD, "version", value=-7), "version is -7"),
    "a name with a path": (field(*CARD, "name", value="../x"), "is no site name"),
    "a threshold of its own": (
        field(*CARD, "counting", "counting", "log_odds", value=-3.0), "as the site's detector has"),
    "a probability of 2": (
        field(*CARD, "counting", "counting", "sensitivity", "mean", value=2.0), "mean is 2.0"),
    "rates that the card does not tell": (
        array("site/error_rates/counting/false/figures", lambda x: put(x, 0, 0.9)),
        "not what the card's counting says"),
    "a night twice": (
        lambda h, _: h["site"]["nights"][1].update(h["site"]["nights"][0]), "there twice"),
    "fewer slides than its nights": (field(*CARD, "slides", value=1), "as its nights have"),
    "only learned nights": (
        lambda h, _: [n.update(learned=True) for n in h["site"]["nights"]], "at least 1"),
    "weights that sum to 2": (
        array("site/own/cells/weights", lambda x: 2 * x), "sum of own/cells/weights|0 to 1"),
    "a covariance that is none": (
        array("site/own/prior/early/within", lambda x: -x), "trace of own/prior/early/within"),
    "a scale of a reference of 0": (
        array("site/reference/early/numbers", lambda x: put(x, 3, 0.0)), "the scale in"),
    "cells of a night": (
        lambda _, a: a.update({"night/0/rows": np.zeros(3, np.int64)}), "must be left out"),
    "more errors than cells": (
        array("night/0/errors/false", lambda x: x + 1000), "at most errors/negatives"),
    "a warning that steers the terminal": (
        field(*CARD, "warnings", value=["\x1b[2J"]), "printable"),
    "a deep card": (field(*CARD, "warnings", value=json.loads("[" * 90 + "]" * 90)), "warnings"),
    "other scores of the population": (
        lambda _, a: a.update({"site/own/slides/mean": np.zeros(2)}), "that of the site's detec"),
}  # fmt: skip
