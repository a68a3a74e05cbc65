"""The features that `own_normal_trial` works on: real cells, and the same cells shifted by slide.

    python -m tests.benchmarks.own_normal_features STORE MANIFEST TO

STORE has a model that was trained on cell_images.zip; MANIFEST is that of a segmentation of
fields.zip with the defaults. One .npz of features is written for each set, and read again if there.
"""

import sys
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from flows.jobs.networks import load_inference
from storage.models.classifiers import find_card
from storage.store import Store
from tasks.evaluation.treatments.corruptions import corrupt
from tasks.images.access.files import read_bytes
from tasks.images.decoding import decode_rgb, resize
from tasks.images.listing import list_images
from tasks.images.regions import find, image_refs
from tasks.network.inference import Inference
from tests.support.boxes import overlap
from tests.support.paths import DATA

Pixels = NDArray[np.uint8]
CELLS_A_PATIENT = 100  # that shifts are made of


def gains(*by_channel: float) -> Callable[[Pixels], Pixels]:
    """A stain or a camera that weakens or strengthens channels, black staying black."""
    return lambda pixels: np.clip(pixels * np.asarray(by_channel), 0, 255).round().astype(np.uint8)


def hue(degrees: float) -> Callable[[Pixels], Pixels]:
    """All colours turned the same way."""

    def turn(pixels: Pixels) -> Pixels:
        planes = np.array(Image.fromarray(pixels).convert("HSV"))
        planes[..., 0] += np.uint8(round(degrees * 256 / 360) % 256)
        return np.asarray(Image.fromarray(planes, "HSV").convert("RGB"))

    return turn


def level(name: str, strength: int) -> Callable[[Pixels], Pixels]:
    """One of `tasks.corruptions`, of those that do to all cells the same."""
    return lambda pixels: corrupt(pixels, name, strength)


def chain(*steps: Callable[[Pixels], Pixels]) -> Callable[[Pixels], Pixels]:
    """One after the other."""

    def all_of_them(pixels: Pixels) -> Pixels:
        for step in steps:
            pixels = step(pixels)
        return pixels

    return all_of_them


SHIFTS: dict[str, Callable[[Pixels], Pixels]] = {
    "none": lambda pixels: pixels,
    "pale": gains(1.1, 1.2, 1.1),
    "blue": gains(0.8, 0.95, 1.1),
    "yellow": gains(1.1, 1.05, 0.75),
    "dim": level("dim", 3),
    "hue + 20": hue(20),
    "hue - 40": hue(-40),
    "blur": level("defocus", 3),
    "jpeg": level("jpeg", 3),
    "grey": level("saturation", 5),
    "another camera": chain(gains(0.8, 0.75, 1.05), level("defocus", 2), level("jpeg", 3)),
}
# What is planted among the shifted cells, shifted as they are.
PLANTED: dict[str, Callable[[Pixels], Pixels]] = {
    "debris": level("debris", 4),
    "noise": level("noise", 4),
    "blurred": level("defocus", 5),
}


def features(inference: Inference, pixels: Iterable[Pixels]) -> dict[str, NDArray[np.float32]]:
    """Taps and logits of pixels (side, side, 3)."""
    batch: list[Pixels] = []
    found: list[dict[str, NDArray[np.float32]]] = []

    def run() -> None:
        if batch:
            taps, logits = inference.run(np.stack(batch))
            found.append({t: v.numpy().copy() for t, v in (taps | {"logits": logits}).items()})
            batch.clear()

    for each in pixels:
        batch.append(each)
        if len(batch) == inference.batch:
            run()
    run()
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def with_features(
    about: dict[str, NDArray[np.generic]], inference: Inference, pixels: Iterable[Pixels]
) -> dict[str, NDArray[np.generic]]:
    """What is known of images, and their features."""
    return {**about, **features(inference, pixels)}


