"""Serve the pages on which a person confirms or refuses the calls of patients."""

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.smears.commands.review.pages.requests import form_of, go_to, reader_of, seconds_of
from flows.smears.commands.review.session import Session
from flows.smears.stages.answers import Suspects, write_answers
from storage.reports.tables import published_batch
from tasks.smears.answers.patients import Suspect
from tasks.smears.visualisation.calls import call_of


class PatientPages:
    """The pages of patients to confirm, with a reader's answers on each."""

    def __init__(self, session: Session, suspects: Suspects, show: Callable[..., Response]) -> None:
        self._session, self.suspects, self._show = session, suspects, show

    def routes(self) -> list[Route]:
        """List the addresses of these pages."""
        return [
            Route("/by/{reader}/patients", self.patients, methods=["GET"]),
            Route("/by/{reader}/patients/{number:int}", self.patient, methods=["GET"]),
            Route("/by/{reader}/patients/{number:int}", self.answer, methods=["POST"]),
        ]

    def patients(self, request: Request) -> Response:
        """List the patients to confirm."""
        reader = reader_of(request)
        self._session.refresh()
        rows = [self.described(each, reader) for each in self.suspects.asked]
        return self._show(request, "patients.html", reader=reader, patients=rows)

    def patient(self, request: Request) -> Response:
        """Show a patient's cells to mark, or the result once the reader has read all of them."""
        reader, suspect, number = self._asked(request)
        session = self._session
        session.refresh()
        unread = self.suspects.next_cell(suspect, reader) is not None
        return self._show(
            request,
            "sheet.html" if unread or "again" in request.query_params else "patient.html",
            reader=reader,
            patient=self.described(suspect, reader),
            cells=suspect.order,
            answers=session.of_reader(reader),
            positive=session.card.classes[0],
            placed={image for image in suspect.order if (ref := session.ref(image)) and ref.region},
            following=number + 1 if number + 1 < len(self.suspects.asked) else None,
        )

    async def answer(self, request: Request) -> Response:
        """Keep an answer on each cell of a patient: marked ones are parasites, others are not."""
        reader, suspect, number = self._asked(request)
        session = self._session
        pairs = await form_of(request)
        marked, shown = ({v for name, v in pairs if name == of} for of in ("parasite", "cell"))
        if shown != {*suspect.order} or not marked <= shown:
            raise HTTPException(409, "this sheet has other cells by now: load the page again")
        if published_batch(session.store, session.batch.name).key != session.batch.key:
            raise HTTPException(409, "the batch was screened again: start review serve again")
        seconds = seconds_of(dict(pairs)) / len(suspect.order)
        positive, negative = session.card.classes[:2]
        given = session.of_reader(reader)
        answers = {image: positive if image in marked else negative for image in suspect.order}
        new = {image: each for image, each in answers.items() if given.get(image) != each}
        session.keep(reader, new, seconds)
        write_answers(session.store, session.batch, self.suspects.by_patient())
        return go_to(request, f"/by/{reader}/patients/{number}")

    def _asked(self, request: Request) -> tuple[str, Suspect, int]:
        number = int(request.path_params["number"])
        if number >= len(self.suspects.asked):
            raise HTTPException(404, "no such patient")
        return reader_of(request), self.suspects.asked[number], number

    def described(self, suspect: Suspect, reader: str | None) -> dict[str, Any]:
        """Describe a patient with the machine's call and the persons' answer."""
        confirmation = self.suspects.confirmation(suspect, reader)
        return {
            "number": self.suspects.asked.index(suspect),
            "name": suspect.name,
            "cells": len(suspect.order),
            "called": len(suspect.called),
            "machine": call_of(self.suspects.row(suspect)),
            "found": confirmation,
            "figure": confirmation.figure or "–",
            "seconds": self.suspects.seconds(suspect),
        }
