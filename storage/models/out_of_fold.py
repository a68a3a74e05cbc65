"""Keep each training image's out-of-fold diagnosis: ``models/<model>/out_of_fold.parquet``.

Each row was diagnosed by a network trained without the image's patient. The card's
``cross_validation`` has the table's digest and the metrics computed from it.
"""

import pyarrow as pa

from storage.models.classifiers import ModelCard
from storage.parquet import table_from_bytes, table_to_bytes
from storage.records import read_verified
from storage.store import Store, digest_of

FILE = "out_of_fold.parquet"

_MEANINGS = {
    "uri": "address of the image",
    "image_id": "sha256 of the image's bytes",
    "patient_id": "patient, or null where the image names none",
    "slide_id": "slide, or null where the image names none",
    "label": "class that the image was given",
    "fold": "number of the fold, from 0, that the image's patient was tested in",
    "log_odds": "of the first class by the fold's network and statistics, as other folds calibrate",
    "probability": "of the first class, by the same",
    "network": "log-odds of the first class by the fold's network, by its temperature",
    "statistics": "score of the discriminant of the fold's statistics, less the patient's lean",
    "stain": "number of the cluster, from 0, of the patient's stain; the palest first",
}
_TYPES: dict[str, pa.DataType] = {
    "fold": pa.int16(), "log_odds": pa.float64(), "probability": pa.float64(),
    "network": pa.float64(), "statistics": pa.float64(), "stain": pa.int16(),
}  # fmt: skip
_NULLABLE = {"patient_id", "slide_id", "statistics"}

OUT_OF_FOLD = pa.schema(
    [
        pa.field(
            name,
            _TYPES.get(name, pa.string()),
            nullable=name in _NULLABLE,
            metadata={"description": meaning},
        )
        for name, meaning in _MEANINGS.items()
    ]
)


def save_out_of_fold(store: Store, model: str, table: pa.Table) -> str:
    """Write the table of a model that has no card yet; return the digest for its card."""
    content = table_to_bytes(table.cast(OUT_OF_FOLD))
    store.write_bytes(content, "models", model, FILE)
    return digest_of(content)


def load_out_of_fold(store: Store, card: ModelCard) -> pa.Table | None:
    """Read the table (`OUT_OF_FOLD`) of a model; None if it was trained without folds.

    Raises:
        MissingError: the file does not exist.
        StoreError: the file is not the one that the card describes.
    """
    if card.cross_validation is None:
        return None
    path, digest = ("models", card.name, FILE), card.cross_validation.digest
    content = read_verified(store, path, digest, "the file that its card describes")
    return table_from_bytes(content)
