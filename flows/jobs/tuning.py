"""Tune a model to the cells of a batch, before the features of its cells are extracted."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flows.jobs import verified, worker
from flows.jobs.quarantine import Sparing
from flows.jobs.scoring.night import night_rows
from flows.jobs.scoring.screened import Screened
from storage.batches.manifests import rows_at
from storage.models.classifiers import load_weights
from storage.models.tunings import BatchTuning, save_tuning
from storage.records import arrays_to_bytes
from tasks.detector.probabilities import log_odds
from tasks.detector.slides import night_smears
from tasks.detector.slides.groups import reference_rows
from tasks.images.regions import ImageRef, image_refs
from tasks.network.extraction import cut_out_by_us, load_images
from tasks.network.spec import NetworkSpec
from tasks.reports.image_columns import PARASITIZED
from tasks.reports.image_rows import is_cut
from tasks.types import Mask, Pixels, below

if TYPE_CHECKING:
    from tasks.network.inference import Inference

MOST, LEAST = 96, 30  # cells on which a tuning is measured: 60 do as well as 256


@dataclass(frozen=True)
class TuningJob(Sparing):
    """A batch, some of whose cells tune its model; ``killers`` are places in `refs`."""

    screened: Screened

    def refs(self) -> list[ImageRef]:
        """List some whole cells, spread evenly over the batch."""
        store, batch = self.screened.store, self.screened.batch
        rows = night_rows(batch)
        some = rows_at(store, batch, rows[reference_rows(len(rows), MOST)].tolist())
        return image_refs(some.filter(~is_cut(some)))

    def rows(self) -> int:
        """Count these cells."""
        return len(self.refs())

    def probe(self, row: int) -> None:
        """Read one of the cells, and keep nothing."""
        list(load_images(self.refs()[row : row + 1], 1, 1))


def measure_tuning(job: TuningJob) -> BatchTuning:
    """Measure a tuning on some cells of a batch, if these are blood, and keep it."""
    # A coordinator, which also imports this module, does without OpenVINO.
    from flows.jobs.networks import GRAPH, HOME, keep_tuned
    from tasks.network import tuning
    from tasks.network.inference import Inference
    from tasks.network.processor import Graph, OpenVino

    worker.settle_worker()
    store, model = job.screened.store, job.screened.model
    spec, arrays = NetworkSpec.from_dict(model.network), load_weights(store, model)
    if not (known := below(HOME, arrays)):
        return _none("it has no batch-norm that can be tuned, or was trained before there was any")
    refs = job.refs()
    if len(refs) < LEAST:  # another worker may extract them
        return _none(f"it has {len(refs)} whole cells, and {LEAST} are needed")
    home, graph = tuning.Home.from_arrays(known), Graph.from_arrays(below(GRAPH, arrays))
    # The other workers wait for this job, so it may use their cores.
    with ThreadPoolExecutor(2) as beside:
        reading = beside.submit(_pixels, job, refs, spec.side, OpenVino.threads)
        compiling = beside.submit(tuning.measuring, graph, spec, home.trained)
        network = worker.network_of(store, model)
        pixels, cut = reading.result()
        if len(pixels) < LEAST:
            return _none(f"{len(pixels)} of its cells can be read, and {LEAST} are needed")
        blood = _blood(job, network, pixels, cut)
        if blood is None:
            return _none("its cells are no smear of blood, or its detector has no limits of one")
        if blood.sum() < LEAST:
            return _none(f"{blood.sum()} of its cells look healthy, and {LEAST} are needed")
        healthy = pixels[blood]
        own = compiling.result()(healthy)
    share = tuning.share_of(home.distance(own), len(healthy))
    if share < tuning.LEAST_SHARE:
        return _none("its cells look like those that trained the network")
    made, device = tuning.tune(graph, spec, home.trained, own, share)
    there = Inference(spec, device, tuning.tuned_cutting(network.cutting, spec, made))
    _, logits = there.compared(healthy, cut[blood])
    if PARASITIZED in spec.classes:
        place = spec.classes.index(PARASITIZED)
        made = tuning.ruled(made, home, own, log_odds(logits, 1.0, place), place)
    digest = save_tuning(store, model.name, arrays_to_bytes(made.to_arrays()))
    keep_tuned(model.tuned(digest), device)
    return BatchTuning(tuning=digest, why=f"by {blood.sum():,} of its cells")


def _none(why: str) -> BatchTuning:
    return BatchTuning(tuning=None, why=why)


def _pixels(
    job: TuningJob, refs: Sequence[ImageRef], side: int, threads: int
) -> tuple[Pixels, Mask]:
    """Read cells (n, side, side, 3), and mark those (n,) that slidewatch has cut out."""
    refs = [ref for place, ref in enumerate(refs) if place not in job.killers]
    images = [each.pixels for each in load_images(refs, side, threads)]
    good = np.asarray([pixels is not None for pixels in images], bool)
    pixels = [each for each in images if each is not None]
    stacked = np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8)
    return stacked, cut_out_by_us(refs)[good]


def _blood(job: TuningJob, network: "Inference", pixels: Pixels, cut: Mask) -> Mask | None:
    """Mark the cells (n,) that look healthy; None if most are no blood, or nobody knows.

    Cells are judged one by one, because a night may have slides of many stains.
    """
    own = verified.load_detector(job.screened.store, job.screened.detector).own
    if own is None or own.floor is None:
        return None
    taps, logits = network.compared(pixels, cut)
    classes = logits.argmax(axis=1)
    cells, known = night_smears.residuals(own.priors, taps, classes)
    known[known] = ~night_smears.beyond_reach(own.floor, cells)
    if 2 * known.sum() < len(known):
        return None
    if PARASITIZED in network.spec.classes:
        known &= classes != network.spec.classes.index(PARASITIZED)
    return known
