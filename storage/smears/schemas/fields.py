"""Define the columns of the report on fields of view."""

import pyarrow as pa

from storage.reports.schemas import shared

FULL = "pixels at full resolution"
BOX = {"x": "left edge", "y": "upper edge", "width": "width", "height": "height"}

# The place and quality of a field, as cutting up its source has measured them.
MEASURED = [
    shared.Column("source_uri", shared.TEXT, "the photograph or slide that the field is in"),
    shared.Column("source_id", shared.TEXT, "sha256 of its bytes; null if unreadable"),
    shared.Column("slide_id", shared.TEXT, "the slide, if the source names one"),
    shared.Column("patient_id", shared.TEXT, "the patient"),
    *(
        shared.Column(name, pa.int64(), f"{what} of the field; null if unreadable", FULL)
        for name, what in BOX.items()
    ),
    shared.Column("level", pa.int8(), "level of the slide's pyramid that was read; 0 is the full"),
    shared.Column(
        "kind",
        shared.TEXT,
        "field: its cells were read; empty, thick, unfocused: were not; null: failed",
    ),
    shared.Column("failure", pa.string(), "why it failed: a reason, a colon and the details"),
    shared.Column(
        "microns_per_pixel",
        pa.float64(),
        "magnification at full resolution; null for photographs",
        "micrometres",
    ),
    shared.Column("diameter", pa.float64(), "diameter of the median red cell", FULL),
    shared.Column(
        "sharpness",
        pa.float64(),
        "variance of the Laplacian over that of brightness; null without cells",
    ),
    shared.Column("too_dark", shared.SHARE, "share of pixels where a channel is black", "0 to 1"),
    shared.Column("too_bright", shared.SHARE, "share of pixels where a channel is white", "0 to 1"),
    shared.Column("brightness", shared.SHARE, "mean of all channels", "0 to 1"),
    *(
        shared.Column(
            f"stain_{name}",
            pa.float64(),
            f"{name}, mean over the pixels of cells; null without cells",
            "0 to 255",
        )
        for name in shared.COLOURS
    ),
    shared.Column("cells", shared.COUNT, "cells that were found", "cells"),
    shared.Column("white_cells", shared.COUNT, "of these, white cells by their nucleus", "cells"),
    shared.Column(
        "cells_at_border", shared.COUNT, "of these, cut by the border or a neighbour", "cells"
    ),
    shared.Column("covered", shared.SHARE, "share of the field that cells cover", "0 to 1"),
    shared.Column(
        "overlap",
        shared.SHARE,
        "share of the covered area that is in more than one cell; null without cells",
        "0 to 1",
    ),
    shared.Column(
        "packed",
        shared.SHARE,
        "share of the field where hardly any ground is seen between cells",
        "0 to 1",
    ),
]

COLUMNS = [
    *MEASURED,
    shared.Column(
        "images",
        shared.COUNT,
        "images cut out of the field: rows of the image report",
        sql="count(uri)",
    ),
    shared.Column(
        "scored", shared.COUNT, "of these, scored", "images", shared.number_of("is_scored")
    ),
    shared.Column(
        "failed", shared.COUNT, "of these, failed", "images", shared.number_of("NOT is_scored")
    ),
    shared.Column(
        "red_cells",
        shared.COUNT,
        "scored images of red cells",
        "images",
        shared.number_of("is_scored AND is_red"),
    ),
    shared.Column(
        "parasitized",
        shared.COUNT,
        "of these, diagnosed as parasitized",
        "images",
        shared.number_of("is_parasitized"),
    ),
    shared.ABNORMAL,
    shared.REVIEW,
    shared.Column("verdict", shared.TEXT, "accept, or review by a person"),
    shared.Column(
        "review_reason",
        shared.TEXT,
        "out of focus, dark, overexposed, crowded, few cells, or several; failed",
    ),
    *shared.OF_BATCH,
]


def field_schema() -> pa.Schema:
    """Define the columns of a report on fields of view, with meaning and unit in field metadata."""
    return shared.schema_of(COLUMNS)
