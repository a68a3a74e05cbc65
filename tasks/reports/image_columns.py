"""Read columns of image rows as arrays, and count the rows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.detector.verdict import SEPARATOR, Reason, is_turning, parse_reasons
from tasks.images.sorted_rows import repeated_rows
from tasks.types import CellKind, Counts, Float, ImageStatus, Index, Mask, Verdict

COLOURS = ("red", "green", "blue")
PARASITIZED = "Parasitized"
# Abnormality in deviations, above which a cell is stranger than parasites: of those of P. vivax of
# two places 95% are below 5.5 and 6.6; attacked and drawn cells lie from 6.4 to 13.
STRANGEST = 6.0
# The table that scoring writes: a row for each slide and patient.
SHIFTS = pa.schema(
    [
        ("slide_id", pa.string()),
        ("patient_id", pa.string()),
        ("judged_cells", pa.int64()),
        ("shift", pa.float64()),
        ("shift_p_value", pa.float64()),
        ("shifted", pa.bool_()),
        ("shift_tap", pa.string()),
        ("smear_shift", pa.float64()),
        ("smear_spread", pa.float64()),
        ("implausible", pa.bool_()),
    ]
)

REPEATED = "repeated"  # a column only for tallies, in no report
HEAD = 16  # letters of a digest in hexadecimal

Pair = tuple[str | None, str | None]  # slide and patient


@dataclass(frozen=True)
class Provenance:
    """The values shared by all rows of a batch's reports."""

    model: str
    detector: str
    batch: str
    batch_date: date
    scored_at: datetime  # the start of scoring, in UTC
    arithmetic: str | None = None  # of the network; only the report on batches has it

    def to_row(self) -> dict[str, Any]:
        """Return the values by column."""
        return vars(self) | {"batch_date": self.batch_date.isoformat()}

    def to_columns(self, n: int) -> dict[str, pa.Array]:
        """Repeat the values in n rows, by column."""
        kinds = {"scored_at": pa.timestamp("us", "UTC")}
        return {
            name: pa.repeat(pa.scalar(value, kinds.get(name, pa.string())), n)
            for name, value in self.to_row().items()
            if name != "arithmetic"
        }


