"""Run the network on fitted cells, altered as if photographed at other laboratories."""

from dataclasses import dataclass

import numpy as np

from flows.jobs.worker import network_of
from storage.models.classifiers import ModelCard
from storage.store import Store
from tasks.images.regions import ImageRef
from tasks.network.extraction import cut_out_by_us, load_images
from tasks.types import Index, Single

Image = tuple[ImageRef, bytes]  # its place and its digest
Features = tuple[dict[str, Single], Index]  # taps (n, d), classes (n,)


@dataclass(frozen=True)
class AlteredJob:
    """Cells of one fitted patient, all altered in the same way, drawn by ``seed``."""

    store: Store
    model: ModelCard
    images: tuple[Image, ...]
    seed: int


def altered_features(job: AlteredJob) -> Features | None:
    """Compute taps and diagnosed classes of altered cells; None if all files have changed."""
    # Imported here so that the coordinator does not wait for modules that only workers need.
    import torch

    from tasks.network.augmentation import as_elsewhere
    from tasks.network.classifier import to_pixels

    network = network_of(job.store, job.model)
    refs = [ref for ref, _ in job.images]
    loading = load_images(refs, network.spec.side, network.device.threads)
    rows, pixels = [], []
    for row, (loaded, (_, known)) in enumerate(zip(loading, job.images, strict=True)):
        if loaded.pixels is not None and loaded.image_id == known:
            rows.append(row)
            pixels.append(loaded.pixels)
    if not pixels:
        return None
    generator = torch.Generator().manual_seed(job.seed)
    made = as_elsewhere(to_pixels(np.stack(pixels)), generator)
    levels = (made * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    taps, logits = network.compared(levels, cut_out_by_us(refs)[rows])
    return taps, logits.argmax(axis=1).astype(np.intp)
