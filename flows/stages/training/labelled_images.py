"""Read labelled images for training into memory, or into a file beyond a limit."""

import tempfile
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from flows.extensions import extension
from flows.monitoring.console import warn
from tasks.images import listing, regions
from tasks.images.access.files import SourceError
from tasks.network import split
from tasks.network.extraction import Reading, cut_out_by_us, load_images
from tasks.types import Counts, Mask, Pixels, laboratory_of

CLASSES = ("Parasitized", "Uninfected")
KEPT = ("uri", "label", "patient_id", "slide_id")

# Bytes of pixels beyond which they lie in a file of the folder of temporary files, which the
# system keeps in memory as far as there is room.
MOST_IN_MEMORY = 2 * 2**30


@dataclass(frozen=True)
class LabelledImages:
    """Decoded images: pixels (n, side, side, 3), labels (n,), and the keys to split by.

    ``rows`` has the columns `KEPT` and ``image_id``; ``unreadable`` maps addresses to reasons;
    ``cut_out`` (n,) marks cells that slidewatch cut out.
    """

    pixels: Pixels
    labels: Counts
    keys: list[str]
    by: split.SplitBy
    rows: pa.Table
    unreadable: dict[str, str]
    cut_out: Mask


def load_labelled_images(
    images: str | list[str], side: int, *, limit: int | None = None
) -> LabelledImages:
    """Read images with the labels `CLASSES`, resized to squares of ``side`` pixels.

    Of several laboratories, those with cells of one class only are left out. SourceError if a class
    has no image, or none can be read.
    """
    manifest = listing.list_images(images, classes=CLASSES, limit=limit, on_skip=warn)
    labels = set(manifest["label"].drop_null().to_pylist())
    if labels != set(CLASSES):
        raise SourceError(
            f"{listing.named(images)} has the labels {', '.join(sorted(labels)) or '(none)'} but "
            f"training needs {' and '.join(CLASSES)}: as folder names, or in the manifest's "
            "column 'label'"
        )
    manifest = _of_both_classes(manifest.filter(pc.is_valid(manifest["label"])))
    uris = manifest["uri"].to_pylist()
    pixels = _room(len(uris), side)
    image_ids: list[str] = []
    good: list[int] = []
    unreadable: dict[str, str] = {}
    refs = regions.image_refs(manifest)
    loading = load_images(
        refs, side, torch.get_num_threads(), Reading(check=extension("check of single cells"))
    )
    for row, image in enumerate(loading):
        if image.pixels is None or image.image_id is None:
            unreadable[uris[row]] = str(image.failure)
            continue
        pixels[len(good)] = image.pixels
        good.append(row)
        image_ids.append(image.image_id.hex())
    if not good:
        raise SourceError(f"none of the {len(uris)} images of {listing.named(images)} can be read")
    manifest = manifest.take(good)
    by = split.split_by(manifest["patient_id"].to_pylist(), manifest["slide_id"].to_pylist())
    rows = manifest.select(KEPT).append_column("image_id", pa.array(image_ids, pa.string()))
    return LabelledImages(
        pixels=pixels[: len(good)],
        labels=listing.class_numbers(manifest, CLASSES).astype(np.int64),
        keys=rows["image_id" if by == "image" else f"{by}_id"].to_pylist(),
        by=by,
        rows=rows,
        unreadable=unreadable,
        cut_out=cut_out_by_us([refs[row] for row in good]),
    )


def _of_both_classes(manifest: pa.Table) -> pa.Table:
    """Leave out laboratories with cells of one class: a network would learn their look for it."""
    patients = manifest["patient_id"].to_pylist()
    owners = np.asarray([laboratory_of(patient or "") for patient in patients])
    labels = np.asarray(manifest["label"].to_pylist())
    kinds = {owner: set(labels[owners == owner].tolist()) for owner in np.unique(owners).tolist()}
    one_sided = [owner for owner, seen in kinds.items() if len(seen) < len(CLASSES)]
    if not one_sided or len(one_sided) == len(kinds):
        return manifest
    named = ", ".join(owner or "images without a laboratory" for owner in one_sided)
    warn(f"left out of training, as all their cells are of one class: {named}; fit them instead")
    return manifest.filter(pa.array(~np.isin(owners, one_sided)))


def _room(count: int, side: int) -> Pixels:
    shape = (count, side, side, 3)
    if np.prod(shape) <= MOST_IN_MEMORY:
        return np.empty(shape, np.uint8)
    return np.memmap(tempfile.TemporaryFile(), np.uint8, "w+", shape=shape)
