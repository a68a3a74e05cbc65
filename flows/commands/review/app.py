"""Serve the pages on which a person reads cells; they work without script, by forms."""

import io
import math
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from PIL import Image, ImageDraw
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from flows.commands.review.figures import figures
from flows.commands.review.nearness import Like, Nearness
from flows.commands.review.session import Session
from flows.jobs.thumbnails import ExhibitJob, make_exhibits
from flows.monitoring.console import warn
from storage.models.detectors import DetectorCard
from storage.store import StoreError, check_name
from tasks.images.crops import TRAINING_DIAMETER
from tasks.images.decoding import BadImageError
from tasks.images.files import SourceError
from tasks.images.regions import ImageRef, find_unchanged, read_around
from tasks.reading.reviews import KEYS, VerdictError
from tasks.segmentation.survey import RED_CELL
from tasks.visualisation.overlay import COLOURS
from tasks.visualisation.page import environment

FILES = Path(__file__).parent / "templates"
ZOOM = 2  # pixels on the screen for one of a cell's image
AROUND = 3  # widths of a cell to each side that are shown of its field
LONGEST_LOOK = 600.0  # seconds; whoever takes longer has gone for coffee

_PAGES = environment(FILES)


class Bench:
    """The pages of a session. ``blind`` hides diagnosis and scores until the verdict is there."""

    def __init__(
        self, session: Session, detector: DetectorCard | None, *, blind: bool, reader: str | None
    ) -> None:
        self._session, self._detector = session, detector
        self._blind, self._reader = blind, reader
        self._nearness = Nearness(session.store, session.batch, session.card, detector)
        self._picture = lru_cache(maxsize=512)(self._read_picture)

    def app(self) -> Starlette:
        """Make the application."""
        return Starlette(
            routes=[
                Route("/", self.start, methods=["GET"]),
                Route("/reader", self.name_reader, methods=["POST"]),
                Route("/files/{name}", self.file, methods=["GET"]),
                Route("/picture/{image_id}", self.picture, methods=["GET"]),
                Route("/field/{image_id}", self.field, methods=["GET"]),
                Route("/heat/{image_id}", self.heat, methods=["GET"]),
                Route("/report", self.report, methods=["GET"]),
                Route("/import", self.take, methods=["POST"]),
                Route("/by/{reader}", self.next_cell, methods=["GET"]),
                Route("/by/{reader}/undo", self.undo, methods=["POST"]),
                Route("/by/{reader}/{image_id}", self.cell, methods=["GET"]),
                Route("/by/{reader}/{image_id}", self.say, methods=["POST"]),
                Route("/by/{reader}/{image_id}/like", self.like, methods=["GET"]),
                Route("/by/{reader}/{image_id}/like", self.mark, methods=["POST"]),
            ],
            exception_handlers={
                **dict.fromkeys((StoreError, OSError, VerdictError), self._problem),
                Exception: self._unexpected,
            },
        )

    def _problem(self, request: Request, error: Exception) -> Response:
        """Say that something could not be done, such as keeping a verdict on a full disk."""
        reason = getattr(error, "strerror", None) or error
        return self._page(request, "problem.html", status=503, problem=str(reason))

    def _unexpected(self, request: Request, error: Exception) -> Response:
        """Tell the terminal of a mistake of ours in one line, and the person as of any problem."""
        warn(f"a page failed, {request.url.path}: {type(error).__name__}: {error}")
        return self._problem(request, error)

    def start(self, request: Request) -> Response:
        """Ask for the reader's name, unless the command has given it."""
        if self._reader is not None:
            return _to(request, f"/by/{self._reader}")
        return self._page(request, "start.html", problem=None)

    async def name_reader(self, request: Request) -> Response:
        """Go to the cells of the reader who has given her name."""
        name = (await _form(request)).get("reader", "").strip()
        try:
            return _to(request, f"/by/{check_name('reader', name)}")
        except StoreError as error:
            return self._page(request, "start.html", problem=str(error), status=400)

    def next_cell(self, request: Request) -> Response:
        """Show the next cell that the reader has not read, or that there is none."""
        reader = _reader(request)
        self._session.refresh()
        queue = self._session.queue(reader)
        if not queue:
            return _to(request, "/report")
        return _to(request, f"/by/{reader}/{queue[0]}")

    def cell(self, request: Request) -> Response:
        """Show a cell."""
        reader, image_id = _reader(request), self._known(request)
        said = self._session.standing(reader)
        row = self._session.row(image_id)
        verdict, seconds = said.get(image_id), self._session.seconds(reader)
        shown: dict[str, Any] = {
            "reader": reader,
            "image_id": image_id,
            "verdicts": self._verdicts,
            "verdict": verdict,
            "row": row if verdict is not None or not self._blind else None,
            "read": len(self._session.said(reader)),
            "undoable": bool(said),
            "cells": len(self._session.cells),
            "seconds": seconds,
            "beside": self._session.beside(image_id),
            "before": self._before(said, image_id),
            "problem": None,
            "width": 0,
            "bar": None,
            "field": False,
        }
        try:
            ref, (_, width) = self._ref(image_id), self._picture(image_id)
            bar = None if ref.region is None else round(ZOOM * TRAINING_DIAMETER / RED_CELL * 5)
            shown |= {"width": ZOOM * width, "bar": bar, "field": ref.region is not None}
        except (BadImageError, SourceError, OSError) as error:
            shown["problem"] = f"the image cannot be read: {error}"
        return self._page(request, "cell.html", **shown)

    @property
    def _verdicts(self) -> list[tuple[str, str]]:
        """List what a reader can say, each with its key."""
        return list(zip(KEYS, self._session.verdicts, strict=True))

    def _before(self, said: dict[str, str], image_id: str) -> str | None:
        """Find the cell that was read before this one."""
        order = list(said)
        if image_id in said:
            order = order[: order.index(image_id)]
        return order[-1] if order else None

    async def say(self, request: Request) -> Response:
        """Keep a verdict, and go on."""
        reader, image_id = _reader(request), self._known(request)
        verdict, seconds = self._given(await _form(request))
        self._session.say(reader, image_id, verdict, seconds)
        return _to(request, f"/by/{reader}")

    def _given(self, form: dict[str, str]) -> tuple[str, float]:
        """Read a verdict, and for how many seconds the reader has looked."""
        verdict = form.get("verdict", "")
        if verdict not in self._session.verdicts:
            raise HTTPException(400, f"{verdict!r} is no verdict")
        try:
            seconds = float(form.get("seconds", "0"))
        except ValueError:
            seconds = 0.0
        # No comparison holds for NaN, and JSON has none.
        return verdict, 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_LOOK)

    def like(self, request: Request) -> Response:
        """Show the cells most like one, by their features; nothing that the machine says of them.

        ``?nights=all`` looks among other nights too, and ``?ticked=all`` ticks all boxes.
        """
        reader, image_id = _reader(request), self._known(request)
        all_nights = request.query_params.get("nights") == "all"
        ready, found = self._nearness.ready(all_nights=all_nights), list[Like]()
        problem = self._nearness.problem
        if ready:
            try:
                found = self._nearness.like(image_id, all_nights=all_nights)
            except StoreError as error:
                problem = str(error)
        self._session.show({each.image_id: each.ref for each in found})
        said = self._session.standing(reader)
        return self._page(
            request,
            "like.html",
            reader=reader,
            image_id=image_id,
            verdicts=self._verdicts,
            said=said,
            found=found,
            all_nights=all_nights,
            ticked=request.query_params.get("ticked") == "all",
            reading=None if ready or problem else self._nearness,
            problem=problem,
        )

    async def mark(self, request: Request) -> Response:
        """Keep one verdict on all cells that are ticked."""
        reader, image_id = _reader(request), self._known(request)
        fields = await _fields(request)
        verdict, seconds = self._given(dict(fields))
        cells = list(dict.fromkeys(value for name, value in fields if name == "cell"))
        if not all(self._session.row(each) for each in cells):
            raise HTTPException(400, "a ticked cell is not of this batch")
        if cells:
            self._session.mark(reader, cells, verdict, seconds)
        nights = "?nights=all" if request.query_params.get("nights") == "all" else ""
        return _to(request, f"/by/{reader}/{image_id}/like{nights}")

    async def undo(self, request: Request) -> Response:
        """Take back what was said last, and show its cell, or the cells where it was said."""
        reader, form = _reader(request), await _form(request)
        image_id = self._session.undo(reader)
        if "like" in form and self._session.row(form["like"]):
            return _to(request, f"/by/{reader}/{form['like']}/like")
        return _to(request, f"/by/{reader}" + (f"/{image_id}" if image_id else ""))

    def report(self, request: Request) -> Response:
        """Show how far readers agree, and what an import would change."""
        self._session.refresh()
        outcome = self._session.imported(keep=False)
        return self._page(
            request,
            "report.html",
            figures=figures(self._session),
            changes=outcome,
            lines=None,
        )

    def take(self, request: Request) -> Response:
        """Make the verdicts labels."""
        self._session.refresh()
        outcome = self._session.imported(keep=True)
        lines = None if outcome is None else outcome.text().splitlines()
        return self._page(
            request, "report.html", figures=figures(self._session), changes=None, lines=lines
        )

    def picture(self, request: Request) -> Response:
        """Send the image of a cell."""
        return self._image(lambda image_id: self._picture(image_id)[0], request)

    def field(self, request: Request) -> Response:
        """Send the cell within its field."""
        return self._image(self._read_field, request)

    def heat(self, request: Request) -> Response:
        """Send the map of what makes a cell abnormal."""
        return self._image(self._read_heat, request)

    def file(self, request: Request) -> Response:
        """Send the style or the script."""
        name = request.path_params["name"]
        if name not in {"bench.css", "bench.js"}:
            raise HTTPException(404)
        return FileResponse(FILES / name)

    def _image(self, read: Any, request: Request) -> Response:
        image_id = request.path_params["image_id"]
        try:
            content = read(image_id)
        except (BadImageError, SourceError, OSError) as error:
            return Response(f"{error}\n", 404, media_type="text/plain")
        kind = "image/webp" if content[:4] == b"RIFF" else "image/png"
        return Response(content, media_type=kind, headers={"Cache-Control": "private"})

    def _read_picture(self, image_id: str) -> tuple[bytes, int]:
        """Read the image of a cell as PNG, with its width in pixels."""
        image = find_unchanged(self._ref(image_id), image_id).image()
        return _png(image), image.width

    def _read_field(self, image_id: str) -> bytes:
        ref = self._ref(image_id)
        if ref.region is None:
            raise BadImageError("unreadable", "this cell is a file of its own, without a field")
        x, y, width, height, _ = ref.region
        pixels, wide = read_around(ref.source, ref.region, AROUND * max(width, height))
        image, scale = Image.fromarray(pixels), pixels.shape[1] / wide.width
        corner, opposite = (x - wide.x, y - wide.y), (x + width - wide.x, y + height - wide.y)
        box = [scale * each for each in (*corner, *opposite)]
        ImageDraw.Draw(image).rectangle(box, outline=COLOURS["parasitized"], width=2)
        return _png(image)

    def _read_heat(self, image_id: str) -> bytes:
        if self._detector is None:
            raise BadImageError("unreadable", "the batch was screened without a detector")
        session = self._session
        cells = ((self._ref(image_id), image_id),)
        (shown,) = make_exhibits(ExhibitJob(session.store, session.card, self._detector, cells))
        if shown.heat is None:
            raise BadImageError("unreadable", shown.missing or "this tap has no places")
        return shown.heat

    def _ref(self, image_id: str) -> ImageRef:
        ref = self._session.ref(image_id)
        if ref is None:
            raise HTTPException(404, "no such cell")
        return ref

    def _known(self, request: Request) -> str:
        image_id = str(request.path_params["image_id"])
        if self._session.row(image_id) is None:
            raise HTTPException(404, "no such cell")
        return image_id

    def _page(self, request: Request, name: str, status: int = 200, **values: Any) -> Response:
        base = request.scope["root_path"]
        page = _PAGES.get_template(name).render(
            base=base,
            batch=self._session.batch.name,
            blind=self._blind,
            damaged=len(self._session.damaged),
            **values,
        )
        return HTMLResponse(page, status, headers={"Cache-Control": "no-store"})


async def _form(request: Request) -> dict[str, str]:
    return dict(await _fields(request))


async def _fields(request: Request) -> list[tuple[str, str]]:
    try:
        return parse_qsl((await request.body()).decode())
    except ValueError:
        raise HTTPException(400, "this is no form of these pages") from None


def _reader(request: Request) -> str:
    try:
        return check_name("reader", request.path_params["reader"])
    except StoreError as error:
        raise HTTPException(404, str(error)) from None


def _to(request: Request, path: str) -> Response:
    return RedirectResponse(request.scope["root_path"] + path, 303)


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
