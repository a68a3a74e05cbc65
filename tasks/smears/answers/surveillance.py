"""Write patients' answers as surveillance systems take them: rows of a table, or FHIR R5.

An answer is final once persons with names have confirmed a parasite, or have read enough cells to
exclude parasites. Otherwise it is preliminary: nobody who can be asked has verified it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from tasks.reports.spreadsheet import csv_lines
from tasks.smears.answers.patients import DECIDED, Confirmation, PatientAnswer
from tasks.smears.answers.sheets import UNNAMED
from tasks.smears.counting.call import Call, call_text

Result = dict[str, Any]  # of a patient, or of the slide that stands for one; None: unknown

UNDECIDED, UNIT = "undecided", "parasites/µL"
# Of a result: its words, and its code among HL7's interpretations.
MEANINGS = {
    Call.POSITIVE: ("Malaria parasites detected", "POS"),
    Call.NEGATIVE: ("Malaria parasites not detected", "NEG"),
    UNDECIDED: (None, "IND"),
}
HL7 = "http://terminology.hl7.org/CodeSystem"
SMEAR = {
    "system": "http://loinc.org", "code": "32700-7",
    "display": "Microscopic observation [Identifier] in Blood by Malaria smear",
}  # fmt: skip


def result_of(row: Mapping[str, Any], persons: Confirmation | None, density: float) -> Result:
    """Make the result of a row of the report on patients; ``density`` is red cells per microlitre.

    ``low`` and ``high`` are the bounds (95%) of ``value``; both are of positive results alone.
    """
    call, text = row["call"], call_text(row)
    readers: tuple[str, ...] = ()
    amounts = [row[f"parasites_per_microlitre{bound}"] for bound in ("", "_low", "_high")]
    if persons and persons.answer not in DECIDED:
        text += f"; {persons.answer} by {persons.by}"
    elif persons:
        readers = tuple(name for name in persons.readers if name != UNNAMED)
        call = Call.POSITIVE if persons.answer == PatientAnswer.CONFIRMED else persons.call
        text = f"{persons.answer}: {persons.parasites} of {persons.read} cells read are parasites"
        text += "" if readers else ", by a reader without a name"
        shares = (persons.parasitaemia, persons.low, persons.high)
        amounts = [None if share is None else density * share for share in shares]
    result, positive = call if call in MEANINGS else UNDECIDED, call == Call.POSITIVE
    # To two digits, as in the text.
    value, low, high = (
        int(round(x, 2 - len(str(int(x))))) if positive and x is not None else None for x in amounts
    )
    return {
        **{name: row[name] for name in ("batch", "patient_id", "slide_id")},
        **{"result": str(result), "species": "not specified" if positive else None},
        **{"value": value, "low": low, "high": high, "unit": None if value is None else UNIT},
        "date": row["batch_date"],
        "status": "final" if readers and result != UNDECIDED else "preliminary",
        "method": f"microscopy of a thin blood smear, read by slidewatch ({row['detector']})",
        **{"reader": readers, "text": text},
    }


def as_csv(results: Sequence[Result]) -> str:
    """Write results, at least one, as CSV, a line for each."""
    rows = [[*(each | {"reader": ", ".join(each["reader"])}).values()] for each in results]
    return "".join(csv_lines(list(results[0]), rows))


def as_fhir(results: Sequence[Result]) -> str:
    """Write an Observation for each result as a Bundle; the same one has the same URL again."""
    names = [f"{each['batch']}/{each['patient_id']}/{each['slide_id']}" for each in results]
    entry = [
        {"fullUrl": uuid5(NAMESPACE_URL, name).urn, "resource": _observation(result)}
        for name, result in zip(names, results, strict=True)
    ]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entry}
    return json.dumps(bundle, ensure_ascii=False, indent=1)


def _observation(result: Result) -> dict[str, Any]:
    words, code = MEANINGS[result["result"]]
    parts: dict[str, dict[str, Any]] = {}
    if result["species"]:
        absent = _coded("data-absent-reason", "not-performed") | {"text": result["species"]}
        parts["Plasmodium species"] = {"dataAbsentReason": absent}
    if result["value"] is not None:
        ucum = {"unit": UNIT, "system": "http://unitsofmeasure.org", "code": "/uL"}
        value, low, high = ({"value": result[name]} | ucum for name in ("value", "low", "high"))
        parts["Parasite density"] = {"valueQuantity": value}
        parts["Parasite density, 95% interval"] = {"valueRange": {"low": low, "high": high}}
    slide, patient = result["slide_id"], result["patient_id"] or result["slide_id"]
    named = {"subject": ("Patient", patient), "specimen": ("Specimen", slide)}
    fields = {
        "resourceType": "Observation", "status": result["status"],
        "category": [_coded("observation-category", "laboratory")],
        "code": {"coding": [SMEAR], "text": "Malaria smear"},
        **{
            name: {"type": kind, "identifier": {"value": value}}
            for name, (kind, value) in named.items() if value is not None
        },
        "effectiveDateTime": result["date"],
        "performer": [{"display": name} for name in result["reader"]],
        "valueCodeableConcept": words and {"text": words},
        "dataAbsentReason": None if words else _coded("data-absent-reason", "unknown"),
        "interpretation": [_coded("v3-ObservationInterpretation", code)],
        "note": [{"text": result["text"]}], "method": {"text": result["method"]},
        "component": [{"code": {"text": text}, **part} for text, part in parts.items()],
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value}  # FHIR has nothing empty


def _coded(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": f"{HL7}/{system}", "code": code}]}
