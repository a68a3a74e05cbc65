"""Score images in a notebook or a script, without Prefect and without Dask.

>>> from flows.api import open_store
>>> detector = open_store("store").detector()  # doctest: +SKIP
>>> cells = detector.score("cells/", slides=None)  # doctest: +SKIP
>>> cells.sort_values("p_value")  # doctest: +SKIP

The numbers are those of the report of a batch of the same images: they come from the same jobs,
which run here, one after another. Nothing is written to the store. It needs pandas
(``pip install 'slidewatch[notebook]'``).
"""

import base64
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from flows.jobs.scoring import night, report_rows, scores, screened
from flows.jobs.scoring.plan import parts_of, score_jobs
from flows.jobs.shard import ShardJob, prepare_features, run_shard
from flows.jobs.tuning import measure_tuning, tuned
from storage.batches.manifests import Batch, BatchPlan, freeze_batch
from storage.models import classifiers
from storage.models.detectors import DetectorCard, detector_names, load_model_of
from storage.models.laboratories import LaboratoryCard, borrow, detector_at
from storage.reports.schemas.images import image_schema
from storage.store import Store, refuse_absent
from tasks import types
from tasks.images import listing, regions
from tasks.images.manifest import SCHEMA
from tasks.visualisation.pictures import thumbnail
from tasks.words import counted

try:
    import pandas as pd
except ImportError as error:
    raise ImportError("flows.api needs pandas: pip install 'slidewatch[notebook]'") from error

Picture = types.Pixels | Image.Image | str | Path  # of one cell: pixels, or their address
SHARD_ROWS = 512  # images from which the network's batches are filled, as for a night
SHOWN = 20  # rows with a thumbnail
SPACED = 'style="border-collapse: separate; border-spacing: .6em 0"'  # marimo leaves no space
FIRST = ("slide_id", "diagnosis", "abnormality", "p_value", "compared_with", "verdict")
LAST = ("review_reason", "failure")


class Scored(pd.DataFrame):  # type: ignore[misc]
    """A table of scored images, shown with thumbnails in notebooks.

    It has the columns of the report on images; ``slidewatch schema`` explains them.
    """

    _metadata = ("pictures",)

    @property
    def _constructor(self) -> type["Scored"]:
        return Scored

    def _repr_html_(self) -> str:
        """Show the first rows as HTML, each with its picture."""
        if "uri" not in self.columns:
            return str(super()._repr_html_())
        rows = pd.DataFrame(self.head(SHOWN))
        probabilities = [name for name in self.columns if name.startswith("probability_")]
        columns = [n for n in (*FIRST, *probabilities, *LAST) if n in self.columns]
        pictures = getattr(self, "pictures", None) or {}
        lines = [
            "<tr>"
            + f"<th>{escape(str(index))}</th><td>{_shown(pictures.get(row['uri']))}</td>"
            + "".join(f"<td>{escape(_text(row[name]))}</td>" for name in columns)
            + "</tr>"
            for index, row in rows.iterrows()
        ]
        head = "".join(f"<th>{escape(name)}</th>" for name in ("", "image", *columns))
        more = f"{counted(len(self), 'image')}, {counted(len(self.columns), 'column')}"
        body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
        return f"<table {SPACED}>{body}</table>{more}"

    def _display_(self) -> SimpleNamespace:
        """Show the same in marimo, which otherwise draws its own table of a data frame."""
        return SimpleNamespace(_mime_=lambda: ("text/html", self._repr_html_()))


def open_store(address: str | Path = "store") -> "OpenStore":
    """Open a store to score images with its detectors.

    Args:
        address: root of the store: a folder, or ``s3://bucket/store``.

    Raises:
        StoreError: there is no store.
    """
    store = Store(str(address))
    refuse_absent(store)
    return OpenStore(store)


@dataclass(frozen=True)
class OpenStore:
    """A store with its detectors."""

    store: Store

    @property
    def detectors(self) -> list[str]:
        """List the names of the detectors."""
        return detector_names(self.store)

    def detector(self, name: str | None = None, laboratory: str | None = None) -> "Detector":
        """Load a detector.

        Args:
            name: of the detector; by default that of the laboratory, or the newest.
            laboratory: a commissioned laboratory, whose slides the images are compared with.

        Raises:
            StoreError: there is no detector of that name, or it is damaged.
        """
        card, laboratory_card = detector_at(self.store, name, laboratory)
        return Detector(self.store, card, laboratory_card)


