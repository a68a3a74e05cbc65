"""Serve a field or slide with pan and zoom: its tiles, and the contours of visible cells."""

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.smears.commands.review.imports import report_rows
from flows.smears.commands.review.pages.pictures import microns_of
from flows.smears.commands.review.pages.requests import reader_of
from flows.smears.commands.review.session import Session
from tasks.images import decoding, opened_slides
from tasks.images.access.files import SourceError, lately_stamped
from tasks.reports.image_columns import PARASITIZED
from tasks.smears.answers.sheets import KEYS
from tasks.smears.segmentation.survey import RED_CELL
from tasks.smears.visualisation.viewer import overlays
from tasks.smears.visualisation.viewer.overlays import CLASSES, UNREAD, contour_of, priority_of
from tasks.types import CellKind, Float, ImageStatus

MOST_CELLS = 1200  # with contours at once: a screen has no room for more
BOX = ("x", "y", "width", "height")
COLUMNS = (
    "image_id", "uri", "source_uri", *BOX, "kind", "touches_border", "status", "diagnosis",
    "abnormal", "abnormality", "p_value",
)  # fmt: skip


class ViewerPages:
    """The pages of pictures. The machine's diagnosis stays hidden as on the cell's own page."""

    def __init__(self, session: Session, show: Callable[..., Response], *, blind: bool) -> None:
        self._session, self._show, self._blind = session, show, blind

    def routes(self) -> list[Route]:
        """List the addresses of these pages."""
        return [
            Route("/by/{reader}/{image_id}/view", self.view, methods=["GET"]),
            Route("/by/{reader}/cells/{source:int}", self.cells, methods=["GET"]),
            Route("/tile/{source:int}/{level:int}/{column:int}_{row:int}", self.tile),
        ]

    def view(self, request: Request) -> Response:
        """Show the picture that a cell was cut out of, at the cell."""
        reader, image_id = reader_of(request), request.path_params["image_id"]
        rows = self._placed.filter(pc.equal(self._placed["image_id"], image_id)).to_pylist()
        if not rows:
            raise HTTPException(404, "this cell is a file of its own, without a field")
        cell, ref = rows[0], self._session.ref(image_id)
        try:
            source = opened_slides.open_picture(cell["source_uri"])
        except (decoding.BadImageError, SourceError, OSError) as error:
            return self._show(request, "problem.html", status=404, problem=str(error))
        pyramid = overlays.Pyramid(source)
        microns = microns_of(ref) if ref is not None else None
        stated = source.microns_per_pixel is not None
        return self._show(
            request,
            "view.html",
            reader=reader,
            image_id=image_id,
            classes=[name for name in CLASSES if name != UNREAD or self._blind],
            keyed=list(zip(KEYS, self._session.possible, strict=True)),
            picture=json.dumps(
                {
                    "source": self._sources.index(cell["source_uri"]),
                    "width": source.width,
                    "height": source.height,
                    "tile": overlays.TILE,
                    "least": pyramid.least,
                    "most": pyramid.most,
                    "microns": microns,
                    "red_cell": RED_CELL / microns if microns and not stated else None,
                    "walk": self._walk(cell["source_uri"]),
                    "at": {name: cell[name] for name in ("image_id", *BOX)},
                }
            ),
        )

    def cells(self, request: Request) -> Response:
        """Send the contours of the cells in a box; those for review come first."""
        try:
            x, y, width, height = (float(request.query_params[name]) for name in BOX)
        except (KeyError, ValueError):
            raise HTTPException(400, "a box has x, y, width and height") from None
        cells = self._placed.filter(pc.equal(self._placed["source_uri"], self._source(request)))
        left, top, wide, high = (_numbers(cells, name) for name in BOX)
        seen = (left < x + width) & (left + wide > x) & (top < y + height) & (top + high > y)
        rows = cells.filter(pa.array(seen))
        total = rows.num_rows
        if total > MOST_CELLS:
            first = [("abnormality", "descending"), ("image_id", "ascending")]
            rows = rows.take(pc.select_k_unstable(rows, MOST_CELLS, first))
        note = f"{MOST_CELLS:,} of {total:,} cells are drawn: zoom in" if total > MOST_CELLS else ""
        contours = self.contours(reader_of(request), rows.to_pylist())
        return JSONResponse({"cells": contours, "said": note})

    def contours(self, reader: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Describe the contours of cells as a reader may see them."""
        answers = self._session.of_reader(reader)
        refs = self._session.refs({row["image_id"]: row["row"] for row in rows})
        contours = []
        for row in rows:
            outline = refs[row["image_id"]].outline
            contour = vars(contour_of(row, None if outline is None else outline.ravel())).copy()
            contour.pop("priority")  # it would name the diagnosis
            answer = answers.get(row["image_id"])
            if answer is None and self._blind:
                contour |= {"kind": UNREAD, "abnormal": False, "said": ""}
            contours.append(contour | {"answer": answer})
        return contours

    def contour(self, reader: str, image_id: str) -> dict[str, Any] | None:
        """Describe the contour of one cell; None where it is a file of its own."""
        rows = self._placed.filter(pc.equal(self._placed["image_id"], image_id)).to_pylist()
        return self.contours(reader, rows[:1])[0] if rows else None

    def tile(self, request: Request) -> Response:
        """Send a tile, read from the photograph or slide itself."""
        source = self._source(request)
        place = (request.path_params[name] for name in ("level", "column", "row"))
        try:
            content = overlays.read_tile(source, lately_stamped(source), *place)
        except (overlays.NoTileError, decoding.BadImageError, SourceError, OSError) as error:
            return Response(f"{error}\n", 404, media_type="text/plain")
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(content, media_type="image/jpeg", headers=headers)

    def _walk(self, source: str) -> list[dict[str, Any]]:
        """List the places of a picture's cells in the order of `priority_of`, `MOST_CELLS` at most.

        Readers see the order alone, and not the probabilities.
        """
        cells = self._placed.filter(pc.equal(self._placed["source_uri"], source))
        name = f"probability_{PARASITIZED}"
        chance = _numbers(cells, name) if name in cells.column_names else np.zeros(len(cells))
        white = pc.equal(cells["kind"].cast(pa.string()), CellKind.WHITE.value)
        cut, other = (each.fill_null(False).to_numpy() for each in (cells["touches_border"], white))
        priority = priority_of(np.nan_to_num(chance), cut, other)
        first = np.argsort(-priority, kind="stable")[:MOST_CELLS]
        return list(cells.select(["image_id", *BOX]).take(pa.array(first)).to_pylist())

    def _source(self, request: Request) -> str:
        number = int(request.path_params["source"])
        if number >= len(self._sources):
            raise HTTPException(404, "no such picture")
        return self._sources[number]

    @cached_property
    def _sources(self) -> list[str]:
        return sorted(set(self._placed["source_uri"].to_pylist()))

    @cached_property
    def _placed(self) -> pa.Table:
        session = self._session
        chances = [f"probability_{name}" for name in session.card.classes]
        parts = []
        start = 0
        for part in report_rows(session.store, session.batch, [*COLUMNS, *chances]):
            part = part.append_column("row", pa.array(np.arange(start, start + part.num_rows)))
            start += part.num_rows
            scored = pc.equal(part["status"].cast(pa.string()), ImageStatus.SCORED)
            parts.append(part.filter(pc.and_(scored, part["source_uri"].is_valid())))
        none = pa.table({name: pa.nulls(0, pa.string()) for name in ("image_id", "source_uri")})
        rows = pa.concat_tables(parts).unify_dictionaries() if parts else none
        place = rows.column_names.index("source_uri")
        return rows.set_column(place, "source_uri", rows["source_uri"].cast(pa.string()))


def _numbers(rows: pa.Table, name: str) -> Float:
    return np.asarray(rows[name].cast(pa.float64()).to_numpy(), np.float64)
