"""Define the columns that the reports on slides and patients share: counts, limits, the call."""

import pyarrow as pa

from storage.reports.schemas.shared import COUNTS, Column, histogram, number_of
from storage.smears.schemas.columns import count, number, text

NO_FIGURE = "null if error rates are unknown, or the call is unreadable"
UNDECIDED = "null unless the call is positive or negative"
NO_BOUND = "null unless the call is positive or negative, or the count alone does not decide"
CALL_REASONS = (
    "reasons if neither positive nor negative: no red cells, error rates unknown, too few cells, "
    "error rates too high, new laboratory, suspects that do not count, coarser or less sharp than "
    "measured slides, or a fault of a slide as a whole"
)
BOUNDS = {"": "", "_low": "lower bound of it (95%): ", "_high": "upper bound of it (95%): "}
CORRECTED = (
    "parasitized red cells, corrected for false positives and misses (Rogan & Gladen 1978); the "
    f"bounds carry counting and the error of both rates; {UNDECIDED}"
)

OF_WHOLE = "whole red cells, scored, each image once and none stranger than parasites are,"

# $few and $many are the log-odds from which a cell counts where parasites are few or many, and
# $sure those of sure parasites. Sure suspects may be cut or covered, and of `all_suspects` nothing
# is left out. Cells look parasitized on unreadable slides, too.
COUNTED = {
    "called_of_few": number_of("is_read AND log_odds >= $few"),
    "called_of_many": number_of("is_read AND log_odds >= $many"),
    "called_of_sure": number_of("is_read AND log_odds >= $sure"),
    "suspectable": number_of("is_suspectable"),
    "sure_suspects": number_of("is_suspectable AND log_odds >= $sure"),
    "diagnosed": number_of("is_diagnosed"),
    "all_suspects": number_of("is_diagnosed AND log_odds >= $few"),
    "look_parasitized": number_of("looks_parasitized"),
}
SET_ASIDE = Column(
    "set_aside",
    COUNTS,
    "of these, those that do not count: ones stranger than parasites are, and those that "
    "are cut off or touch others",
    "images",
    histogram(
        "CASE WHEN is_parasitized AND is_diagnosed AND abnormality IS NULL THEN 'cut' "
        "WHEN is_parasitized AND is_abnormal AND NOT is_read THEN 'abnormal' END"
    ),
)

# Images whose diagnosis was looked at again, and those of them whose diagnosis turned.
STEADY = {"looked_at": "count(steady)", "turned": number_of("NOT steady")}

OF_RED_CELLS = [
    number(f"{name}{bound or of_none}", f"{words}{CORRECTED}", unit)
    for name, of_none, unit in (
        ("corrected", "_percent", "%"),
        ("parasites_per_microlitre", "", "per microlitre"),
    )
    for bound, words in BOUNDS.items()
]


def counts(whose: str) -> list[Column]:
    """Define the counts of a slide's or a patient's red cells, and their errors."""
    return [
        count("cells_read", f"{OF_WHOLE} of {whose}: they count", "cells", number_of("is_read")),
        count("cells_called", "of these, those from counting_threshold on", "cells"),
        number(
            "counting_threshold",
            "log-odds of Parasitized from which a cell counts: higher where parasites are few, and "
            "highest at a new laboratory; 0, as in the diagnosis, where error rates are unknown",
        ),
        *OF_RED_CELLS,
        number(
            "limit_of_blank_percent",
            "corrected parasitaemia that 95% of slides without parasites stay at or below; more is "
            f"positive; {NO_FIGURE}",
            "%",
        ),
        number(
            "limit_of_detection_percent",
            "least parasitaemia above the limit of blank in 95% of slides with the same number of "
            f"cells; null if there is none; {NO_FIGURE}",
            "%",
        ),
        number(
            "none_above_percent",
            f"parasitaemias above this are excluded with 95% confidence; {NO_BOUND}",
            "%",
        ),
        count(
            "cells_needed",
            "cells at which the limit of detection is the parasitaemia of a negative call "
            "(negative_percent); null if no number of cells is enough, or rates are unknown",
            "cells",
        ),
        text(
            "density_class",
            "class of the corrected parasitaemia of a positive call: below 2%, 2% to 5%, 5% to "
            "10%, or 10% or more; none seen of a negative one",
        ),
        text("call", "positive, suspected, indeterminate, negative or unreadable"),
        Column("call_reasons", pa.list_(pa.string()), CALL_REASONS),
    ]
