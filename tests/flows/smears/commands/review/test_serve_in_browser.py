"""A session by keyboard in a real browser, with the server killed in the middle."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from storage.smears.answers import read_answers
from storage.store import Store
from tests.support.browser import LEAST_CONTRAST, chromium
from tests.support.reading import add_patients, night, pyramid, slide_night
from tests.support.servers import free_port


@contextmanager
def served(store: Store, port: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    words = ["review", "serve", "--batch", "night", "--per-slide", "99", "--port"]
    command = [sys.executable, "-m", "flows.commands.main", *words, str(port), "--store", store.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield next(found[0] for line in server.stderr
                       if (found := re.search(r"http://\S+", line))), server  # fmt: skip
        finally:
            server.kill()


def press(page: Any, key: str, then: str) -> None:
    page.wait_for_load_state("load")  # the script that knows keys is there
    page.keyboard.press(key)
    page.get_by_text(then).wait_for()


def test_a_session_by_keyboard_loses_nothing_when_its_server_is_killed(
    store_with_model: Store, tmp_path: Path
) -> None:
    batch = night(store_with_model, tmp_path / "cells")
    port = free_port()
    asked: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        with served(store_with_model, port) as (address, server):
            page.goto(address)
            page.fill("#reader", "Ada")
            page.keyboard.press("Enter")
            page.get_by_text("0 of 12 read").wait_for()
            for number, key in enumerate("puwo?", start=1):
                press(page, key, f"{number} of 12 read")
            press(page, "z", "4 of 12 read")
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
        said = [reading.answer for _, reading in read_answers(store_with_model, batch.key)]
        assert said == ["Parasitized", "Uninfected", "white cell", "other", "unsure", None]
        with served(store_with_model, port) as (address, server):
            page.goto(f"{address}by/Ada")
            page.get_by_text("4 of 12 read").wait_for()
            names = page.get_by_role("button").all_inner_texts()
            assert [name.split(maxsplit=1)[1] for name in names] == [
                "Parasitized", "Uninfected", "white cell", "other", "unsure", "undo",
            ]  # fmt: skip
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                ratio, where = page.evaluate(LEAST_CONTRAST)
                assert ratio >= 4.5, where
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
    assert all(url.startswith((f"http://127.0.0.1:{port}/", "data:")) for url in asked)


def ready(page: Any, cells: int) -> None:
    """Wait until so many cells to come are there."""
    page.wait_for_load_state("load")
    while int(page.locator("body").get_attribute("data-ready") or 0) < cells:
        page.wait_for_timeout(50)


@pytest.mark.slow
def test_fast_typing_loses_no_answer(store_with_model: Store, tmp_path: Path) -> None:
    """A page an answer lost every key typed while it loaded: 34 keys gave 16 answers."""
    batch = night(store_with_model, tmp_path / "cells", cells=90, flagged=40)
    keys = "pu" * 17
    with chromium() as browser, served(store_with_model, free_port()) as (address, _):
        page = browser.new_page()
        page.goto(f"{address}by/Ada")
        ready(page, len(keys) - 1)
        seen = []
        for key in keys:  # as fast as the browser takes them
            seen.append(page.locator(".bench").get_attribute("data-cell"))
            page.keyboard.press(key)
        page.get_by_text(f"{len(keys)} of").wait_for()
        assert page.locator("#told").text_content() == ""
        page.keyboard.press("z")  # waits for all that is not sent yet
        page.get_by_text(f"{len(keys) - 1} of").wait_for()
    readings = [reading for _, reading in read_answers(store_with_model, batch.key)]
    said = [(each.image_id, each.answer) for each in readings if each.answer is not None]
    names = {"p": "Parasitized", "u": "Uninfected"}
    assert said == [(image, names[key]) for image, key in zip(seen, keys, strict=True)]


def test_an_answer_that_the_server_does_not_take_is_told_and_sent_again(
    store_with_model: Store, tmp_path: Path
) -> None:
    batch = night(store_with_model, tmp_path / "cells")
    with chromium() as browser, served(store_with_model, free_port()) as (address, _):
        page = browser.new_page()
        page.goto(f"{address}by/Ada")
        ready(page, 3)
        # As where the server is gone: a browser that is offline still reaches its own machine.
        page.evaluate("() => { window.asked = fetch; window.fetch = () => Promise.reject(); }")
        page.keyboard.press("p")
        page.get_by_text("1 answer is not saved yet").wait_for()
        page.evaluate("() => { window.fetch = window.asked; }")
        page.keyboard.press("u")  # sends again, and is for no cell
        page.get_by_text("1 answer is not saved yet").wait_for(state="detached")
    said = [reading.answer for _, reading in read_answers(store_with_model, batch.key)]
    assert said == ["Parasitized"]


@pytest.mark.slow
def test_a_telephone_shows_two_cells_in_a_row(store_with_model: Store, tmp_path: Path) -> None:
    night(store_with_model, tmp_path / "cells", cells=60)
    add_patients(store_with_model, {"p0": 2, "p1": 4})
    with chromium() as browser, served(store_with_model, free_port()) as (address, _):
        page = browser.new_page(viewport={"width": 390, "height": 844}, is_mobile=True)
        page.goto(f"{address}by/Ada_Lovelace_of_London/patients/0")
        tops = page.locator(".sheet label").evaluate_all("all => all.map(each => each.offsetTop)")
        assert tops[0] == tops[1] < tops[2]
        page.locator("#answer").click()
        for place in ("", "by/Ada/patients", "by/Ada/patients/0", "by/Ada", "report"):
            page.goto(address + place)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, place


def test_keys_walk_mark_and_measure_cells(store_with_model: Store, tmp_path: Path) -> None:
    """A user saw `n` go to a cell at the border, most of the view black, and no key that marks."""
    pyramid(tmp_path / "photo.tif", 1024)
    places = [(0, 400), (700, 500), (300, 964), (600, 300)]
    batch = slide_night(store_with_model, tmp_path / "photo.tif", places, 0.99, 0.2, 0.9, 0.1)
    with chromium() as browser, served(store_with_model, free_port()) as (address, _):
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(f"{address}by/Ada")
        press(page, "v", "next cell")
        page.locator("path.picked").wait_for()  # the cell that was opened
        for key, (x, y) in zip("nnnnb", [places[i] for i in (2, 0, 1, 3, 1)], strict=True):
            page.keyboard.press(key)
            page.locator(f"path.picked[d^='M {x} {y} ']").wait_for()
            moved = page.locator("#viewer .contours g").get_attribute("transform")
            left, top, by = map(float, re.findall(r"-?[\d.]+", moved))
            box = page.locator("#viewer .stage").bounding_box()
            assert box["width"] / by == pytest.approx(6 * 60)  # six cells, and only the photograph
            assert box["width"] - 1024 * by - 1 < left < 1
            assert box["height"] - 1024 * by - 1 < top < 1
        page.keyboard.press("p")
        marked = page.locator("path.picked[data-answer=Parasitized]").get_attribute("data-id")
        page.keyboard.press("m")
        for across in (100, 100 + 90 * by):
            page.mouse.click(box["x"] + across, box["y"] + 100)
            page.wait_for_timeout(600)  # two quick clicks would zoom
        assert page.locator("#viewer text").text_content() == "90 pixels, 0.7 red cells wide"
    said = [(each.image_id, each.answer) for _, each in read_answers(store_with_model, batch.key)]
    assert said == [(marked, "Parasitized")]


@pytest.mark.slow
def test_a_slide_of_40_000_pixels_is_panned_zoomed_and_read(
    store_with_model: Store, tmp_path: Path
) -> None:
    pyramid(tmp_path / "slide.tif", 40_000)
    places = [(226 + 512 * column, 226 + 512 * row) for column in (0, 40, 77) for row in (0, 40)]
    batch = slide_night(store_with_model, tmp_path / "slide.tif", places)
    asked: list[str] = []
    with chromium() as browser, served(store_with_model, free_port()) as (address, _):
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}by/Ada")
        press(page, "v", "next cell")
        path = page.locator("path.not-read")
        path.first.wait_for()
        layer = page.locator("#viewer .contours g")

        def placed() -> str:
            page.wait_for_timeout(900)  # the movement has an end
            return str(layer.get_attribute("transform"))

        at_cell = placed()
        assert path.count() == 1
        page.get_by_role("button", name="whole").click()
        whole = placed()
        assert whole != at_cell
        page.wait_for_function(
            "n => document.querySelectorAll('path.not-read').length === n", arg=len(places)
        )
        box = page.locator("#viewer .stage").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*middle)
        page.mouse.wheel(0, -400)
        zoomed = placed()
        page.mouse.down()
        page.mouse.move(middle[0] + 80, middle[1] + 50, steps=4)
        page.mouse.up()
        panned = placed()
        assert len({at_cell, whole, zoomed, panned}) == 4
        page.keyboard.press("n")  # the next cell
        page.locator("path.picked").wait_for()
        placed()
        # The contours are drawn anew when they arrive; the picture below them takes the click.
        page.locator("path.picked").click(force=True)
        page.keyboard.press("o")
        page.get_by_text("You said other. The machine says: Parasitized").wait_for()
        assert page.locator("path.parasitized.abnormal").count() == 1
        assert page.locator("#viewer canvas").first.evaluate("each => each.width > 0")
        assert complaints == []
    levels = {re.findall(r"/tile/0/(\d+)/", url)[0] for url in asked if "/tile/" in url}
    assert len(levels) > 2
    (reading,) = [reading for _, reading in read_answers(store_with_model, batch.key)]
    assert reading.answer == "other"
