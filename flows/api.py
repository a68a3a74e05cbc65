"""Look at photographs and score images in a notebook or a script, in this process alone.

>>> from flows.api import open_store
>>> detector = open_store().detector()  # doctest: +SKIP
>>> detector.look("photo.jpg")  # doctest: +SKIP
>>> cells = detector.score("photos/")  # doctest: +SKIP
>>> cells.sort_values("p_value")  # doctest: +SKIP

The jobs of `flows.screen` run here one after another, without Prefect and without workers, so the
numbers are those of its report. Nothing is written to the store. It needs pandas
(``pip install 'slidewatch[notebook]'``).
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from flows.cluster.client import in_this_process
from flows.commands.look import sentence_of
from flows.monitoring.console import tell
from flows.options.flows import Screen
from flows.screen import ScreenOutcome, screen_sources
from flows.settings import Settings
from storage.batches.manifests import Batch, load_batch, read_manifest
from storage.models import classifiers
from storage.models.detectors import DetectorCard, detector_names, load_model_of
from storage.models.laboratories import LaboratoryCard, borrow, detector_at
from storage.models.shipped import store_or_shipped
from storage.parquet import read_table
from storage.reports.batch_features import BatchFeatures, read_features
from storage.reports.tables import FIELDS, IMAGES, PATIENTS, report_path
from storage.store import Store, refuse_absent
from tasks import types
from tasks.images import listing, regions
from tasks.images.access.addresses import EXTENSIONS, SLIDE_EXTENSIONS
from tasks.images.manifest import SCHEMA
from tasks.visualisation.overlay import outline_of
from tasks.visualisation.page import data_uri
from tasks.visualisation.pictures import thumbnail
from tasks.words import counted

try:
    import pandas as pd
except ImportError as error:
    raise ImportError("flows.api needs pandas: pip install 'slidewatch[notebook]'") from error

Picture = types.Pixels | Image.Image | str | Path  # pixels, or the address of files
RESULTS = ("batches", "features", "reports", "segmentations")  # folders of a store
ROWS = 20  # that a notebook shows, with thumbnails
FRAME = "width: 100%; aspect-ratio: 5 / 8; border: 0"
SHOWN = [
    "slide_id", "diagnosis", "probability_Parasitized", "abnormality", "p_value", "verdict",
    "review_reason", "failure",
]  # fmt: skip  # columns; the frame has all
TABLE = "border-collapse: collapse; font-variant-numeric: tabular-nums"
CELL = "padding: .2em .6em; text-align: left; border-bottom: 1px solid #8884"


class Pictures(dict[str, regions.ImageRef]):
    """Maps an address to its image; owns the temporary files of in-memory pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="slidewatch-pictures-")
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


class Scored(pd.DataFrame):  # type: ignore[misc]
    """A table of scored images, shown with thumbnails in notebooks.

    It has the columns of the report on images, which ``slidewatch schema`` explains, and the
    ``outline`` (n, 2) of each cell that was cut out: x and y in pixels of its ``source_uri``.
    A notebook shows the columns `SHOWN`, or those of a selection.
    """

    _metadata: ClassVar[list[str]] = ["pictures"]

    @property
    def _constructor(self) -> type["Scored"]:
        return Scored

    def _repr_html_(self) -> str:
        """Show the first rows as HTML, each with its picture."""
        if "uri" not in self.columns:
            return str(super()._repr_html_())
        columns = [name for name in self.columns if name != "uri"]
        if len(columns) > len(SHOWN):
            columns = [name for name in SHOWN if name in columns]
        pictures = getattr(self, "pictures", None) or {}
        lines = [_line("th", ["", "image", *map(escape, columns)])]
        for index, row in pd.DataFrame(self.head(ROWS)).iterrows():
            texts = [escape(_text(name, row[name])) for name in columns]
            picture = _thumbnail(pictures.get(row["uri"]))
            lines.append(_line("td", [escape(str(index)), picture, *texts]))
        more = f"{counted(len(self), 'image')}, {counted(len(self.columns), 'column')}"
        return f'<table style="{TABLE}">{"".join(lines)}</table>{more}'

    def _display_(self) -> SimpleNamespace:
        """Show the same in marimo, which otherwise draws its own table of a data frame."""
        return SimpleNamespace(_mime_=lambda: ("text/html", self._repr_html_()))