def coded(column: pa.ChunkedArray) -> tuple[Counts, list[str | None]]:
    """Encode text as numbers (n,) and list the texts; null is a value like any other."""
    text = column.cast(pa.string()).combine_chunks()
    encoded = text.dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def pairs_of(rows: pa.Table) -> tuple[list[Pair], Index]:
    """List the pairs of slide and patient in image rows, and number the pair of each row (n,)."""
    slides, slide_names = coded(rows["slide_id"])
    patients, patient_names = coded(rows["patient_id"])
    many = len(patient_names)
    pairs, group = np.unique(slides * many + patients, return_inverse=True)
    return [(slide_names[n // many], patient_names[n % many]) for n in pairs.tolist()], group


def plain(rows: pa.Table) -> pa.Table:
    """Decode dictionaries, which differ between parts."""
    return rows.cast(_without_dictionaries(rows.schema))


def _without_dictionaries(schema: pa.Schema) -> pa.Schema:
    kinds = (pa.string() if pa.types.is_dictionary(kind) else kind for kind in schema.types)
    return pa.schema(list(zip(schema.names, kinds, strict=True)))


def table_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Make a table of a schema from rows; their other values are left out, missing ones null."""
    return pa.Table.from_pylist(list(rows), _without_dictionaries(schema)).cast(schema)


def rank_within(codes: Counts) -> Counts:
    """Count, for each of n rows, the earlier rows with the same code, (n,).

    >>> rank_within(np.asarray([7, 2, 7, 7]))
    array([0, 0, 1, 2])
    """
    order = np.argsort(codes, kind="stable")
    _, sizes = np.unique(codes, return_counts=True)
    ranks = np.empty(len(codes), np.int64)
    ranks[order] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def flags(rows: pa.Table) -> tuple[Mask, Mask]:
    """Mark the image rows (n,) that are scored, and those that are abnormal."""
    return _is_value(rows["status"], ImageStatus.SCORED), is_true(rows["abnormal"])


def no_smears(shifts: pa.Table, rows: pa.Table) -> list[str | None]:
    """List the slides that are no smear of blood, or whose diagnoses turn under a blur.

    ``shifts`` are rows of `SHIFTS`, and ``rows`` image rows of whole slides.
    """
    again = rows.filter(rows["steady"].is_valid())
    turned = Counter(again.filter(pc.invert(again["steady"]))["slide_id"].to_pylist())
    looked_at = Counter(again["slide_id"].to_pylist())
    implausible: list[str | None] = shifts.filter(shifts["implausible"])["slide_id"].to_pylist()
    return implausible + [slide for slide, n in turned.items() if is_turning(n, looked_at[slide])]


def of_no_smears(rows: pa.Table, slides: Sequence[str | None]) -> pa.Table:
    """Send the scored image rows of some slides to a person, with the reason `Reason.NO_SMEAR`."""
    theirs = pc.is_in(rows["slide_id"], pa.array(slides, pa.string()))
    marked = pc.and_(theirs, pc.equal(rows["status"], ImageStatus.SCORED))
    reason = pc.binary_join_element_wise(
        rows["review_reason"], Reason.NO_SMEAR.value, SEPARATOR, null_handling="skip"
    )
    columns = {
        "verdict": pc.if_else(marked, Verdict.REVIEW.value, rows["verdict"]),
        "review_reason": pc.if_else(marked, reason, rows["review_reason"]),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, values)
    return rows


def has_reason(rows: pa.Table, reason: Reason) -> Mask:
    """Mark the image rows (n,) that are for review for a reason."""
    codes, reasons = coded(rows["review_reason"])
    return np.asarray([reason in parse_reasons(each) for each in reasons], bool)[codes]


def heads_of(image_ids: pa.Array) -> NDArray[np.uint64]:
    """Read the first 16 letters of hexadecimal digests (n,) as numbers; 0 without a digest."""
    letters = pc.utf8_slice_codeunits(pc.fill_null(image_ids, HEAD * "0"), 0, HEAD)
    return np.frombuffer(bytes.fromhex("".join(letters.to_pylist())), ">u8").astype(np.uint64)


def repeated(heads: Iterable[NDArray[np.uint64]]) -> Mask:
    """Mark the images (n,) whose digest begins as that of an earlier one; see `heads_of`."""
    every = np.concatenate([np.zeros(0, np.uint64), *heads])
    marked = np.zeros(len(every), bool)
    marked[repeated_rows([every])] = True
    return marked & (every > 0)


def is_diagnosed(rows: pa.Table) -> Mask:
    """Mark the image rows (n,) of diagnosed red cells, or whole files, once each (`REPEATED`)."""
    scored, _ = flags(rows)
    is_red = _is_value(rows["kind"], CellKind.RED) | ~is_true(rows["kind"].is_valid())
    once = ~is_true(rows[REPEATED]) if REPEATED in rows.column_names else True
    return np.asarray(scored & is_red & once)


def is_read(rows: pa.Table) -> Mask:
    """Mark the image rows (n,) of whole red cells no stranger than parasites are: they count."""
    strange = np.nan_to_num(numbers_of(rows, "abnormality"), nan=np.inf) > STRANGEST
    return np.asarray(is_diagnosed(rows) & ~strange)


def is_white_cell(rows: pa.Table) -> Mask:
    """Mark the image rows (n,) of white cells, as judged by their nucleus."""
    return _is_value(rows["kind"], CellKind.WHITE)


def is_for_review(rows: pa.Table) -> Mask:
    """Mark the image rows (n,) that a person should look at."""
    return _is_value(rows["verdict"], Verdict.REVIEW)


def failed_rows(rows: pa.Table) -> list[tuple[int, str]]:
    """List the numbers of the image rows that failed, with the reason without details."""
    failed = np.flatnonzero(is_true(rows["failure"].is_valid())).tolist()
    texts = rows["failure"].drop_null().to_pylist()
    return [(row, text.partition(":")[0]) for row, text in zip(failed, texts, strict=True)]


def numbers_of(rows: pa.Table, column: str) -> Float:
    """Read a column of numbers (n,); null becomes NaN."""
    return np.asarray(rows[column].cast(pa.float64()).to_numpy(), np.float64)


def _is_value(column: pa.ChunkedArray, value: str) -> Mask:
    return is_true(pc.equal(column.cast(pa.string()), value))


def is_true(column: pa.ChunkedArray) -> Mask:
    """Mark the rows (n,) whose value is true; null is not."""
    return np.asarray(pc.fill_null(column.cast(pa.bool_()), False).to_numpy(), bool)


@dataclass
class ImageCounts:
    """The numbers of images, scored, abnormal and reviewed, by diagnosis and failure's reason."""

    images: int = 0
    scored: int = 0
    abnormal: int = 0
    review: int = 0
    diagnoses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def count(self, rows: pa.Table) -> None:
        """Count rows of the report on images."""
        scored, abnormal = flags(rows)
        verdicts = Counter(rows["verdict"].to_pylist())
        self.images += rows.num_rows
        self.scored += int(scored.sum())
        self.abnormal += int(abnormal.sum())
        self.review += verdicts[Verdict.REVIEW]
        self.diagnoses.update(rows["diagnosis"].drop_null().to_pylist())
        self.failures.update(reason for _, reason in failed_rows(rows))

    def add(self, other: "ImageCounts") -> None:
        """Add the counts of other images."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
