"""Look at photographs and score images in a notebook or a script, in this process alone.

>>> from flows.smears.api import open_store
>>> detector = open_store().detector()  # doctest: +SKIP
>>> detector.look("photo.jpg")  # doctest: +SKIP
>>> cells = detector.score("photos/")  # doctest: +SKIP
>>> cells.sort_values("p_value")  # doctest: +SKIP

The jobs of `flows.screen` run here one after another, so the numbers are those of its report.
Nothing is written to the store, because later batches must not be compared with a photograph. Data
frames need pandas (``pip install 'slidewatch[notebook]'``).
"""

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from flows.cluster.client import in_this_process
from flows.jobs.worker import network_of
from flows.monitoring.console import tell, warn
from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears.night import NightOutcome, screen_sources
from flows.smears.stages.chosen_thresholds import next_step
from storage.batches.manifests import load_batch, read_manifest
from storage.disk import PASSING
from storage.models import classifiers
from storage.models.detectors import (
    DetectorCard,
    borrow,
    detector_names,
    load_detector_card,
    load_model_of,
)
from storage.models.shipped import store_or_shipped
from storage.reports.tables import FIELDS, IMAGES, PATIENTS, find_report
from storage.smears.batch_features import BatchFeatures, read_features
from storage.store import Store, StoreError, refuse_absent
from tasks import types
from tasks.images import listing, regions
from tasks.images.access.addresses import EXTENSIONS, SLIDE_EXTENSIONS
from tasks.images.access.files import SourceError
from tasks.images.decoding import NOT_READ
from tasks.images.manifest import SCHEMA, with_column
from tasks.smears.counting.call import NO_CELLS, NO_PICTURES, needs_text, photograph_text
from tasks.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from flows.smears.frames import Scored

Picture = types.Pixels | Image.Image | str | Path  # pixels, or the address of files
RESULTS = ("batches", "features", "reports", "segmentations")  # folders of a store
UNREAD = "Cannot be read: copy it again"
FRAME = "width: 100%; aspect-ratio: 5 / 8; border: 0"


