"""Learn nights of a site: their statistics, and whether a screened night may join."""

import numpy as np
from distributed import Client

from flows.cluster.executor import run_jobs
from flows.jobs.scoring.night import NightJob, learned_night
from flows.jobs.scoring.screened import Screened
from flows.jobs.site_slides import Added, SlidesJob, site_statistics, slides_statistics
from flows.monitoring.console import warn
from flows.sites.repeats import not_repeated
from flows.sites.versions import (
    Laboratory,
    SiteError,
    make_version,
    population,
    refuse_imported,
    save_version,
    site_lease,
    slides_in_parts,
)
from storage.arrays import arrays_to_bytes
from storage.batches.ledger import Seal
from storage.batches.manifests import Batch
from storage.leases import Lease
from storage.models.detectors import load_detector_card
from storage.models.sites import (
    Learning,
    SiteCard,
    SiteNight,
    find_learning,
    load_night,
    load_site,
    note_learning,
    save_night,
)
from storage.models.statistics import version_name
from storage.parquet import read_table
from storage.reports.tables import SLIDES, report_path
from storage.store import Store
from tasks.detector.slides.groups import merge_groups
from tasks.detector.slides.normal import Choices
from tasks.sites.drift import LEAST_P_VALUE, drift_p_value
from tasks.sites.learning import LEAST_CELLS, NightNormal, merged, site_priors
from tasks.types import Mask, Verdict

WINDOW = 30  # nights that joined by themselves, besides the commissioned ones


def learn_slides(client: Client, of: Screened, accepted: Mask | None = None) -> Added:
    """Compute the contribution of a batch with complete features to a site.

    ``accepted`` (n,) are the rows of the batch that may be learned; None for all. The contribution
    has the night's reference if slides have too few cells, and no error counts.
    """
    total, night = merged([], population(of.store, of.detector)), None
    groups = slides_in_parts(of.store, of.batch)
    if any(slide.stop - slide.start < Choices.least for some in groups for slide in some):
        job = NightJob(**vars(of))
        (found,) = run_jobs(client, learned_night, [job], title=f"normal of {of.batch.name}")
        night = NightNormal(found.normal, found.rows)
    jobs = []
    for slides in groups:
        rows = slice(slides[0].start, slides[-1].stop)
        wanted = None if accepted is None else accepted[rows]
        jobs.append(SlidesJob(**vars(of), slides=slides, night=night, accepted=wanted))
    for part in run_jobs(client, slides_statistics, jobs, title=f"learn {of.batch.name}"):
        total = merge_groups(total, part)
    return Added(total, night)


def keep_night(
    lab: Laboratory,
    batch: Batch,
    added: Added,
    *,
    learned: bool,
    negative: tuple[str, ...] = (),
) -> SiteNight:
    """Keep a batch's contribution to a site, with its ``negative`` slides.

    Raises:
        SiteError: the contribution is empty.
    """
    statistics = added.statistics
    if not statistics.keys:
        raise SiteError(
            f"batch {batch.name} adds nothing to site {lab.name}: fewer than {LEAST_CELLS} of its "
            "cells can be judged"
        )
    return SiteNight(
        batch=batch.name,
        attempt=batch.attempt,
        manifest_digest=batch.manifest_digest,
        slides=len(statistics.keys),
        cells=int(statistics.n.sum()),
        digest=save_night(lab.store, lab.name, arrays_to_bytes(added.to_arrays())),
        learned=learned,
        negative=negative,
    )


def is_undecided(store: Store, site: str, batch: Batch) -> bool:
    """Return whether it is still undecided if a screened batch joins its site."""
    return find_learning(store, site, batch.key) is None


def learn_screened(client: Client, store: Store, batch: Batch, seal: Seal, site: str) -> Learning:
    """Let the accepted cells of a screened batch join its site, unless the site drifts.

    The newest `WINDOW` nights that joined in this way count; older ones are removed.
    """
    with site_lease(store, site) as held:
        store = held.store
        known = load_site(store, site)
        if (night := known.night(batch.name)) is not None:
            version = known.version if night.learned else None
            reason = None if night.learned else "it was commissioned"
            learning = Learning(version=version, drift_p_value=None, reason=reason)
        else:
            learning = _decide(client, held, known, batch, seal)
        note_learning(store, site, batch.key, learning)
    if learning.reason:
        warn(f"site {site} does not learn batch {batch.name}: {learning.reason}")
    return learning


def try_learning(client: Client, store: Store, batch: Batch, seal: Seal, site: str) -> str:
    """Let a screened batch join its site, and return text that says whether it did.

    Its report is already published, and valid whatever happens here.
    """
    try:
        learning = learn_screened(client, store, batch, seal, site)
    except Exception as error:
        warn(f"site {site} could not learn batch {batch.name}: {error}")
        return f"nothing: it failed ({error}); run the same command again"
    if learning.version is None:
        return f"nothing: {learning.reason}"
    return f"the night, as {version_name(learning.version)} of the site"


def _decide(client: Client, held: Lease, known: SiteCard, batch: Batch, seal: Seal) -> Learning:
    if known.detector != seal.detector:
        return _refused(f"it was screened with another detector than the site's, {known.detector}")
    refuse_imported(known)
    store = held.store
    lab = Laboratory(client, held, known.name, known, load_detector_card(store, known.detector))
    accepted = _accepted(store, batch) & not_repeated(store, lab.model, known.nights, batch)
    added = learn_slides(client, lab.screened(batch), accepted)
    if not added.statistics.keys:
        return _refused("it has too few accepted cells that the site has not learned before")
    commissioned = known.commissioned_nights
    running = [night for night in known.nights if night.learned][-(WINDOW - 1) :]
    fixed = site_statistics(store, known.name, tuple(commissioned), lab.detector)
    recent = [
        Added.from_arrays(load_night(store, known.name, night)).statistics for night in running
    ]
    priors = site_priors(lab.own, fixed)
    p = drift_p_value(priors, fixed, [*recent, added.statistics], lab.own.priors)
    if p < LEAST_P_VALUE:
        return _refused(
            f"with it the running normal would leave the commissioned one (p = {p:.2g}): "
            "look at stain, light and focus, and commission the site again if they are right",
            p,
        )
    night = keep_night(lab, batch, added, learned=True)
    nights = [*commissioned, *running, night]
    version = make_version(lab, nights, f"learn {batch.name}", commissioned=False)
    return Learning(version=save_version(held, version).version, drift_p_value=p)


def _refused(reason: str, p: float | None = None) -> Learning:
    return Learning(version=None, drift_p_value=p, reason=reason)


def _accepted(store: Store, batch: Batch) -> Mask:
    """Mark the accepted rows of a screened batch on slides that are near enough to learn."""
    path = report_path(batch.name, batch.batch_date)
    rows = read_table(store, *path, columns=["verdict", "slide_id"])
    slides = read_table(store, *report_path(batch.name, batch.batch_date, SLIDES)).to_pylist()
    # Reports written before 0.4 do not say which slides are implausible.
    far = {row["slide_id"] for row in slides if row["shifted"] or row.get("implausible")}
    verdicts, names = rows["verdict"].to_pylist(), rows["slide_id"].to_pylist()
    return np.asarray(
        [
            verdict == Verdict.ACCEPT and name not in far
            for verdict, name in zip(verdicts, names, strict=True)
        ],
        bool,
    )
