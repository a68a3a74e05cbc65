"""Define the columns of the report on fields of view."""

import pyarrow as pa

from storage.reports.schemas.shared import (
    ABNORMAL,
    COLOURS,
    COUNT,
    OF_BATCH,
    REVIEW,
    SHARE,
    TEXT,
    Column,
    number_of,
    schema_of,
)

FULL = "pixels at full resolution"
BOX = {"x": "left edge", "y": "upper edge", "width": "width", "height": "height"}

# The place and quality of a field, as cutting up its source has measured them.
MEASURED = [
    Column("source_uri", TEXT, "the photograph or slide that the field is in"),
    Column("source_id", TEXT, "sha256 of its bytes; null if unreadable"),
    Column("slide_id", TEXT, "the slide, if the source names one"),
    Column("patient_id", TEXT, "the patient"),
    *(
        Column(name, pa.int64(), f"{what} of the field; null if unreadable", FULL)
        for name, what in BOX.items()
    ),
    Column("level", pa.int8(), "level of the slide's pyramid that was read; 0 is the full"),
    Column(
        "kind", TEXT, "field: its cells were read; empty, thick, unfocused: were not; null: failed"
    ),
    Column("failure", pa.string(), "why it failed: a reason, a colon and the details"),
    Column(
        "microns_per_pixel",
        pa.float64(),
        "magnification at full resolution; null for photographs",
        "micrometres",
    ),
    Column("diameter", pa.float64(), "diameter of the median red cell", FULL),
    Column(
        "sharpness",
        pa.float64(),
        "variance of the Laplacian over that of brightness; null without cells",
    ),
    Column("too_dark", SHARE, "share of pixels where a channel is black", "0 to 1"),
    Column("too_bright", SHARE, "share of pixels where a channel is white", "0 to 1"),
    Column("brightness", SHARE, "mean of all channels", "0 to 1"),
    *(
        Column(
            f"stain_{name}",
            pa.float64(),
            f"{name}, mean over the pixels of cells; null without cells",
            "0 to 255",
        )
        for name in COLOURS
    ),
    Column("cells", COUNT, "cells that were found", "cells"),
    Column("white_cells", COUNT, "of these, white cells by their nucleus", "cells"),
    Column("cells_at_border", COUNT, "of these, cut by the border", "cells"),
    Column("covered", SHARE, "share of the field that cells cover", "0 to 1"),
    Column(
        "overlap",
        SHARE,
        "share of the covered area that is in more than one cell; null without cells",
        "0 to 1",
    ),
    Column(
        "packed",
        SHARE,
        "share of the field where hardly any ground is seen between cells",
        "0 to 1",
    ),
]

COLUMNS = [
    *MEASURED,
    Column(
        "images", COUNT, "images cut out of the field: rows of the image report", sql="count(uri)"
    ),
    Column("scored", COUNT, "of these, scored", "images", number_of("is_scored")),
    Column("failed", COUNT, "of these, failed", "images", number_of("NOT is_scored")),
    Column(
        "red_cells",
        COUNT,
        "scored images of red cells",
        "images",
        number_of("is_scored AND is_red"),
    ),
    Column(
        "parasitized",
        COUNT,
        "of these, diagnosed as parasitized",
        "images",
        number_of("is_parasitized"),
    ),
    ABNORMAL,
    REVIEW,
    Column("verdict", TEXT, "accept, or review by a person"),
    Column(
        "review_reason",
        TEXT,
        "out of focus, dark, overexposed, crowded, few cells, or several; failed",
    ),
    *OF_BATCH,
]


def field_schema() -> pa.Schema:
    """Define the columns of a report on fields of view, with meaning and unit in field metadata."""
    return schema_of(COLUMNS)
