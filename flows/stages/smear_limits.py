"""Learn the limits of a smear of blood from fitted slides, altered as laboratories differ."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping
from itertools import cycle

import numpy as np

from flows.cluster.executor import run_jobs
from flows.jobs.fitting.altered import AlteredJob, Image, altered_features
from flows.stages import class_statistics
from storage.batches.features import read_columns
from storage.batches.manifests import load_batch_of_key, read_manifest
from storage.models.contributions import Rows
from tasks.detector.slides import night_smears
from tasks.detector.slides.cell_score import Prior
from tasks.images.regions import image_refs
from tasks.types import Index, laboratory_of

# More slides show more directions than more cells: B has a row for each feature.
SLIDES, CELLS = 192, 16
WITHOUT = "any slide passes for a smear of blood, whatever its images are"


def fitted_floor(
    to: class_statistics.Fitting, priors: Mapping[str, Prior], groups: Mapping[Hashable, list[Rows]]
) -> tuple[night_smears.Floor | None, list[str]]:
    """Alter cells of every fitted group; return the floor relative to ``priors``, or why not."""
    owners, drawn, jobs = _owners(groups), Counter[Hashable](), []
    for number, owner in enumerate(owners):
        cells = _cells(to, groups[owner], drawn[owner])
        jobs.append(AlteredJob(to.store, to.model, cells, number))
        drawn[owner] += 1
    slides, whose = [], []
    for owner, altered in zip(
        owners, run_jobs(to.client, altered_features, jobs, title="alter slides"), strict=True
    ):
        if altered is not None:
            slides.append(night_smears.residuals(priors, *altered)[0])
            whose.append(owner)
    try:
        return night_smears.fit_floor(slides, whose), []
    except ValueError as error:
        return None, [f"{WITHOUT}: {error}"]


def _owners(groups: Mapping[Hashable, list[Rows]]) -> list[Hashable]:
    """Choose whose cells make each slide: laboratories in turn, and groups of each in turn.

    Groups of few cells are left out: photographs that are a patient each, most of all.
    """
    of_laboratories = defaultdict[str, list[Hashable]](list)
    for name, parts in groups.items():
        if sum(map(len, parts)) >= night_smears.LEAST_CELLS:
            of_laboratories[laboratory_of(str(name))].append(name)
    turns = [cycle(names) for names in of_laboratories.values()]
    return [next(turns[number % len(turns)]) for number in range(SLIDES if turns else 0)]


def _cells(to: class_statistics.Fitting, parts: list[Rows], draw: int) -> tuple[Image, ...]:
    """Choose cells of a patient, spread evenly, and different ones for every draw."""
    total = sum(map(len, parts))
    places = np.unique((np.arange(CELLS) * total + draw * total // CELLS) // CELLS % total)
    images: list[Image] = []
    start = 0
    for part in parts:
        rows = part.rows[places[(places >= start) & (places < start + len(part))] - start]
        start += len(part)
        if len(rows):
            images += _images_of(to, part.batch, rows)
    return tuple(images)


def _images_of(to: class_statistics.Fitting, key: str, rows: Index) -> Iterator[Image]:
    batch, names = load_batch_of_key(to.store, key), ["image_id"]
    for shard, places in batch.by_shard(rows):
        ids = read_columns(to.store, to.model.name, key, shard.start, shard.stop, names)["image_id"]
        refs = image_refs(read_manifest(to.store, batch, shard).take(places))
        yield from zip(refs, [ids[place].tobytes() for place in places], strict=True)
