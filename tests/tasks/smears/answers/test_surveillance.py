"""Patients' results are Observations of FHIR R5: the fields that it needs, and those it forbids."""

import json
from datetime import date
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
CONFIRMED = Confirmation(
    PatientAnswer.CONFIRMED, 10, 7, "positive", 0.01, 0.005, 0.02, readers=("Ada", "Ben")
)
REFUSED = Confirmation(PatientAnswer.REFUSED, 10, 0, "negative", 0.0, 0.0, 0.001, readers=("Ada",))
OPEN = Confirmation(PatientAnswer.OPEN, 3, 0, readers=("Ada",))


def observation(call: str, persons: Confirmation | None) -> dict[str, Any]:
    made = json.loads(as_fhir([result_of(ROW | {"call": call}, persons, 5e6)]))["entry"][0]
    assert made["fullUrl"].startswith("urn:uuid:")
    resource: dict[str, Any] = made["resource"]
    return resource


@pytest.mark.parametrize(
    ("call", "persons", "status", "code", "value", "density"),
    [
        ("positive", None, "preliminary", "POS", "Malaria parasites seen", 21_000),
        ("positive", OPEN, "preliminary", "POS", "Malaria parasites seen", 21_000),
        ("suspected", CONFIRMED, "final", "POS", "Malaria parasites seen", 50_000),
        ("positive", REFUSED, "final", "NEG", "No malaria parasites seen", None),
        ("negative", None, "preliminary", "NEG", "No malaria parasites seen", None),
        ("suspected", None, "preliminary", "IND", None, None),
        ("indeterminate", None, "preliminary", "IND", None, None),
        ("unreadable", None, "preliminary", "IND", None, None),
    ],
)
def test_an_observation_is_what_r5_wants(
    call: str, persons: Any, status: str, code: str, value: str | None, density: int | None
) -> None:
    made = observation(call, persons)
    assert (made["resourceType"], made["status"]) == ("Observation", status)
    assert made["code"]["coding"] == [SMEAR]
    assert made["interpretation"][0]["coding"][0]["code"] == code
    assert date.fromisoformat(made["effectiveDateTime"])
    assert made.get("valueCodeableConcept", {}).get("text") == value
    assert ("dataAbsentReason" in made) is (value is None)  # obs-6: one of the two
    parts = {each["code"]["text"]: each for each in made.get("component", [])}
    assert all(
        ("dataAbsentReason" in each) != any(k[:5] == "value" for k in each)
        for each in parts.values()
    )
    if density is None:
        assert not parts
    else:
        amount = {"value": density, "unit": "parasites/µL", "system": "http://unitsofmeasure.org"}
        assert parts["Parasite density"]["valueQuantity"] == amount | {"code": "/uL"}
        assert (
            parts["Plasmodium species"]["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
        )
    readers = [{"display": name} for name in persons.readers] if status == "final" else None
    assert made.get("performer") == readers
    assert made["subject"] == {"type": "Patient", "identifier": {"value": "p"}}
    assert not [name for name, held in made.items() if held in (None, [], {}, "")]  # FHIR forbids
