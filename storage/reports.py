"""Reports: ``reports/<kind>/batch_date=YYYY-MM-DD/<batch>.parquet``.

Of ``images`` there is one row for each image, of ``slides`` one for each slide, of ``batches`` one,
and where cells are cut out here, of ``fields`` one for each field of view.
``reports/html/<batch>.html`` is a page for people made from them, ``index.html`` one of all nights.
A report is staged and renamed once, so a reader of the folder sees the old one or the new one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.store import Store, digest_of

# Large groups are quick to scan, small ones are held in memory while they are made. A filter on the
# digest says which of them has an image.
GROUP_ROWS = 16_384
BLOOM = {"ndv": GROUP_ROWS, "fpp": 0.001}

_TEXT = pa.dictionary(pa.int32(), pa.string())
_COUNT = pa.int64()
_COUNTS = pa.map_(pa.string(), pa.int64())
IMAGES, FIELDS, SLIDES, BATCHES = "images", "fields", "slides", "batches"
COLOURS = ("red", "green", "blue")
_NO_FIELDS = "null: cells cut out before"
HTML = "html"
HEAD = 4096  # bytes of a page that say from which reports it was made


def image_schema(classes: Sequence[str], taps: Sequence[str]) -> pa.Schema:
    """The columns of an image report, with their meaning in the field metadata."""
    return pa.schema(
        [
            _field(
                "image_id",
                pa.string(),
                "sha256 of the file, or of its digest and the region; null: unreadable",
            ),
            _field("uri", pa.string(), "where the image was read"),
            _field("label", _TEXT, "the class that the source gave the image, if any"),
            _field("slide_id", _TEXT, "the slide or field of view"),
            _field("patient_id", _TEXT, "the patient"),
            _field(
                "acquired_at", pa.timestamp("us"), "when the image was taken, as its source says"
            ),
            _field(
                "source_uri", _TEXT, "the file that the image is a region of; null: a whole file"
            ),
            _field("x", _COUNT, "the region's left edge in that file", "pixels"),
            _field("y", _COUNT, "the region's upper edge in that file", "pixels"),
            _field("level", pa.int8(), "level of the slide's pyramid that was read"),
            _field("kind", _TEXT, "what was cut out: red or white (a hint by nucleus), or tile"),
            _field(
                "touches_border",
                pa.bool_(),
                "whether the border of the field cuts the cell; a red one has no abnormality then",
            ),
            _field("width", pa.int32(), "width in its file", "pixels"),
            _field("height", pa.int32(), "height in its file", "pixels"),
            *_colour("mean over pixels that are not black"),
            _field("status", _TEXT, "scored or failed"),
            _field("failure", pa.string(), "why it failed: a reason, a colon and the details"),
            _field("diagnosis", _TEXT, "the most probable class"),
            *(
                _field(f"probability_{name}", pa.float32(), f"calibrated probability of {name}")
                for name in classes
            ),
            *(
                _field(
                    f"distance_{name}",
                    pa.float64(),
                    f"squared Mahalanobis distance at tap {name} to the nearest class",
                    "within-class variances",
                )
                for name in taps
            ),
            _field(
                "abnormality",
                pa.float64(),
                "fused score, higher is more abnormal",
                "deviations of the log distance over calibration patients",
            ),
            _field("p_value", pa.float64(), "conformal p-value of the abnormality"),
            _field("q_value", pa.float64(), "Benjamini-Hochberg q-value over the batch"),
            _field("abnormal", pa.bool_(), "whether p_value is at most the detector's alpha"),
            _field("verdict", _TEXT, "accept, or review by a person"),
            _field("review_reason", _TEXT, "abnormal, uncertain, both, or failed"),
            *_made_by(),
        ]
    )


def field_schema() -> pa.Schema:
    """The columns of a report on fields of view, with their meaning in the field metadata."""
    box = {"x": "left edge", "y": "upper edge", "width": "width", "height": "height"}
    full = "pixels at full resolution"
    return pa.schema(
        [
            _field("source_uri", _TEXT, "the photograph or slide that the field is in"),
            _field("source_id", _TEXT, "sha256 of its bytes; null where unreadable"),
            _field("slide_id", _TEXT, "the slide, if the source names one"),
            _field("patient_id", _TEXT, "the patient"),
            *(
                _field(name, pa.int64(), f"{what} of the field; null where unreadable", full)
                for name, what in box.items()
            ),
            _field("level", pa.int8(), "level of the slide's pyramid that was read; 0 is the full"),
            _field(
                "kind",
                _TEXT,
                "field: its cells were read; empty, thick, unfocused: were not; null: failed",
            ),
            _field("failure", pa.string(), "why it failed: a reason, a colon and the details"),
            _field(
                "microns_per_pixel",
                pa.float64(),
                "magnification at full resolution; null for photographs",
                "micrometres",
            ),
            _field("diameter", pa.float64(), "diameter of the median red cell", full),
            _field(
                "sharpness",
                pa.float64(),
                "variance of the Laplacian over that of brightness; null without cells",
            ),
            _field("too_dark", pa.float64(), "share of pixels where a channel is black", "0 to 1"),
            _field(
                "too_bright", pa.float64(), "share of pixels where a channel is white", "0 to 1"
            ),
            _field("brightness", pa.float64(), "mean of all channels", "0 to 1"),
            *(
                _field(
                    f"stain_{name}",
                    pa.float64(),
                    f"{name}, mean over the pixels of cells; null without cells",
                    "0 to 255",
                )
                for name in COLOURS
            ),
            _field("cells", _COUNT, "cells that were found", "cells"),
            _field("white_cells", _COUNT, "of these, white cells by their nucleus", "cells"),
            _field("cells_at_border", _COUNT, "of these, cut by the border", "cells"),
            _field("covered", pa.float64(), "share of the field that cells cover", "0 to 1"),
            _field(
                "overlap",
                pa.float64(),
                "share of that which lies in more than one cell; null without cells",
                "0 to 1",
            ),
            _field(
                "packed",
                pa.float64(),
                "share of the field where hardly any ground is seen between cells",
                "0 to 1",
            ),
            _field("images", _COUNT, "images cut out of the field: rows of the image report"),
            _field("scored", _COUNT, "of these, scored", "images"),
            _field("failed", _COUNT, "of these, failed", "images"),
            _field("red_cells", _COUNT, "scored images of red cells", "images"),
            _field("parasitized", _COUNT, "of these, diagnosed as parasitized", "images"),
            _field("abnormal", _COUNT, "scored images that are abnormal", "images"),
            _field("review", _COUNT, "images for review by a person", "images"),
            _field("verdict", _TEXT, "accept, or review by a person"),
            _field(
                "review_reason",
                _TEXT,
                "out of focus, dark, overexposed, crowded, few cells, or several; failed",
            ),
            *_made_by(),
        ]
    )


def slide_schema() -> pa.Schema:
    """The columns of a slide report, with their meaning in the field metadata."""
    return pa.schema(
        [
            _field("slide_id", _TEXT, "the slide or field of view; null: images that name none"),
            _field("patient_id", _TEXT, "the patient; null where none or several are named"),
            _field("cells", _COUNT, "images of the slide", "images"),
            _field("scored", _COUNT, "of these, scored", "images"),
            _field("failed", _COUNT, "of these, failed", "images"),
            _field("failures", _COUNTS, "how many failed, by reason", "images"),
            _field("fields", _COUNT, f"fields of view of the slide; {_NO_FIELDS}", "fields"),
            _field(
                "fields_read", _COUNT, f"of these, whose cells were read; {_NO_FIELDS}", "fields"
            ),
            _field("fields_excluded", _COUNT, f"of these, not read; {_NO_FIELDS}", "fields"),
            _field(
                "exclusions",
                _COUNTS,
                f"how many, by kind (empty, thick, unfocused) or reason; {_NO_FIELDS}",
                "fields",
            ),
            _field(
                "fields_for_review",
                _COUNT,
                f"fields that failed or are beyond a limit of quality; {_NO_FIELDS}",
                "fields",
            ),
            _field(
                "cells_at_border",
                _COUNT,
                f"cells that the border of a field cuts; {_NO_FIELDS}",
                "cells",
            ),
            _field(
                "red_cells",
                _COUNT,
                "scored images of red cells; whole files count as such",
                "images",
            ),
            _field(
                "white_cells", _COUNT, "images of white cells; no part of parasitaemia", "images"
            ),
            _field("parasitized", _COUNT, "red cells diagnosed as parasitized", "images"),
            *_parasitaemia("", "red cells"),
            *_per_1000(),
            *_parasitaemia("_ordinary", "red cells that are not abnormal"),
            _field(
                "density_class",
                _TEXT,
                "what the parasitaemia means, at bounds of 2, 5 and 10%; none seen",
            ),
            _field(
                "detectable_percent",
                pa.float64(),
                "the parasitaemia of which so many red cells show a parasite with 95% probability",
                "%",
            ),
            _field(
                "negative_call",
                pa.string(),
                "where no parasite was seen: whether there were cells enough to say so",
            ),
            _field("abnormal", _COUNT, "scored images that are abnormal", "images"),
            _field("abnormal_fraction", pa.float64(), "abnormal over scored"),
            _field(
                "abnormal_p_value",
                pa.float64(),
                "exact binomial p-value of so many abnormal images at the detector's alpha; too "
                "small, because images of one slide depend on each other",
            ),
            _field("uncertain", _COUNT, "scored images whose diagnosis is uncertain", "images"),
            _field(
                "abnormality_median",
                pa.float64(),
                "median abnormality, to .03",
                "deviations of the log distance over calibration patients",
            ),
            _field("p_value_median", pa.float64(), "median p-value, to 6%"),
            *_colour("mean over scored images: how the slide is stained and lit"),
            _field("verdict", _TEXT, "accept, or review by a person"),
            _field(
                "review_reasons",
                pa.list_(pa.string()),
                "abnormal together, many failed, few cells, many uncertain, several patients, "
                "too few cells for a negative call, and of fields: out of focus, dark, "
                "overexposed, crowded, few cells, failed",
            ),
            *_made_by(),
        ]
    )


def batch_schema() -> pa.Schema:
    """The columns of a batch's one row, with their meaning in the field metadata."""
    return pa.schema(
        [
            _field("images", _COUNT, "images of the batch", "images"),
            _field("scored", _COUNT, "of these, scored", "images"),
            _field("failed", _COUNT, "of these, failed", "images"),
            _field("failures", _COUNTS, "how many failed, by reason", "images"),
            _field("parasitized", _COUNT, "red cells diagnosed as parasitized", "images"),
            *_parasitaemia("", "scored images of red cells"),
            _field("alpha", pa.float64(), "the detector's level"),
            _field("abnormal", _COUNT, "scored images that are abnormal", "images"),
            _field("discoveries", _COUNT, "scored images whose q_value is at most .1", "images"),
            _field("uncertain", _COUNT, "scored images whose diagnosis is uncertain", "images"),
            _field("review", _COUNT, "images for review by a person", "images"),
            _field("slides", _COUNT, "slides; images that name none count as one", "slides"),
            _field("slides_for_review", _COUNT, "slides for review by a person", "slides"),
            _field(
                "clusters", _COUNT, "patients with scored images, or slides where none is named"
            ),
            _field("p_values", pa.list_(_COUNT), "p-values in 20 equal bins from 0 to 1", "images"),
            _field(
                "tap_scores",
                pa.map_(pa.string(), pa.list_(_COUNT)),
                "by tap, standardised log distances in bins of `tasks.drift.TAP_EDGES`",
                "images",
            ),
            _field(
                "ks_distance", pa.float64(), "Kolmogorov-Smirnov distance of p_values from uniform"
            ),
            _field("ks_p_value", pa.float64(), "p-value of ks_distance with patients as clusters"),
            _field("psi", pa.float64(), "population stability index of the score, calibration"),
            _field("psi_earlier", pa.float64(), "the same against earlier nights; null: too few"),
            _field(
                "psi_taps",
                pa.map_(pa.string(), pa.float64()),
                "the same for the distance at each tap",
            ),
            _field("nights", _COUNT, "earlier nights that this one was compared with"),
            _field("light", _TEXT, "green, amber or red"),
            _field(
                "reasons", pa.list_(pa.string()), "why it is not green; what could not be judged"
            ),
            *_made_by(),
        ]
    )


