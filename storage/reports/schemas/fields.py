"""Define the columns of the report on fields of view."""

import pyarrow as pa

from storage.reports.schemas.shared import COLOURS, COUNT, TEXT, column, made_by

NO_FIELDS = "null: cells cut out before"
FULL = "pixels at full resolution"


def field_schema() -> pa.Schema:
    """Define the columns of a report on fields of view, with meaning and unit in field metadata."""
    return pa.schema([*_of_place(), *_of_quality(), *_of_findings()])


def _of_place() -> list[pa.Field]:
    """Define the field's place, and how it was read."""
    box = {"x": "left edge", "y": "upper edge", "width": "width", "height": "height"}
    return [
        column("source_uri", TEXT, "the photograph or slide that the field is in"),
        column("source_id", TEXT, "sha256 of its bytes; null if unreadable"),
        column("slide_id", TEXT, "the slide, if the source names one"),
        column("patient_id", TEXT, "the patient"),
        *(
            column(name, pa.int64(), f"{what} of the field; null if unreadable", FULL)
            for name, what in box.items()
        ),
        column("level", pa.int8(), "level of the slide's pyramid that was read; 0 is the full"),
        column(
            "kind",
            TEXT,
            "field: its cells were read; empty, thick, unfocused: were not; null: failed",
        ),
        column("failure", pa.string(), "why it failed: a reason, a colon and the details"),
        column(
            "microns_per_pixel",
            pa.float64(),
            "magnification at full resolution; null for photographs",
            "micrometres",
        ),
    ]


def _of_quality() -> list[pa.Field]:
    """Define how the field looks."""
    return [
        column("diameter", pa.float64(), "diameter of the median red cell", FULL),
        column(
            "sharpness",
            pa.float64(),
            "variance of the Laplacian over that of brightness; null without cells",
        ),
        column("too_dark", pa.float64(), "share of pixels where a channel is black", "0 to 1"),
        column("too_bright", pa.float64(), "share of pixels where a channel is white", "0 to 1"),
        column("brightness", pa.float64(), "mean of all channels", "0 to 1"),
        *(
            column(
                f"stain_{name}",
                pa.float64(),
                f"{name}, mean over the pixels of cells; null without cells",
                "0 to 255",
            )
            for name in COLOURS
        ),
        column("cells", COUNT, "cells that were found", "cells"),
        column("white_cells", COUNT, "of these, white cells by their nucleus", "cells"),
        column("cells_at_border", COUNT, "of these, cut by the border", "cells"),
        column("covered", pa.float64(), "share of the field that cells cover", "0 to 1"),
        column(
            "overlap",
            pa.float64(),
            "share of the covered area that is in more than one cell; null without cells",
            "0 to 1",
        ),
        column(
            "packed",
            pa.float64(),
            "share of the field where hardly any ground is seen between cells",
            "0 to 1",
        ),
    ]


def _of_findings() -> list[pa.Field]:
    """Define the results for its cells."""
    return [
        column("images", COUNT, "images cut out of the field: rows of the image report"),
        column("scored", COUNT, "of these, scored", "images"),
        column("failed", COUNT, "of these, failed", "images"),
        column("red_cells", COUNT, "scored images of red cells", "images"),
        column("parasitized", COUNT, "of these, diagnosed as parasitized", "images"),
        column("abnormal", COUNT, "scored images that are abnormal", "images"),
        column("review", COUNT, "images for review by a person", "images"),
        column("verdict", TEXT, "accept, or review by a person"),
        column(
            "review_reason",
            TEXT,
            "out of focus, dark, overexposed, crowded, few cells, or several; failed",
        ),
        *made_by(),
    ]
