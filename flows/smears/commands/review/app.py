"""Serve the pages on which a person reads cells; they work without script, by forms."""

from itertools import takewhile
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from flows.monitoring.console import warn
from flows.smears.commands.review.figures import figures, patient_figures
from flows.smears.commands.review.pages import pictures, viewer
from flows.smears.commands.review.pages.patient_calls import PatientPages
from flows.smears.commands.review.pages.requests import (
    checked_reader,
    form_of,
    go_to,
    reader_of,
    seconds_of,
)
from flows.smears.commands.review.session import Session
from flows.smears.stages.answers import Suspects
from storage.models.detectors import DetectorCard
from storage.store import StoreError
from tasks.images import decoding
from tasks.images.access.files import SourceError
from tasks.images.geometry import TRAINING_DIAMETER
from tasks.limits import NEGATIVE_PERCENT
from tasks.smears.answers import agreement, patients, sheets
from tasks.smears.segmentation.survey import RED_CELL
from tasks.smears.visualisation.page import environment

ZOOM = 2  # pixels on the screen for one of a cell's image
DIFFERING_SHOWN = 200
AHEAD = 60  # cells that a page names as its next

_PAGES = environment(pictures.FILES)


class Bench:
    """The pages of a session. ``blind`` hides diagnosis and scores until the reader has answered.

    ``wanted`` is the parasitaemia, as a fraction; a negative call rules it out.
    """

    def __init__(
        self,
        session: Session,
        detector: DetectorCard | None,
        *,
        blind: bool,
        reader: str | None,
        wanted: float = NEGATIVE_PERCENT / 100,
    ) -> None:
        self._session = session
        self._blind, self._reader = blind, reader
        self._pictures = pictures.PicturePages(session)
        self._viewer = viewer.ViewerPages(session, self._page, blind=blind)
        self._patients = PatientPages(session, Suspects(session, detector, wanted), self._page)

    def app(self) -> Starlette:
        """Make the application."""
        return Starlette(
            routes=[
                Route("/", self.start, methods=["GET"]),
                Route("/reader", self.name_reader, methods=["POST"]),
                *self._pictures.routes(),
                Route("/report", self.report, methods=["GET"]),
                Route("/import", self.report, methods=["POST"]),
                *self._viewer.routes(),
                *self._patients.routes(),
                Route("/by/{reader}", self.next_cell, methods=["GET"]),
                Route("/by/{reader}/undo", self.undo, methods=["POST"]),
                Route("/by/{reader}/{image_id}", self.cell, methods=["GET"]),
                Route("/by/{reader}/{image_id}", self.answer, methods=["POST"]),
            ],
            exception_handlers={
                **dict.fromkeys((StoreError, OSError, sheets.AnswerError), self._problem),
                Exception: self._unexpected,
            },
        )

    def _problem(self, request: Request, error: Exception) -> Response:
        reason = getattr(error, "strerror", None) or error
        return self._page(request, "problem.html", status=503, problem=str(reason))

    def _unexpected(self, request: Request, error: Exception) -> Response:
        warn(f"a page failed, {request.url.path}: {type(error).__name__}: {error}")
        return self._problem(request, error)

    def start(self, request: Request, problem: str | None = None, status: int = 200) -> Response:
        """Show what there is to read and who has read what, and ask for the reader's name."""
        session, suspects = self._session, self._patients.suspects
        session.refresh()
        readers = [
            (
                reader,
                len(session.on_sample(reader)),
                sum(suspects.next_cell(each, reader) is None for each in suspects.asked),
            )
            for reader in session.readers()
        ]
        unmarked = sum(not row["flagged"] for row in session.cells.values())
        return self._page(
            request, "start.html", status=status, problem=problem, reader=self._reader,
            cells=len(session.cells), unmarked=unmarked, patients=len(suspects.asked),
            most=patients.MOST_READ, readers=readers, possible=self._possible,
        )  # fmt: skip

    async def name_reader(self, request: Request) -> Response:
        """Send a reader who has entered a name to the cells, or the patients."""
        form = dict(await form_of(request))
        try:
            reader = checked_reader(form.get("reader", ""))
        except StoreError as error:
            return self.start(request, str(error), 400)
        what = "/patients" if form.get("what") == "patients" else ""
        return go_to(request, f"/by/{reader}{what}")

    def next_cell(self, request: Request) -> Response:
        """Show the next cell that the reader has not read, or that all are read."""
        reader = reader_of(request)
        self._session.refresh()
        queue = self._session.queue(reader)
        return go_to(request, f"/by/{reader}/{queue[0]}" if queue else "/report")

    def cell(self, request: Request) -> Response:
        """Show a cell."""
        reader, image_id = reader_of(request), self._known(request)
        given = self._session.of_reader(reader)
        answer, earlier = given.get(image_id), [*takewhile(lambda each: each != image_id, given)]
        shown: dict[str, Any] = {
            "reader": reader,
            "image_id": image_id,
            "possible": self._possible,
            "answer": answer,
            "row": self._session.row(image_id) if answer or not self._blind else None,
            "read": len(self._session.on_sample(reader)),
            "undoable": bool(given),
            "cells": len(self._session.cells),
            "seconds": self._session.seconds(reader),
            "queue": [each for each in self._session.queue(reader) if each != image_id][:AHEAD],
            "neighbours": self._session.neighbours(image_id),
            "before": earlier[-1] if earlier else None,
            "problem": None,
            "width": 0,
            "bar": None,
            "field": False,
        }
        try:
            ref, width = self._pictures.ref(image_id), self._pictures.width(image_id)
            bar = None if ref.region is None else round(ZOOM * TRAINING_DIAMETER / RED_CELL * 5)
            shown |= {"width": ZOOM * width, "bar": bar, "field": ref.region is not None}
        except (decoding.BadImageError, SourceError, OSError) as error:
            shown["problem"] = f"the image cannot be read: {error}"
        return self._page(request, "cell.html", **shown)

    @property
    def _possible(self) -> list[tuple[str, str]]:
        return list(zip(sheets.KEYS, self._session.possible, strict=True))

    async def answer(self, request: Request) -> Response:
        """Keep an answer, and show the next cell."""
        reader, image_id = reader_of(request), self._known(request)
        form = dict(await form_of(request))
        answer = form.get("answer", "")
        if answer not in self._session.possible:
            raise HTTPException(400, f"{answer!r} is not one of the answers")
        self._session.answer(reader, image_id, answer, seconds_of(form))
        if request.headers.get("accept") == "application/json":
            return JSONResponse({"contour": self._viewer.contour(reader, image_id)})
        return go_to(request, f"/by/{reader}")

    def undo(self, request: Request) -> Response:
        """Take back the last answer, and show its cell."""
        reader = reader_of(request)
        image_id = self._session.undo(reader)
        return go_to(request, f"/by/{reader}" + (f"/{image_id}" if image_id else ""))

    def report(self, request: Request) -> Response:
        """Show how far readers agree; make the answers labels, or say what that would change."""
        session, keep = self._session, request.method == "POST"
        session.refresh()
        outcome = session.imported(keep=keep)
        suspects, by_reader = self._patients.suspects, session.by_reader()
        differing = agreement.differing(by_reader)
        described = (self._patients.described(each, None) for each in suspects.asked)
        return self._page(
            request,
            "report.html",
            figures=[*figures(session), *patient_figures(suspects)],
            patients=[each for each in described if each["found"].read],
            differing=[
                (image, {name: given[image] for name, given in by_reader.items() if image in given})
                for image in differing[:DIFFERING_SHOWN]
            ],
            all_differing=len(differing),
            changes=None if keep else outcome,
            lines=outcome.text().splitlines() if keep and outcome else None,
        )

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
