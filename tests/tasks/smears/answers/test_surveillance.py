"""Patients' results are Observations of FHIR R5: the fields that it needs, and those it forbids."""

import json
from typing import Any

import pytest

from tasks.smears.answers.patients import Confirmation, PatientAnswer
from tasks.smears.answers.surveillance import SMEAR, as_fhir, result_of

ROW = {
    "batch": "night", "batch_date": "2026-03-01", "patient_id": "p", "slide_id": None,
    "detector": "d", "call_reasons": ["new laboratory"], "cells_called": 9, "cells_read": 4000,
    "corrected_percent": 0.42, "corrected_low": 0.2, "corrected_high": 0.8,
    "parasites_per_microlitre": 21_000.4, "parasites_per_microlitre_low": 10_000.0,
    "parasites_per_microlitre_high": 40_000.0, "none_above_percent": 0.9, "parasitized": 9,
    "set_aside": {},
}  # fmt: skip
READERS = ("Ada", "Ben")
CONFIRMED = Confirmation(PatientAnswer.CONFIRMED, 10, 7, "positive", 0.01, 0.005, 0.02, READERS)
NAMELESS = Confirmation(**vars(CONFIRMED) | {"readers": ("unnamed",)})
REFUSED = Confirmation(PatientAnswer.REFUSED, 10, 0, "negative", 0.0, 0.0, 0.001, READERS)
OPEN = Confirmation(PatientAnswer.OPEN, 3, 0, readers=READERS)
SEEN, NOT_SEEN = "Malaria parasites detected", "Malaria parasites not detected"


@pytest.mark.parametrize(
    ("call", "persons", "status", "code", "value", "density"),
    [
        ("positive", None, "preliminary", "POS", SEEN, 21_000),
        ("positive", OPEN, "preliminary", "POS", SEEN, 21_000),
        ("suspected", CONFIRMED, "final", "POS", SEEN, 50_000),
        ("suspected", NAMELESS, "preliminary", "POS", SEEN, 50_000),
        ("positive", REFUSED, "final", "NEG", NOT_SEEN, None),
        ("negative", None, "preliminary", "NEG", NOT_SEEN, None),
        ("suspected", None, "preliminary", "IND", None, None),
        ("unreadable", None, "preliminary", "IND", None, None),
    ],
)
def test_an_observation_is_what_r5_wants(
    call: str, persons: Any, status: str, code: str, value: str | None, density: int | None
) -> None:
    row, slide = ROW | {"call": call}, {"patient_id": None, "slide_id": "p"}
    both = [result_of(each, persons, 5e6) for each in (row, row | slide)]
    entry, lone = json.loads(as_fhir(both))["entry"]
    assert entry["fullUrl"].startswith("urn:uuid:")
    made = entry["resource"]
    assert (made["status"], made["effectiveDateTime"]) == (status, "2026-03-01")
    assert made["code"]["coding"] == [SMEAR]
    assert made["interpretation"][0]["coding"][0]["code"] == code
    assert made.get("valueCodeableConcept", {}).get("text") == value
    assert ("dataAbsentReason" in made) is (value is None)  # obs-6: one of the two
    parts = {each["code"]["text"]: each for each in made.get("component", [])}
    assert bool(parts) is (density is not None)
    if density:
        amount = {"value": density, "unit": "parasites/µL", "system": "http://unitsofmeasure.org"}
        assert parts["Parasite density"]["valueQuantity"] == amount | {"code": "/uL"}
        assert parts["Plasmodium species"]["dataAbsentReason"]["text"] == "not specified"
    assert ("performer" in made) is (status == "final")
    assert made["subject"] == {"type": "Patient", "identifier": {"value": "p"}}
    assert lone["resource"]["subject"] == made["subject"]  # the slide stands for its patient
    assert not [name for name, held in made.items() if held in (None, [], {}, "")]  # FHIR forbids
