"""Write patients' answers as surveillance systems take them: rows of a table, or FHIR R5.

An answer is final once persons have confirmed a parasite, or have read enough cells to exclude
parasites. Otherwise it is preliminary: nobody has verified the machine's call.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from tasks.reports.spreadsheet import csv_lines
from tasks.smears.answers.patients import Confirmation, PatientAnswer
from tasks.smears.counting.call import Call, call_text

Result = dict[str, Any]  # of a patient, or of the slide that stands for one; None: unknown

UNDECIDED, UNIT = "undecided", "parasites/µL"
MEANINGS = {  # of results: their words, and a code with its name
    Call.POSITIVE: ("Malaria parasites seen", "POS", "Positive"),
    Call.NEGATIVE: ("No malaria parasites seen", "NEG", "Negative"),
    UNDECIDED: ("", "IND", "Indeterminate"),
}
HL7 = "http://terminology.hl7.org/CodeSystem"
ABSENT = "data-absent-reason"
SMEAR = {
    "system": "http://loinc.org", "code": "32700-7",
    "display": "Microscopic observation [Identifier] in Blood by Malaria smear",
}  # fmt: skip


def result_of(row: Mapping[str, Any], persons: Confirmation | None, density: float) -> Result:
    """Make the result of a row of the report on patients; ``density`` is red cells per microlitre.

    ``low`` and ``high`` are the bounds (95%) of ``value``; both are of positive results alone.
    """
    call, text, decided = row["call"], call_text(row), False
    amounts = [row[f"parasites_per_microlitre{bound}"] for bound in ("", "_low", "_high")]
    if persons and persons.answer in (PatientAnswer.CONFIRMED, PatientAnswer.REFUSED):
        decided, confirmed = True, persons.answer == PatientAnswer.CONFIRMED
        call = Call.POSITIVE if confirmed else persons.call
        text = f"{persons.answer}: {persons.parasites} of {persons.read} cells read are parasites"
        shares = (persons.parasitaemia, persons.low, persons.high)
        amounts = [None if share is None else density * share for share in shares]
    result, positive = call if call in MEANINGS else UNDECIDED, call == Call.POSITIVE
    value, low, high = (
        int(round(x, 2 - len(str(int(x))))) if positive and x is not None else None for x in amounts
    )  # to two digits, as in the text
    return {
        **{name: row[name] for name in ("batch", "patient_id", "slide_id")},
        **{"result": str(result), "species": "not specified" if positive else None},
        **{"value": value, "low": low, "high": high, "unit": None if value is None else UNIT},
        "date": row["batch_date"],
        "status": "final" if decided and result != UNDECIDED else "preliminary",
        "method": f"microscopy of a thin blood smear, read by slidewatch ({row['detector']})",
        **{"reader": persons.readers if persons and decided else (), "text": text},
    }


def as_csv(results: Sequence[Result]) -> str:
    """Write results, at least one, as CSV, a line for each."""
    rows = [[*(each | {"reader": ", ".join(each["reader"])}).values()] for each in results]
    return "".join(csv_lines(list(results[0]), rows))


def as_fhir(results: Sequence[Result]) -> str:
    """Write an Observation for each result as a Bundle; the same one has the same URL again."""
    names = ["/".join(str(r[k]) for k in ("batch", "patient_id", "slide_id")) for r in results]
    entry = [
        {"fullUrl": uuid5(NAMESPACE_URL, name).urn, "resource": _observation(result)}
        for name, result in zip(names, results, strict=True)
    ]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entry}
    return json.dumps(bundle, ensure_ascii=False, indent=1)


def _observation(result: Result) -> dict[str, Any]:
    words, code, display = MEANINGS[result["result"]]
    observation: dict[str, Any] = {
        "resourceType": "Observation", "status": result["status"],
        "category": [_coded("observation-category", "laboratory", "Laboratory")],
        "code": {"coding": [SMEAR], "text": "Malaria smear"},
        "effectiveDateTime": result["date"],
        "interpretation": [_coded("v3-ObservationInterpretation", code, display)],
        "note": [{"text": result["text"]}], "method": {"text": result["method"]},
    }  # fmt: skip
    if result["reader"]:
        observation["performer"] = [{"display": name} for name in result["reader"]]
    for name, kind, key in (
        ("subject", "Patient", "patient_id"), ("specimen", "Specimen", "slide_id")
    ):  # fmt: skip
        if result[key] is not None:
            observation[name] = {"type": kind, "identifier": {"value": result[key]}}
    if result["result"] == UNDECIDED:
        return observation | {"dataAbsentReason": _coded(ABSENT, "unknown", "Unknown")}
    observation["valueCodeableConcept"] = {"text": words}
    if result["species"]:
        reason = _coded(ABSENT, "not-performed", "Not Performed")
        reason |= {"text": result["species"]}
        parts = [{"code": {"text": "Plasmodium species"}, "dataAbsentReason": reason}]
        if result["value"] is not None:
            value, low, high = (_quantity(result[name]) for name in ("value", "low", "high"))
            parts += [
                {"code": {"text": "Parasite density"}, "valueQuantity": value},
                {"code": {"text": "Its 95% interval"}, "valueRange": {"low": low, "high": high}},
            ]
        observation["component"] = parts
    return observation


def _quantity(parasites: int) -> dict[str, Any]:
    return {"value": parasites, "unit": UNIT, "system": "http://unitsofmeasure.org", "code": "/uL"}


def _coded(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": f"{HL7}/{system}", "code": code, "display": display}]}
