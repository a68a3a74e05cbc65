"""Serve the pages on which a person confirms or refuses the calls of patients."""

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.stages.answers import Suspects
from tasks.answers.patients import Suspect
from tasks.visualisation.calls import call_of

Show = Callable[..., Response]


class PatientPages:
    """The pages of patients to confirm, with a reader's answers on each."""

    def __init__(self, suspects: Suspects, show: Show, reader_of: Callable[[Request], str]) -> None:
        self.suspects, self._show, self._reader_of = suspects, show, reader_of

    def routes(self) -> list[Route]:
        """List the addresses of these pages."""
        return [
            Route("/by/{reader}/patients", self.patients, methods=["GET"]),
            Route("/by/{reader}/patients/{number:int}", self.patient, methods=["GET"]),
        ]

    def patients(self, request: Request) -> Response:
        """List the patients to confirm."""
        reader = self._reader_of(request)
        self.suspects.answers.refresh()
        rows = [self.described(each, reader) for each in self.suspects.asked]
        return self._show(request, "patients.html", reader=reader, patients=rows)

    def patient(self, request: Request) -> Response:
        """Show the next cell of a patient, or the result once the reader has read all of them."""
        reader, number = self._reader_of(request), int(request.path_params["number"])
        suspect = self.suspects.find(number)
        if suspect is None:
            raise HTTPException(404, "no such patient")
        self.suspects.answers.refresh()
        image_id = self.suspects.next_cell(suspect, reader)
        if image_id is not None:
            path = f"/by/{reader}/{image_id}?patient={number}"
            return RedirectResponse(request.scope["root_path"] + path, 303)
        more = self.suspects.find(number + 1) is not None
        return self._show(
            request,
            "patient.html",
            reader=reader,
            patient=self.described(suspect, reader),
            cells=suspect.order,
            answers=self.suspects.answers.of_reader(reader),
            following=number + 1 if more else None,
        )

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