@dataclass(frozen=True)
class Seen:
    """A photograph as `slidewatch look` shows it; a notebook shows the same page.

    ``patients`` and ``fields`` have the columns of these reports, a row for each.
    """

    sentence: str
    light: str
    patients: pd.DataFrame = field(repr=False)
    fields: pd.DataFrame = field(repr=False)
    cells: Scored = field(repr=False)
    page: str = field(repr=False)

    def _repr_html_(self) -> str:
        return f'<iframe title="slidewatch" srcdoc="{escape(self.page)}" style="{FRAME}"></iframe>'


def open_store(address: str | Path | None = None) -> "OpenStore":
    """Open a store to screen images with its detectors, or to read features.

    Args:
        address: root of the store: a folder, or ``s3://bucket/store``. By default the store of the
            settings, or if there is none, the detector that comes with slidewatch.

    Raises:
        StoreError: there is no store at the address.
    """
    if address is None:
        return OpenStore(store_or_shipped(Settings().store, tell))
    store = Store(str(address))
    refuse_absent(store)
    return OpenStore(store)


@dataclass(frozen=True)
class OpenStore:
    """A store with its detectors and features."""

    store: Store

    @property
    def detectors(self) -> list[str]:
        """List the names of the detectors."""
        return detector_names(self.store)

    def features(
        self, batch: str, model: str | None = None, rows: slice = slice(None)
    ) -> BatchFeatures:
        """Read features of a batch, with the rows of its report on images.

        ``anndata.AnnData(*store.features("night").annotated())`` holds both.

        Args:
            batch: its name.
            model: that made the features, if the batch has features of several.
            rows: consecutive rows, such as ``slice(0, 10_000)``; memory grows with these alone.

        Raises:
            StoreError: there is no such batch, or its features are incomplete or damaged.
            ValueError: there are no such rows.
        """
        return read_features(self.store, batch, model, rows)

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
    """A detector with its model and a laboratory; it screens images in this process.

    The network runs on one core, or on the GPU if there is one.
    """

    def __init__(
        self, store: Store, card: DetectorCard, laboratory: LaboratoryCard | None = None
    ) -> None:
        self.card, self.laboratory = card, laboratory
        import_module("torch")  # so that screening restores its number of threads
        self.model: classifiers.ModelCard = load_model_of(store, card)
        # Screening writes its results to the detector's store, so a temporary one borrows it.
        self._folder = tempfile.TemporaryDirectory(prefix="slidewatch-")
        self._store = Store(self._folder.name)
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

    def look(self, photo: Picture, **options: Any) -> Seen:
        """Screen one photograph, slide or cell by itself; `Seen` has the answer.

        Args:
            photo: pixels uint8 (h, w, 3) or (h, w), a Pillow image, or the address of a file.
            options: of ``slidewatch screen``, such as ``taken_as="fields"``.

        Raises:
            SourceError: there is no such photograph.
            StoreError: its page could not be made.
            ValueError: pixels have another shape or type, or there is no such option.
        """
        given = photo if isinstance(photo, str | Path) else [photo]
        with self._screened(given, None, None, options) as (outcome, batch, cells):
            return Seen(
                sentence_of(self._store, outcome),
                outcome.light,
                self._report(batch, PATIENTS).to_pandas(),
                self._report(batch, FIELDS).to_pandas(),
                cells,
                Path(outcome.page).read_text(),
            )

    def score(
        self,
        images: str | Path | Sequence[Picture],
        slides: Sequence[str | None] | None = None,
        patients: Sequence[str | None] | None = None,
        **options: Any,
    ) -> Scored:
        """Diagnose and score cells, and those of photographs and slides, each within its slide.

        Args:
            images: a folder, archive, glob or manifest; or n pictures: pixels uint8 (h, w, 3) or
                (h, w), Pillow images, or addresses.
            slides: the slide (n,) of each picture; cells of one slide are compared with each
                other. By default as ``slidewatch screen`` names them.
            patients: the patient (n,) of each picture.
            options: of ``slidewatch screen``, such as ``taken_as="cells"`` or ``limit=100``.

        Returns:
            A row for each cell: ``diagnosis``, ``probability_<class>``, ``abnormality`` and its
            ``p_value`` given the slide, ``population_p_value``, ``verdict``, ``review_reason``; or
            the ``failure``. Pictures keep the given order, and cells follow their picture.

        Raises:
            SourceError: the images cannot be listed, or one is named twice.
            ValueError: pixels have another shape or type, there are not n slides, or there is no
                such option.
        """
        with self._screened(images, slides, patients, options) as (_, _, cells):
            return cells

    @contextmanager
    def _screened(
        self,
        images: str | Path | Sequence[Picture],
        slides: Sequence[str | None] | None,
        patients: Sequence[str | None] | None,
        options: dict[str, Any],
    ) -> Iterator[tuple[ScreenOutcome, Batch, Scored]]:
        """Screen images as `flows.screen` does; its results stay in the store during the block."""
        pictures, sources, root = Pictures(), str(images), None
        numbers: dict[str, int] = {}
        if not isinstance(images, str | Path) or slides is not None or patients is not None:
            given = [images] if isinstance(images, str | Path) else images
            rows = _listed(given, pictures.folder)
            for name, values in (("slide_id", slides), ("patient_id", patients)):
                rows = _named(rows, name, values)
            numbers = {uri: number for number, uri in enumerate(rows["uri"].to_pylist())}
            sources = self._store.path("pictures.parquet")
            pq.write_table(rows, sources)
            root = [
                str(each) if isinstance(each, str | Path) else pictures.folder for each in given
            ]
        settings = Settings(store=self._store.url, metrics=None)
        wanted = Screen(
            images=sources,
            detector=self.name,
            laboratory=self.laboratory and self.laboratory.name,
            **options,
        )
        try:
            with in_this_process(settings):
                outcome = screen_sources(wanted, settings, root)
            batch = load_batch(self._store, outcome.batch)
            yield outcome, batch, self._cells(batch, pictures, numbers)
        finally:
            for folder in RESULTS:
                self._store.remove(folder)

    def _cells(self, batch: Batch, pictures: Pictures, numbers: dict[str, int]) -> Scored:
        """Read the report on images, in the order of the pictures, with their places."""
        rows = self._report(batch, IMAGES)
        refs = regions.image_refs(read_manifest(self._store, batch))
        pictures.update((ref.uri, ref) for ref in refs)
        frame = Scored(rows.to_pandas())
        frame["outline"] = [
            None if ref.outline is None else outline_of(row, ref.outline.ravel())
            for ref, row in zip(refs, rows.select(["uri", "x", "y"]).to_pylist(), strict=True)
        ]
        order = np.argsort([numbers.get(ref.source, 0) for ref in refs], kind="stable")
        frame = Scored(frame.take(order).reset_index(drop=True))
        frame.pictures = pictures
        return frame

    def _report(self, batch: Batch, kind: str) -> pa.Table:
        """Read a report; an empty table if the batch has none of this kind."""
        path = report_path(batch.name, batch.batch_date, kind)
        return read_table(self._store, *path) if self._store.exists(*path) else pa.table({})


