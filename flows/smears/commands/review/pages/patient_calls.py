"""Serve the pages on which a person confirms or refuses the calls of patients."""

import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.smears.commands.review.session import Session
from flows.smears.stages.answers import Suspects
from tasks.smears.answers.patients import Suspect
from tasks.smears.visualisation.calls import call_of

Show = Callable[..., Response]
LONGEST_LOOK = 600.0  # seconds; a longer look was a break


def seconds_of(form: Mapping[str, str]) -> float:
    """Read from a form for how many seconds the reader has looked."""
    try:
        seconds = float(form.get("seconds", "0"))
    except ValueError:
        seconds = 0.0
    # No comparison holds for NaN, and JSON has none.
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_LOOK)


class PatientPages:
    """The pages of patients to confirm, with a reader's answers on each."""

    def __init__(
        self, session: Session, suspects: Suspects, show: Show, reader_of: Callable[[Request], str]
    ) -> None:
        self._session, self.suspects = session, suspects
        self._show, self._reader_of = show, reader_of

    def routes(self) -> list[Route]:
        """List the addresses of these pages."""
        return [
            Route("/by/{reader}/patients", self.patients, methods=["GET"]),
            Route("/by/{reader}/patients/{number:int}", self.patient, methods=["GET"]),
            Route("/by/{reader}/patients/{number:int}", self.answer, methods=["POST"]),
        ]

    def patients(self, request: Request) -> Response:
        """List the patients to confirm."""
        reader = self._reader_of(request)
        self.suspects.answers.refresh()
        rows = [self.described(each, reader) for each in self.suspects.asked]
        return self._show(request, "patients.html", reader=reader, patients=rows)

    def patient(self, request: Request) -> Response:
        """Show a patient's cells to mark, or the result once the reader has read all of them."""
        reader, suspect, number = self._asked(request)
        session = self._session
        session.refresh()
        unread = self.suspects.next_cell(suspect, reader) is not None
        more = self.suspects.find(number + 1) is not None
        return self._show(
            request,
            "sheet.html" if unread or "again" in request.query_params else "patient.html",
            reader=reader,
            patient=self.described(suspect, reader),
            cells=suspect.order,
            answers=session.of_reader(reader),
            positive=session.card.classes[0],
            placed={image for image in suspect.order if (ref := session.ref(image)) and ref.region},
            following=number + 1 if more else None,
        )

    async def answer(self, request: Request) -> Response:
        """Keep an answer on each cell of a patient: marked ones are parasites, others are not."""
        reader, suspect, number = self._asked(request)
        pairs = parse_qsl((await request.body()).decode(errors="replace"))
        marked = {value for name, value in pairs if name == "parasite"}
        seconds = seconds_of(dict(pairs)) / len(suspect.order)
        positive, negative = self._session.card.classes[:2]
        given = self._session.of_reader(reader)
        for image in suspect.order:
            answer = positive if image in marked else negative
            if given.get(image) != answer:
                self._session.answer(reader, image, answer, seconds)
        path = f"/by/{reader}/patients/{number}"
        return RedirectResponse(request.scope["root_path"] + path, 303)

    def _asked(self, request: Request) -> tuple[str, Suspect, int]:
        """Return the reader and the patient of a request; 404 where there is no such patient."""
        number = int(request.path_params["number"])
        suspect = self.suspects.find(number)
        if suspect is None:
            raise HTTPException(404, "no such patient")
        return self._reader_of(request), suspect, number

    def described(self, suspect: Suspect, reader: str | None) -> dict[str, Any]:
        """Describe a patient with the machine's call and the persons' answer."""
        row = next(
            row
            for row, each in zip(self.suspects.rows, self.suspects.every, strict=True)
            if each is suspect
        )
        confirmation = self.suspects.confirmation(suspect, reader)
        return {
            "number": self.suspects.asked.index(suspect),
            "name": suspect.name,
            "cells": len(suspect.order),
            "called": len(suspect.called),
            "machine": call_of(row),
            "found": confirmation,
            "figure": confirmation.figure or "–",
            "seconds": self.suspects.seconds(suspect),
        }
