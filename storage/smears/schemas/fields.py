"""Define the columns of the report on fields of view."""

import pyarrow as pa

from storage.reports.schemas.shared import ABNORMAL, COLOURS, OF_BATCH, REVIEW, Column, schema_of
from storage.smears.schemas.columns import count, images, number, text

FULL = "pixels at full resolution"
BOX = {"x": "left edge", "y": "upper edge", "width": "width", "height": "height"}

# The place and quality of a field, as cutting up its source has measured them.
MEASURED = [
    text("source_uri", "the photograph or slide that the field is in"),
    text("source_id", "sha256 of its bytes; null if unreadable"),
    text("slide_id", "the slide, if the source names one"),
    text("patient_id", "the patient"),
    *(
        Column(name, pa.int64(), f"{what} of the field; null if unreadable", FULL)
        for name, what in BOX.items()
    ),
    Column("level", pa.int8(), "level of the slide's pyramid that was read; 0 is the full"),
    text("kind", "field: its cells were read; empty, thick, unfocused: were not; null: failed"),
    Column("failure", pa.string(), "why it failed: a reason, a colon and the details"),
    number(
        "microns_per_pixel", "magnification at full resolution; null for photographs", "micrometres"
    ),
    number("diameter", "diameter of the median red cell", FULL),
    number("sharpness", "variance of the Laplacian over that of brightness; null without cells"),
    number("too_dark", "share of pixels where a channel is black", "0 to 1"),
    number("too_bright", "share of pixels where a channel is white", "0 to 1"),
    number("brightness", "mean of all channels", "0 to 1"),
    *(
        number(
            f"stain_{name}",
            f"{name}, mean over the pixels of cells; null without cells",
            "0 to 255",
        )
        for name in COLOURS
    ),
    count("cells", "cells that were found", "cells"),
    count("white_cells", "of these, white cells by their nucleus", "cells"),
    count("cells_at_border", "of these, cut by the border or a neighbour", "cells"),
    number("covered", "share of the field that cells cover", "0 to 1"),
    number(
        "overlap",
        "share of the covered area that is in more than one cell; null without cells",
        "0 to 1",
    ),
    number("packed", "share of the field where hardly any ground is seen between cells", "0 to 1"),
]

COLUMNS = [
    *MEASURED,
    count("images", "images cut out of the field: rows of the image report", sql="count(uri)"),
    images("scored", "of these, scored", "is_scored"),
    images("failed", "of these, failed", "NOT is_scored"),
    images("red_cells", "scored images of red cells", "is_scored AND is_red"),
    images("parasitized", "of these, diagnosed as parasitized", "is_parasitized"),
    ABNORMAL,
    REVIEW,
    text("verdict", "accept, or review by a person"),
    text(
        "review_reason", "out of focus, dark, overexposed, crowded, few cells, or several; failed"
    ),
    *OF_BATCH,
]

FIELD_REPORT_SCHEMA = schema_of(COLUMNS)