def main(store: str, manifest: str, to: Path) -> None:
    """Write what is not there yet."""
    torch.set_num_threads(1)
    card = find_card(Store(store), None)
    inference = load_inference(Store(store), card.name, card.digest)
    side = inference.spec.side
    cells = list_images(str(DATA / "cell_images.zip"), classes=card.classes)
    uris = cells["uri"].to_pylist()
    patients = np.asarray(cells["patient_id"].to_pylist())
    labels = np.asarray([card.classes.index(label) for label in cells["label"].to_pylist()])
    parts = {p: part for part, names in card.split.items() for p in names}
    about = {
        "patients": patients,
        "labels": labels,
        "parts": np.asarray([parts[p] for p in patients]),
    }
    plain = (resize(decode_rgb(read_bytes(uri)), side) for uri in uris)
    keep(to / "nih.npz", partial(with_features, about, inference, plain))
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [
            rng.permutation(np.flatnonzero(patients == p))[:CELLS_A_PATIENT]
            for p in sorted(set(patients[about["parts"] == "train"]))
        ]
    )
    some = {name: values[rows] for name, values in about.items()}
    for name, shift in SHIFTS.items():
        for what, spoil in ({"": lambda x: x} | PLANTED).items():
            chosen = rows if not what else rows[::4]
            made = (
                resize(
                    Image.fromarray(shift(spoil(np.asarray(decode_rgb(read_bytes(uris[r])))))), side
                )
                for r in chosen
            )
            mine = some if not what else {n: v[::4] for n, v in some.items()}
            keep(to / f"shift_{name}_{what}.npz", partial(with_features, mine, inference, made))
    keep(to / "fields.npz", partial(of_fields, inference, manifest))
    with zipfile.ZipFile(DATA / "ood.zip") as archive:
        names = [n for n in archive.namelist() if not n.endswith("/")]
        for folder in sorted({str(Path(n).parent) for n in names}):
            images = (
                resize(decode_rgb(archive.read(n)), side)
                for n in sorted(names)
                if str(Path(n).parent) == folder and n.lower().endswith((".png", ".jpg", ".jpeg"))
            )
            if folder != ".":
                keep(
                    to / f"ood_{Path(folder).name}.npz",
                    partial(with_features, {}, inference, images),
                )


def original(uri: str) -> Pixels:
    """An image at its own size."""
    return np.asarray(decode_rgb(read_bytes(uri)))


def keep(path: Path, make: Callable[[], dict[str, NDArray[np.generic]]]) -> None:
    """Write arrays once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **make())
        print(path.name, flush=True)


def of_fields(inference: Inference, manifest: str) -> dict[str, NDArray[np.generic]]:
    """Cells of fields, and the kind of the box each lies in: red, white, or none."""
    table = pq.read_table(manifest)
    pixels = [find(piece).picture(inference.spec.side).pixels for piece in image_refs(table)]
    boxes = np.stack(
        [np.asarray(table[c].to_pylist(), float) for c in ("x", "y", "width", "height")], axis=1
    )
    boxes[:, 2:] += boxes[:, :2]
    fields = np.asarray(table["slide_id"].to_pylist())
    truth = np.full(len(fields), "none", dtype="U5")
    with zipfile.ZipFile(DATA / "fields.zip") as archive:
        for field in sorted(set(fields)):
            tree = ElementTree.fromstring(archive.read(f"{field}.xml"))
            for kind, name in (("RBC", "red"), ("WBC", "white")):
                marked = np.asarray(
                    [
                        [
                            float(thing.findtext(f"bndbox/{c}", ""))
                            for c in ("xmin", "ymin", "xmax", "ymax")
                        ]
                        for thing in tree.iter("object")
                        if thing.findtext("name") == kind
                    ]
                ).reshape(-1, 4)
                mine = np.flatnonzero(fields == field)
                shared = overlap(boxes[mine], marked).max(axis=1, initial=0.0)
                truth[mine[shared >= 0.5]] = name
    return {
        "fields": fields,
        "truth": truth,
        "kind": np.asarray(table["kind"].to_pylist()),
        "cut": np.asarray(table["touches_border"].to_pylist()),
        **features(inference, pixels),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