class Pictures(dict[str, regions.ImageRef]):
    """Maps an address to its image; owns the temporary files of in-memory pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="slidewatch-pictures-")
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Seen:
    """A photograph as `slidewatch look` shows it, or several images; a notebook shows the page."""

    sentence: str
    next_step: str
    outcome: NightOutcome = field(repr=False)
    page: str | None = field(repr=False)
    reports: Mapping[str, pa.Table] = field(repr=False)  # by kind
    refs: list[regions.ImageRef] = field(repr=False)  # places of the cells
    pictures: Pictures = field(repr=False)
    numbers: Mapping[str, int] = field(repr=False)  # the pictures' order, by address

    @property
    def light(self) -> str:
        """Return the light of the photograph."""
        return self.outcome.light

    @cached_property
    def patients(self) -> "pd.DataFrame":
        """Return the report on patients, a row for each."""
        return self.reports[PATIENTS].to_pandas(maps_as_pydicts="strict")

    @cached_property
    def fields(self) -> "pd.DataFrame":
        """Return the report on fields, a row for each."""
        return self.reports[FIELDS].to_pandas(maps_as_pydicts="strict")

    @cached_property
    def cells(self) -> "Scored":
        """Return the report on images, a row for each cell, in the order of the pictures."""
        from flows.smears.frames import scored_frame

        return scored_frame(self.reports[IMAGES], self.refs, self.pictures, self.numbers)

    @property
    def failures(self) -> list[str]:
        """List why images failed: a reason, a colon and the details, for each."""
        images = self.reports[IMAGES]
        return images["failure"].drop_null().to_pylist() if images.num_columns else []

    def _repr_html_(self) -> str:
        page = escape(self.page or "")
        return f'<iframe title="slidewatch" srcdoc="{page}" style="{FRAME}"></iframe>'


def open_store(address: str | Path | None = None) -> "OpenStore":
    """Open a store, a folder or ``s3://bucket/store``; StoreError if there is none.

    By default it is that of the settings, or if there is none, the detector of the package.
    """
    import_module("torch")  # so that screening restores its number of threads
    if address is None:
        return store_of(Settings())
    store = Store(str(address))
    refuse_absent(store)
    return OpenStore(store, Settings())


def store_of(settings: Settings) -> "OpenStore":
    """Open the store of some settings, or if there is none, the detector of the package."""
    return OpenStore(store_or_shipped(settings.store, tell), settings)


@dataclass(frozen=True)
class OpenStore:
    """A store with its detectors and features, and the settings that these screen with."""

    store: Store
    settings: Settings

    @property
    def detectors(self) -> list[str]:
        """List the names of the detectors."""
        return detector_names(self.store)

    def features(
        self, batch: str, model: str | None = None, rows: slice = slice(None)
    ) -> BatchFeatures:
        """Read features of a batch, with the rows of its report on images.

        ``anndata.AnnData(*store.features("night").annotated())`` holds both. ``model`` made the
        features, if the batch has some of several. Memory grows with ``rows`` alone, which are
        consecutive, such as ``slice(0, 10_000)``.

        Raises:
            StoreError: there is no such batch, or its features are incomplete or damaged.
            ValueError: there are no such rows.
        """
        return read_features(self.store, batch, model, rows)

    def detector(self, name: str | None = None) -> "OpenDetector":
        """Load a detector, or the newest version of a name; by default the newest fitted one."""
        return OpenDetector(self, load_detector_card(self.store, name, warn))


class OpenDetector:
    """A detector with its model; it screens images in this process.

    The network runs on one core, or on the GPU if there is one.
    """

    def __init__(self, opened: OpenStore, card: DetectorCard) -> None:
        self.card = card
        self.model: classifiers.ModelCard = load_model_of(opened.store, card)
        # Screening writes its results to the detector's store, so a temporary one borrows it.
        self._folder = tempfile.TemporaryDirectory(prefix="slidewatch-")
        PASSING.add(Path(self._folder.name))
        self._store = Store(self._folder.name)
        here = {"store": self._store.url, "metrics": None}
        self._settings = opened.settings.model_copy(update=here)
        borrow(opened.store, self._store, card)

    def close(self) -> None:
        """Remove the temporary files, which otherwise go with the object."""
        self._folder.cleanup()

    def __repr__(self) -> str:
        """Name the detector."""
        return f"OpenDetector({self.name!r})"

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

        It is pixels uint8 (h, w, 3) or (h, w), a Pillow image, or the address of a file; options
        are those of ``slidewatch screen``, such as ``taken_as="fields"``.

        Raises:
            SourceError: there is no such photograph.
            StoreError: its page could not be made.
            ValueError: pixels have another shape or type, or there is no such option.
        """
        given = photo if isinstance(photo, str | Path) else [photo]
        with ThreadPoolExecutor(1) as beside:  # while the cells are found
            loading = beside.submit(network_of, self._store, self.model)
            seen = self._screened(given, None, None, options)
            loading.result()
        if not seen.page:
            raise StoreError(f"the page could not be made ({seen.outcome.page_failure})")
        return seen

    def score(
        self,
        images: str | Path | Sequence[Picture],
        slides: Sequence[str | None] | None = None,
        patients: Sequence[str | None] | None = None,
        **options: Any,
    ) -> "Scored":
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
        return self._screened(images, slides, patients, options).cells

    def _screened(
        self,
        images: str | Path | Sequence[Picture],
        slides: Sequence[str | None] | None,
        patients: Sequence[str | None] | None,
        options: dict[str, Any],
    ) -> Seen:
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
        wanted = Screen(images=sources, detector=self.name, **options)
        try:
            with in_this_process(self._settings):
                outcome = screen_sources(wanted, self._settings, root)
            batch = load_batch(self._store, outcome.batch)
            kinds = IMAGES, PATIENTS, FIELDS
            reports = {kind: find_report(self._store, batch, kind) for kind in kinds}
            refs = regions.image_refs(read_manifest(self._store, batch))
            page = "" if outcome.page_failure else Path(outcome.page).read_bytes().decode()
        except Exception as error:
            if type(error).__module__.startswith("botocore"):  # no credentials, no server
                raise SourceError(f"{images}: {error}: check the address and the login") from error
            raise
        finally:
            for folder in RESULTS:
                self._store.remove(folder)
        pictures.update((ref.uri, ref) for ref in refs)
        sentence, advice = sentence_of(outcome, reports[PATIENTS]), ""
        alone = reports[PATIENTS].num_rows == 1 and {"fields"} == outcome.taken_for.keys()
        if alone and sentence != UNREAD:
            card = load_detector_card(self._store, outcome.detector)
            (patient,), faults = reports[PATIENTS].to_pylist(), reports[FIELDS]["review_reason"]
            advice = next_step(self._store, card, patient, faults.to_pylist())
        return Seen(sentence, advice, outcome, page, reports, refs, pictures, numbers)


def sentence_of(outcome: NightOutcome, patients: pa.Table) -> str:
    """Write in a sentence what a photograph shows, or several, by the report on patients."""
    if not outcome.images and not outcome.taken_for:
        return NO_PICTURES
    if not outcome.scored and set() < outcome.failures.keys() <= NOT_READ:
        return UNREAD
    if patients.num_rows == 1:
        return photograph_text(outcome.model_dump(), patients.to_pylist()[0])
    return needs_text(outcome.patients) or NO_CELLS


def _listed(images: Sequence[Picture], folder: str) -> pa.Table:
    """List pictures as rows of a manifest; those from memory are saved in a folder."""
    if not hasattr(images, "__len__"):
        raise ValueError(f"images are given as {type(images).__name__}: give a list of pictures")
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
    if isinstance(pixels, Image.Image) and all(pixels.size):
        return pixels.convert("RGB")
    seen = type(pixels).__name__
    if isinstance(pixels, np.ndarray):
        is_whole = pixels.size and pixels.ndim > 1 and pixels.shape[2:] in ((), (3,))
        if is_whole and pixels.dtype == np.uint8:
            return Image.fromarray(pixels).convert("RGB")
        seen = f"{pixels.dtype} {pixels.shape}"
    raise ValueError(
        f"picture {number} is {seen}: give uint8 (h, w, 3) or (h, w), a Pillow image, or the "
        "address of a file"
    )


def _named(manifest: pa.Table, column: str, names: Sequence[str | None] | None) -> pa.Table:
    if names is None:
        return manifest
    if len(names) != manifest.num_rows:
        images, values = counted(manifest.num_rows, "image"), counted(len(names), "value")
        raise ValueError(f"{images}, but {values} of {column}")
    return with_column(manifest, column, [None if name is None else str(name) for name in names])
