"""Define the columns of the report on batches."""

import pyarrow as pa

from storage.reports.schemas.counts import expected
from storage.reports.schemas.shared import COUNT, COUNTS, TEXT, column, made_by, parasitaemia


def batch_schema() -> pa.Schema:
    """Define the columns of a batch's one row, with meaning and unit in field metadata."""
    return pa.schema(
        [
            column("images", COUNT, "images of the batch", "images"),
            column("scored", COUNT, "of these, scored", "images"),
            column("failed", COUNT, "of these, failed", "images"),
            column("failures", COUNTS, "how many failed, by reason", "images"),
            column("parasitized", COUNT, "red cells diagnosed as parasitized", "images"),
            *parasitaemia("", "scored images of red cells"),
            column("alpha", pa.float64(), "the detector's level"),
            column("abnormal", COUNT, "scored images that are abnormal", "images"),
            column("discoveries", COUNT, "scored images whose q_value is at most .1", "images"),
            column("uncertain", COUNT, "scored images whose diagnosis is uncertain", "images"),
            column("review", COUNT, "images for review by a person", "images"),
            column("slides", COUNT, "slides; images that name none count as one", "slides"),
            column("slides_for_review", COUNT, "slides for review by a person", "slides"),
            column(
                "slides_shifted",
                COUNT,
                "slides further away than any fitted slide; null if not known",
                "slides",
            ),
            column(
                "slides_implausible",
                COUNT,
                "slides that cannot be a smear of blood; null if not known",
                "slides",
            ),
            column(
                "implausible_cells", COUNT, "scored images of these; null if not known", "images"
            ),
            column(
                "beyond_population",
                COUNT,
                "scored images whose population_p_value is at most alpha; null if not known",
                "images",
            ),
            column("clusters", COUNT, "patients with scored images, or slides if none is named"),
            column("p_values", pa.list_(COUNT), "p-values in 20 equal bins from 0 to 1", "images"),
            column("p_value_edges", pa.list_(pa.float64()), "edges of the bins of p_values"),
            column(
                "tap_scores",
                pa.map_(pa.string(), pa.list_(COUNT)),
                "by tap, standardised log distances in bins",
                "images",
            ),
            column(
                "tap_edges",
                pa.list_(pa.float64()),
                "edges of the bins of tap_scores; the outermost bins are open",
            ),
            column(
                "ks_distance", pa.float64(), "Kolmogorov-Smirnov distance of p_values from uniform"
            ),
            column("ks_p_value", pa.float64(), "p-value of ks_distance with patients as clusters"),
            column("psi", pa.float64(), "population stability index of the score, calibration"),
            column("psi_earlier", pa.float64(), "the same against earlier nights; null: too few"),
            column(
                "psi_taps",
                pa.map_(pa.string(), pa.float64()),
                "the same for the distance at each tap",
            ),
            column("nights", COUNT, "earlier nights that this one was compared with"),
            column("light", TEXT, "green, amber or red"),
            column(
                "reasons", pa.list_(pa.string()), "why it is not green; what could not be judged"
            ),
            column(
                "patient_calls",
                COUNTS,
                "how many patients are positive, negative, indeterminate and unreadable",
                "patients",
            ),
            *expected("the night"),
            column("arithmetic", pa.string(), "how the network multiplied"),
            *made_by(),
        ]
    )