def _parasitaemia(suffix: str, cells: str) -> list[pa.Field]:
    bounds = {"percent": "share", "low": "lower bound of the share", "high": "upper bound"}
    return [
        _field(
            f"parasitaemia{suffix}_{name}",
            pa.float64(),
            f"{what} of parasitized among {cells}"
            + ("" if name == "percent" else " (95%, Wilson)"),
            "%",
        )
        for name, what in bounds.items()
    ]


def _per_1000() -> list[pa.Field]:
    bounds = {"": "parasitized", "_low": "lower bound of it", "_high": "upper bound of it"}
    return [
        _field(
            f"parasitized_per_1000{name}",
            pa.float64(),
            f"{what}, for 1,000 red cells" + (" (95%, Wilson)" if name else ""),
            "cells",
        )
        for name, what in bounds.items()
    ]


def _colour(meaning: str) -> list[pa.Field]:
    return [_field(name, pa.float32(), f"{name}, {meaning}", "0 to 255") for name in COLOURS]


def _made_by() -> list[pa.Field]:
    return [
        _field("model", _TEXT, "the model that diagnosed"),
        _field("detector", _TEXT, "the detector that scored"),
        _field("batch", _TEXT, "the batch"),
        # Text in a dictionary is the one type under which DuckDB, Polars and pyarrow (so
        # pandas) all agree that the column and the folder's name are the same thing.
        _field("batch_date", _TEXT, "the day the batch belongs to", "YYYY-MM-DD"),
        _field("scored_at", pa.timestamp("us", "UTC"), "when the scoring of the batch began"),
    ]