def _listed(images: Sequence[Picture], folder: str) -> pa.Table:
    """List pictures as rows of a manifest; those from memory are saved in a folder."""
    rows: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        if isinstance(image, str | Path):
            rows += listing.list_images(
                str(image), extensions=EXTENSIONS | SLIDE_EXTENSIONS
            ).to_pylist()
        else:
            path = f"{folder}/picture {number}.png"
            _as_image(image, number).save(path)
            rows.append({"uri": f"file://{path}"})
    return pa.Table.from_pylist(rows, SCHEMA)


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


def _line(tag: str, cells: Sequence[str]) -> str:
    """Join HTML to the line of a table."""
    return f"<tr>{''.join(f'<{tag} style={CELL!r}>{cell}</{tag}>' for cell in cells)}</tr>"


def _thumbnail(place: regions.ImageRef | None) -> str:
    """Return a thumbnail as an HTML image; empty if the picture cannot be read."""
    if place is None:
        return ""
    try:
        source = data_uri(thumbnail(regions.find(place).image()), "webp")
    except Exception:  # its row says why
        return ""
    return f'<img alt="" width="64" src="{source}">'


def _text(name: str, value: Any) -> str:
    if isinstance(value, float) and not np.isnan(value):
        share = name.startswith("probability_") or name.endswith("p_value")
        if not share:
            return f"{value:.3g}"
        return "<0.001" if 0 < value < 5e-4 else f"{value:.3f}"
    return "" if value is None or pd.isna(value) is True else str(value)
