"""Define the columns that the reports on slides and patients share: counts, limits, the call."""

import pyarrow as pa

from storage.reports.schemas.shared import COUNT, TEXT, column

NO_FIGURE = "null if error rates are unknown, or the call is unreadable"
BOUNDS = {"": "", "_low": "lower bound of it (95%): ", "_high": "upper bound of it (95%): "}


def counts(whose: str) -> list[pa.Field]:
    """Define the counts of a slide's or a patient's red cells, and their errors."""
    return [
        column(
            "cells_read",
            COUNT,
            f"red cells of {whose} that count: scored, whole, not abnormal, each image once",
            "cells",
        ),
        column(
            "cells_called",
            COUNT,
            "of these, those whose log-odds reach the counting threshold",
            "cells",
        ),
        column(
            "cells_called_dense",
            COUNT,
            "the same for the threshold that is used where parasites are many",
            "cells",
        ),
        column(
            "counting_threshold",
            pa.float64(),
            "log-odds of Parasitized from which on a cell counts; 0, as in the diagnosis, where "
            "error rates are unknown",
        ),
        column("dense_threshold", pa.float64(), "the same where parasites are many"),
        *_corrected(),
        *_limits(),
        column(
            "corrected_density_class",
            TEXT,
            "class of the corrected parasitaemia of a positive call; none seen of a negative one",
        ),
        column("call", TEXT, "positive, negative, indeterminate or unreadable"),
        column(
            "call_reasons",
            pa.list_(pa.string()),
            "reasons if neither positive nor negative: no red cells, error rates unknown, too few "
            "cells, error rates too high, or a fault of a slide as a whole",
        ),
        *expected(whose),
    ]


def _corrected() -> list[pa.Field]:
    """Define the corrected parasitaemia, and its interval, in three units."""
    how = (
        "parasitized red cells, corrected for false positives and misses (Rogan & Gladen 1978); "
        f"the bounds carry counting and the error of both rates; {NO_FIGURE}"
    )
    units = {
        "corrected": ("_percent", "%"),
        "parasites_per_1000": ("", "per 1,000 red cells"),
        "parasites_per_microlitre": ("", "per microlitre"),
    }
    by = column(
        "corrected_by",
        TEXT,
        "the threshold whose count is corrected: counting, or dense if there are many parasites, "
        "because it then gives narrower intervals",
    )
    return [
        by,
        *(
            column(f"{name}{bound or suffix}", pa.float64(), f"{words}{how}", unit)
            for name, (suffix, unit) in units.items()
            for bound, words in BOUNDS.items()
        ),
    ]


def _limits() -> list[pa.Field]:
    """Define the limits of detection and of exclusion."""
    return [
        column(
            "limit_of_blank_percent",
            pa.float64(),
            "corrected parasitaemia that 95% of slides without parasites stay at or below; more is "
            f"positive; {NO_FIGURE}",
            "%",
        ),
        column(
            "limit_of_detection_percent",
            pa.float64(),
            "least parasitaemia above the limit of blank in 95% of slides with the same number of "
            f"cells; null if there is none; {NO_FIGURE}",
            "%",
        ),
        column(
            "none_above_percent",
            pa.float64(),
            f"parasitaemias above this are excluded with 95% confidence; {NO_FIGURE}",
            "%",
        ),
        column(
            "cells_needed",
            COUNT,
            "cells at which the limit of detection is the parasitaemia of a negative call "
            "(negative_percent); null if no number of cells is enough, or rates are unknown",
            "cells",
        ),
    ]


def expected(whose: str) -> list[pa.Field]:
    """Define the errors of diagnoses expected from probabilities, without labels."""
    shares = {
        "sensitivity": "share of parasitized cells that are diagnosed as such",
        "accuracy": "share of cells that are diagnosed rightly",
    }
    bounds = {"": "", "_low": "lower bound (95%): ", "_high": "upper bound (95%): "}
    return [
        column(
            "expected_false_calls",
            pa.float64(),
            f"cells read of {whose} that are expected to be diagnosed as parasitized wrongly: a "
            "sum of calibrated probabilities",
            "cells",
        ),
        column("expected_missed", pa.float64(), "parasitized cells expected to be missed", "cells"),
        *(
            column(f"expected_{name}{bound}", pa.float64(), f"{words}{what}, as expected")
            for name, what in shares.items()
            for bound, words in bounds.items()
        ),
        column(
            "expected_doubt",
            TEXT,
            "why expected errors cannot be believed: shifted, or other laboratory; null if "
            "nothing speaks against them",
        ),
    ]