def _field(name: str, kind: pa.DataType, meaning: str, unit: str | None = None) -> pa.Field:
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, metadata=metadata)


def report_path(batch: str, batch_date: date, kind: str = IMAGES) -> tuple[str, ...]:
    """Where a batch's report of a kind lies, relative to the store."""
    return ("reports", kind, f"batch_date={batch_date.isoformat()}", f"{batch}.parquet")


def write_rows(store: Store, path: tuple[str, ...], rows: pa.Table) -> None:
    """Write rows of a report, complete or not at all."""
    with store.staged(*path) as stage:
        pq.write_table(rows, stage, compression="zstd")


def read_rows(store: Store, path: tuple[str, ...], columns: list[str] | None = None) -> pa.Table:
    """Read rows written by `write_rows` or `publish_report`."""
    with store.open(*path) as opened, pq.ParquetFile(opened, pre_buffer=True) as file:
        return file.read(columns=columns)


def iterate_rows(
    store: Store, path: tuple[str, ...], columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """The same row group by row group, for a report that may be larger than memory."""
    with store.open(*path) as opened, pq.ParquetFile(opened, pre_buffer=True) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=columns)


def _row_groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Parts joined to at least `GROUP_ROWS` rows, but for what is left at the end."""
    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= GROUP_ROWS:
            # Whole columns, or every part would bring its own dictionary.
            yield pa.concat_tables(waiting).unify_dictionaries().combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries().combine_chunks()


def publish_report(
    store: Store, path: tuple[str, ...], schema: pa.Schema, parts: Iterable[pa.Table]
) -> str:
    """Write a report part by part and let it appear at once; returns its sha256."""
    with store.staged(*path) as stage:
        bloom = {"image_id": BLOOM} if "image_id" in schema.names else None
        with pq.ParquetWriter(
            stage, schema, compression="zstd", bloom_filter_options=bloom
        ) as writer:
            for group in _row_groups(part.select(schema.names).cast(schema) for part in parts):
                writer.write_table(group, row_group_size=max(len(group), 1))
        return digest_of(stage.read_bytes())


def read_batches_before(store: Store, day: date, limit: int) -> pa.Table:
    """Rows of the last batches of days before the given one, oldest first."""
    paths: list[tuple[str, ...]] = []
    for folder in reversed(store.names("reports", BATCHES)):
        if folder.removeprefix("batch_date=") < day.isoformat() and len(paths) < limit:
            names = store.names("reports", BATCHES, folder)
            paths += [("reports", BATCHES, folder, name) for name in reversed(names)]
    rows = [read_rows(store, path).cast(batch_schema()) for path in reversed(paths[:limit])]
    return pa.concat_tables(rows) if rows else batch_schema().empty_table()


def newest_batches(
    store: Store, wanted: Callable[[str], bool]
) -> Iterator[tuple[dict[str, Any], datetime]]:
    """The row of every batch whose name is wanted, and when it was published; the newest first."""
    for folder in reversed(store.names("reports", BATCHES)):
        for name in reversed(store.names("reports", BATCHES, folder)):
            if wanted(name.removesuffix(".parquet")):
                path = ("reports", BATCHES, folder, name)
                yield read_rows(store, path).to_pylist()[0], store.modified(*path)


def report_digest(store: Store, path: tuple[str, ...]) -> str | None:
    """The sha256 of a report, or None where there is none."""
    return digest_of(store.read_bytes(*path)) if store.exists(*path) else None


def page_path(batch: str) -> tuple[str, ...]:
    """Where the page of a batch lies, relative to the store."""
    # A batch may be called index; none can have "~" in its name.
    return ("reports", HTML, "index~.html" if batch == "index" else f"{batch}.html")


def index_path() -> tuple[str, ...]:
    """Where the page on all nights lies, relative to the store."""
    return ("reports", HTML, "index.html")


def page_is_of(store: Store, batch: str, made_from: str) -> bool:
    """Whether a batch has a page that names ``made_from``, the digest of its reports, in its head.

    A page may be older than the reports: a run can end between publishing these and writing it.
    """
    try:
        with store.open(*page_path(batch)) as page:
            return made_from.encode() in page.read(HEAD)
    except FileNotFoundError:
        return False


def page_names(store: Store) -> dict[str, str]:
    """The file names of the batches' pages, by batch."""
    index = index_path()[-1]
    names = [name for name in store.names("reports", HTML) if name != index]
    return {name.removesuffix(".html").removesuffix("~"): name for name in names}