class Detector:
    """A detector with its model and a laboratory; it scores images in this process.

    The network runs on one core, or on the GPU if there is one.
    """

    def __init__(
        self, store: Store, card: DetectorCard, laboratory: LaboratoryCard | None = None
    ) -> None:
        self.card, self.laboratory = card, laboratory
        self.model: classifiers.ModelCard = load_model_of(store, card)
        # The jobs write their results to the store of their model, so a temporary one borrows it.
        self._folder = tempfile.TemporaryDirectory(prefix="slidewatch-")
        self._store = Store(self._folder.name)
        self._numbers = count(1)
        borrow(store, self._store, card, laboratory)

    def __repr__(self) -> str:
        """Name the detector and its laboratory."""
        return f"Detector({self.name!r}, laboratory={self.laboratory and self.laboratory.label!r})"

    @property
    def name(self) -> str:
        """Return the detector's name."""
        return self.card.name

    @property
    def classes(self) -> list[str]:
        """Return the classes of the diagnosis."""
        return list(self.model.classes)

    def score(
        self,
        images: str | Path | Sequence[Picture],
        slides: Sequence[str | None] | None = None,
        patients: Sequence[str | None] | None = None,
    ) -> Scored:
        """Diagnose and score pictures of single cells, each within its slide.

        Args:
            images: a folder, archive, glob or manifest; or n pictures: pixels uint8 (h, w, 3) or
                (h, w), Pillow images, or addresses of files.
            slides: the slide (n,) of each picture; cells of one slide are compared with each
                other. By default from file names or the manifest.
            patients: the patient (n,) of each picture.

        Returns:
            A row for each image with the columns of the report on images: ``diagnosis``,
            ``probability_<class>``, ``abnormality`` and its ``p_value`` given the slide,
            ``population_p_value``, ``verdict``, ``review_reason``; or the ``failure``. Pictures
                keep the given order.

        Raises:
            SourceError: the images cannot be listed.
            ValueError: pixels have another shape or type, or there are not n slides.
        """
        with tempfile.TemporaryDirectory(prefix="slidewatch-pictures-") as folder:
            if isinstance(images, str | Path):
                manifest = listing.list_images(str(images), classes=self.model.classes)
                pictures: dict[str, Any] = dict(
                    zip(manifest["uri"].to_pylist(), regions.image_refs(manifest), strict=True)
                )
            else:
                manifest, pictures = _listed(images, Path(folder))
            for column, names in (("slide_id", slides), ("patient_id", patients)):
                manifest = _named(manifest, column, names)
            order = _by_slide(manifest)
            rows = self._rows(manifest.take(order))
        frame = Scored(rows.take(np.argsort(order)).to_pandas())
        frame.pictures = pictures
        return frame

    def _rows(self, manifest: pa.Table) -> pa.Table:
        """Screen images like a night, and return the rows of its report."""
        store, card, detector = self._store, self.model, self.card
        batch = _batch(store, f"notebook-{next(self._numbers)}", manifest)
        screening = screened.Screened(store, batch, card, detector, laboratory=self.laboratory)
        try:
            with _one_thread():
                screening = tuned(screening, measure_tuning)
                card = screening.model
                prepare_features(store, batch, card)
                for shard in batch.shards():
                    run_shard(ShardJob(store, batch, shard, card))
                parts = parts_of(screening)
                every, started = range(len(parts)), batch.started_at
                for scoring in score_jobs(screening, parts, every, started, night.describe_night):
                    scores.score_part(scoring)
            pieces = report_rows.finished_rows(screening, len(parts), lambda _: None)
            schema = image_schema(card.classes, list(detector.taps))
            rows = [rows.select(schema.names).cast(schema) for rows in pieces]
            return pa.concat_tables([schema.empty_table(), *rows])
        finally:
            store.remove("batches", batch.key)
            store.remove("features", card.features, f"{batch.key}.zarr")


def _batch(store: Store, name: str, manifest: pa.Table) -> Batch:
    now = datetime.now(UTC)
    plan = BatchPlan(
        name=name,
        images="pictures in memory",
        limit=None,
        shard_rows=SHARD_ROWS,
        batch_date=now.date(),
        started_at=now,
    )
    return freeze_batch(store, plan, manifest)


def _listed(images: Sequence[Picture], folder: Path) -> tuple[pa.Table, dict[str, Any]]:
    """List pictures as a manifest (from memory: saved in a folder), and map names to pictures."""
    rows: list[dict[str, Any]] = []
    pictures: dict[str, Any] = {}
    for number, image in enumerate(images):
        if isinstance(image, str | Path):
            listed = listing.list_images(str(image))
            if listed.num_rows != 1:
                raise ValueError(f"picture {number} is {listed.num_rows} images: give one file")
            (row,) = listed.to_pylist()
            pictures[row["uri"]] = regions.image_refs(listed)[0]
        else:
            path = folder / f"{number}.png"
            pictures[f"picture {number}"] = _as_image(image, number)
            pictures[f"picture {number}"].save(path)
            row = {"uri": f"picture {number}", "source_uri": path.as_uri()}
        rows.append(row)
    return pa.Table.from_pylist(rows, SCHEMA), pictures


def _as_image(pixels: types.Pixels | Image.Image, number: int) -> Image.Image:
    if isinstance(pixels, Image.Image):
        return pixels.convert("RGB")
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"picture {number} is {pixels.dtype} {pixels.shape}: give uint8 (h, w, 3), or (h, w)"
        )
    return Image.fromarray(pixels).convert("RGB")


def _named(manifest: pa.Table, column: str, names: Sequence[str | None] | None) -> pa.Table:
    if names is None:
        return manifest
    if len(names) != manifest.num_rows:
        images, values = counted(manifest.num_rows, "image"), counted(len(names), "value")
        raise ValueError(f"{images}, but {values} of {column}")
    place = SCHEMA.get_field_index(column)
    texts = [None if name is None else str(name) for name in names]
    return manifest.set_column(place, SCHEMA.field(column), pa.array(texts, pa.string()))


def _by_slide(manifest: pa.Table) -> types.Index:
    """Order rows (n,) so that those of a patient, and of a slide, are consecutive."""
    keys = manifest.select(["patient_id", "slide_id"]).append_column(
        "row", pa.array(np.arange(manifest.num_rows))
    )
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
    return np.asarray(order.to_numpy(), np.intp)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, like workers, for the same features; then restore the number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shown(picture: Image.Image | regions.ImageRef | None) -> str:
    """Return a thumbnail as an HTML image; empty if the picture cannot be read."""
    if picture is None:
        return ""
    try:
        image = regions.find(picture).image() if isinstance(picture, regions.ImageRef) else picture
    except Exception:  # its row says why
        return ""
    data = base64.b64encode(thumbnail(image)).decode()
    return f'<img alt="" width="64" src="data:image/webp;base64,{data}">'


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value if abs(value) >= 5e-4 else 0:.3g}"
    return "" if value is None or value is pd.NA or value is pd.NaT else str(value)
