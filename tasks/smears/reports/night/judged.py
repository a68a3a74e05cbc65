"""Judge a batch by its slides, its patients and earlier batches."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.detector.verdict import is_turning
from tasks.reports import image_columns
from tasks.smears.counting.call import Call
from tasks.smears.reports import slide_reasons
from tasks.smears.reports.calls import Counting
from tasks.smears.reports.night import light
from tasks.smears.reports.night.counts import NightCounts, Row
from tasks.types import Light, Verdict
from tasks.words import counted, verb

# One ordinary slide in forty may be called implausible; more indicates a fault.
IMPLAUSIBLE_RED = 0.05
# By chance, one ordinary slide in N is further away than all N fitted slides.
SHIFTED_AMBER = 0.1
NEW_LABORATORY = 0.5  # share of shifted slides that no known laboratory has
# Share of unreadable patients that makes a night red, and the least number of patients for it: with
# fewer, a few may be unreadable by chance.
UNREADABLE_RED, LEAST_PATIENTS = 0.5, 6
NOBODY = 1.0  # the same for however few patients

WITHOUT_LIMITS = (
    "the detector has no limits of what a smear of blood can be, so a night wholly of rubbish "
    "would look ordinary: run slidewatch fit again on the same batch"
)


def batch_judged(
    night: NightCounts,
    slides: pa.Table,
    patients: pa.Table,
    earlier: Sequence[Row],
    counting: Counting,
    made_by: image_columns.Provenance,
    fields: pa.Table | None = None,
) -> dict[str, Any]:
    """Make the columns of the report on batches that do not count images.

    ``slides``, ``patients`` and ``fields`` are rows of the batch's own reports, ``earlier`` rows of
    the report on batches, oldest first.
    """
    no_smear = [
        not slide_reasons.NO_SMEAR.isdisjoint(each) for each in slides["review_reasons"].to_pylist()
    ]
    counts = _of_slides(slides, no_smear)
    known = counting.commissioned
    further = _strangeness({**night.row, **counts}, slides, no_smear, patients, commissioned=known)
    further += [] if fields is None else shared_sources(fields)
    drift = light.judge(
        night, earlier, detector=made_by.detector, alpha=counting.alpha, further=further
    )
    return {
        **counts,
        "alpha": counting.alpha,
        "patient_calls": Counter(patients["call"].to_pylist()),
        **vars(drift),
    }


def _of_slides(slides: pa.Table, no_smear: list[bool]) -> dict[str, Any]:
    """Count slides, and those that are ``no_smear`` (n,); None if the detector cannot say."""
    shifted = slides["shifted"].drop_null().to_pylist()
    return {
        "slides": len(slides),
        "slides_for_review": slides["verdict"].to_pylist().count(Verdict.REVIEW),
        "slides_shifted": sum(shifted) if shifted else None,
        "slides_implausible": sum(no_smear) if shifted else None,
    }


def _strangeness(
    row: Row, slides: pa.Table, no_smear: list[bool], patients: pa.Table, *, commissioned: bool
) -> list[light.Finding]:
    """List the findings on a night as a whole; ``row`` has the counts of images and slides.

    A cell is abnormal compared with its neighbours. A night can be strange without abnormal cells:
    if all of it comes from another laboratory, or is not blood.
    """
    implausible = slides.filter(pa.array(no_smear, pa.bool_()))
    shifted = slides.filter(pc.and_not(slides["shifted"], pa.array(no_smear, pa.bool_())))
    is_unreadable = pc.equal(patients["call"].cast(pa.string()), Call.UNREADABLE.value)
    unreadable = Counter(
        ", ".join(reasons)
        for reasons in patients["call_reasons"].filter(is_unreadable).to_pylist()
        if not slide_reasons.OF_IMAGES.isdisjoint(reasons)
    )
    blurred = sum(
        f"fields {slide_reasons.FieldReason.OUT_OF_FOCUS}" in reasons
        for reasons in shifted["review_reasons"].to_pylist()
    )
    limits = row["slides_shifted"] is None or slides["implausible"].null_count < len(slides)
    return [
        *strange_slides(
            row,
            sum(implausible["scored"].to_pylist()),
            len(shifted),
            commissioned=commissioned,
            blurred=blurred,
        ),
        *([] if limits else [(Light.AMBER, WITHOUT_LIMITS)]),
        *strange_patients(Counter(patients["call"].to_pylist()), unreadable),
    ]


def strange_slides(
    row: Row, implausible_cells: int, shifted: int, *, commissioned: bool, blurred: int = 0
) -> list[light.Finding]:
    """List the findings on slides that cannot be a smear, turn, or are unlike known ones.

    ``row`` has the night's counts; ``shifted`` counts the slides that may be a smear and are
    further away than every fitted slide; ``blurred`` of them are out of focus. The detector is
    ``commissioned`` if it has learned the laboratory.
    """
    findings: list[light.Finding] = []
    slides = counted(row["slides"], "slide")
    if row["slides_implausible"]:
        share = implausible_cells / row["scored"] if row["scored"] else 0.0
        text = (
            f"{row['slides_implausible']:,} of {slides} cannot be a smear "
            f"of blood ({share:.0%} of the scored images): check what was photographed. Their "
            "cells are compared with the cells of known slides"
        )
        findings.append((Light.RED if share >= IMPLAUSIBLE_RED else Light.AMBER, text))
    if is_turning(row["turned"], row["looked_at"]):
        text = (
            f"{row['turned']:,} of {counted(row['looked_at'], 'diagnosis')} "
            "that were looked at again turn when the image is blurred, as under an attack: do "
            "not believe this batch"
        )
        findings.append((Light.RED, text))
    if shifted and shifted >= SHIFTED_AMBER * row["slides"]:
        what = (
            "out of focus, and unlike every known slide: photograph the smear again, sharp"
            + ", or let slidewatch commission learn a softer camera" * (not commissioned)
            if 2 * blurred > shifted
            else "of a stain or camera that is not this laboratory's"
            if commissioned
            else "of a laboratory, stain or camera that the detector does not know: nobody on "
            "such a slide is called negative until slidewatch commission has learned slides from "
            "there that a microscopist found negative (--negative NAME)"
        )
        colour = Light.RED if shifted >= NEW_LABORATORY * row["slides"] else Light.AMBER
        findings.append((colour, f"{shifted:,} of {slides} {verb(shifted, 'is', 'are')} {what}"))
    return findings


def shared_sources(fields: pa.Table) -> list[light.Finding]:
    """List the finding on photographs and slides that are given as those of several patients."""
    patients = defaultdict(set)
    for row in fields.select(["source_id", "patient_id", "slide_id"]).to_pylist():
        if row["source_id"] and (who := row["patient_id"] or row["slide_id"]):
            patients[row["source_id"]].add(who)
    shared = sorted(sorted(each)[:2] for each in patients.values() if len(each) > 1)
    if not shared:
        return []
    (one, other), what = shared[0], counted(len(shared), "photograph")
    text = (
        f"{what} {verb(len(shared), 'is', 'are')} given for more than one patient, as for {one!r} "
        f"and {other!r}: find out whose they are, because the others get a wrong call"
    )
    return [(Light.AMBER, text)]


def strange_patients(
    calls: Mapping[str, int], unreadable: Mapping[str, int]
) -> list[light.Finding]:
    """List the findings on patients, by call, and by the reason why their images are unreadable."""
    findings: list[light.Finding] = []
    if suspected := calls.get(Call.SUSPECTED, 0):
        text = (
            f"{counted(suspected, 'patient')} {verb(suspected, 'is', 'are')} "
            "suspected: the machine cannot call them, and a person decides by their likeliest "
            "parasites"
        )
        findings.append((Light.AMBER, text))
    if lost := sum(unreadable.values()):
        patients = sum(calls.values())
        why = "; ".join(f"{n:,} {reasons}" for reasons, n in sorted(unreadable.items()))
        text = f"the images of {lost:,} of {counted(patients, 'patient')} cannot be read: {why}"
        most = lost >= UNREADABLE_RED * max(patients, LEAST_PATIENTS)
        nobody = lost >= NOBODY * patients
        findings.append((Light.RED if most or nobody else Light.AMBER, text))
    return findings
