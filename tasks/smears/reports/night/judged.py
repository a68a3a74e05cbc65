"""Judge a batch by its slides, its patients and earlier batches."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.reports import image_columns
from tasks.smears.counting.call import Call
from tasks.smears.counting.expected import expected_errors
from tasks.smears.reports import slide_reasons
from tasks.smears.reports.calls import Counting
from tasks.smears.reports.night import light, strangeness
from tasks.smears.reports.night.counts import NightCounts, Row
from tasks.types import Verdict

SHIFTED = "shifted"  # the reason not to believe expected errors
OTHER_LABORATORY = "other laboratory"
SHIFTED_SHARE = 0.1  # of a night's cells


def batch_judged(
    night: NightCounts,
    slides: pa.Table,
    patients: pa.Table,
    earlier: Sequence[Row],
    counting: Counting,
    made_by: image_columns.Provenance,
) -> dict[str, Any]:
    """Make the columns of the report on batches that do not count images.

    ``slides`` and ``patients`` are rows of the batch's own reports, ``earlier`` rows of the report
    on batches, oldest first.
    """
    no_smear = [
        not slide_reasons.NO_SMEAR.isdisjoint(each) for each in slides["review_reasons"].to_pylist()
    ]
    counts = _of_slides(slides, no_smear)
    drift = light.judge(
        night,
        earlier,
        detector=made_by.detector,
        alpha=counting.alpha,
        strangeness=_strangeness(
            {**night.row, **counts}, slides, no_smear, patients, counting.commissioned
        ),
    )
    elsewhere = counting.commissioned and counting.adaptation is None
    return {
        **counts,
        "alpha": counting.alpha,
        "patient_calls": Counter(patients["call"].to_pylist()),
        **_expected(night.row, slides, elsewhere=elsewhere),
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
    row: Row,
    slides: pa.Table,
    no_smear: list[bool],
    patients: pa.Table,
    commissioned: bool,
) -> strangeness.Strangeness:
    """Count strange slides, cells and patients; ``row`` has the counts of images and slides."""
    implausible = slides.filter(pa.array(no_smear, pa.bool_()))
    is_unreadable = pc.equal(patients["call"].cast(pa.string()), Call.UNREADABLE.value)
    unreadable = Counter(
        ", ".join(reasons)
        for reasons in patients["call_reasons"].filter(is_unreadable).to_pylist()
        if not slide_reasons.OF_IMAGES.isdisjoint(reasons)
    )
    return strangeness.Strangeness(
        slides=row["slides"],
        shifted=(row["slides_shifted"] or 0)
        - sum(filter(None, implausible["shifted"].to_pylist())),
        implausible=row["slides_implausible"],
        implausible_cells=sum(implausible["scored"].to_pylist()),
        scored=row["scored"],
        looked_at=row["looked_at"],
        turned=row["turned"],
        turning=slide_reasons.is_turning(row),
        unreadable=unreadable,
        calls=Counter(patients["call"].to_pylist()),
        commissioned=commissioned,
        limits=row["slides_shifted"] is None or slides["implausible"].null_count < len(slides),
    )


def _expected(row: Row, slides: pa.Table, *, elsewhere: bool) -> dict[str, Any]:
    """Estimate the errors of a night's diagnoses, and say why they cannot be believed, if so.

    Probabilities were calibrated on cells of fitted laboratories, so they are not believed
    ``elsewhere``, at a laboratory that has not adapted them.
    """
    sums = [float(row[f"{each}_{of}"]) for each in "npv" for of in ("called", "others")]
    errors = expected_errors(*sums)
    cells, shifted = slides["cells_read"].to_pylist(), slides["shifted"].to_pylist()
    far = sum(n for n, is_far in zip(cells, shifted, strict=True) if is_far)
    doubt = SHIFTED if far and far >= SHIFTED_SHARE * sum(cells) else None
    return {
        **{f"expected_{name}": each for name, each in vars(errors).items() if each == each},
        "expected_doubt": OTHER_LABORATORY if elsewhere else doubt,
    }
