"""Learn nights of a site: what they add, the version that they make, and whether it drifts."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from flows.jobs.detectors import load_fitted_detector
from flows.jobs.scoring import NightJob, SlideRows, night_normal
from flows.monitoring.console import tell, warn
from flows.sites.jobs import (
    EvidenceJob,
    Judged,
    SlidesJob,
    judge_slides,
    night_to_arrays,
    site_statistics,
    slides_statistics,
)
from flows.stages.jobs import run_jobs
from flows.stages.scoring import plan_parts
from storage.arrays import arrays_to_bytes
from storage.batches.ledger import Seal
from storage.batches.manifests import Batch, load_batch
from storage.leases import Lease, lease
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard, load_detector_card, load_model_of
from storage.models.sites import (
    FOLDER,
    Learning,
    SiteCard,
    SiteNight,
    find_learning,
    load_site,
    note_learning,
    save_night,
    save_site,
)
from storage.models.statistics import version_name
from storage.parquet import read_table
from storage.records import now
from storage.reports.tables import SLIDES, report_path
from storage.store import Store, StoreError, check_name, digest_of
from tasks.detector.groups import GroupStatistics, merge_groups
from tasks.detector.own_normal import OwnNormal
from tasks.detector.slide_normal import Choices
from tasks.sites.commissioning import OWN, Figure, false_alarms, site_warnings
from tasks.sites.drift import LEAST_P_VALUE, drift_p_value
from tasks.sites.learning import (
    LEAST_CELLS,
    NightNormal,
    SiteNormal,
    merged,
    site_normal,
    site_priors,
)
from tasks.types import Mask, Verdict

WINDOW = 30  # nights that were learned by themselves, beside those that a person commissioned
CALIBRATING = 200  # slides at most, spread evenly over commissioned nights: each is scored anew
SLIDES_A_JOB = 8

Other = tuple[str, dict[str, NDArray[np.float32]], NDArray[np.intp]]  # name, taps, classes


class SiteError(Exception):
    """A site cannot be made of these nights."""


@dataclass(frozen=True)
class Version:
    """A version that is about to be kept, with all that its report says of its slides."""

    card: SiteCard
    content: bytes
    normal: SiteNormal
    judged: list[Judged]
    alarms: list[Figure]


def site_lease(store: Store, site: str) -> AbstractContextManager[Lease]:
    """Take the lease of a site, after waiting for the run that holds it."""
    check_name("site", site)
    return lease(store, FOLDER, site, wait=True, on_wait=tell)


def population(store: Store, detector: DetectorCard) -> OwnNormal:
    """Load how fitted slides differ; SiteError where the detector does not know it."""
    own = load_fitted_detector(store, detector).own
    if own is None:
        raise SiteError(
            f"detector {detector.name} does not know how slides differ, so no site can be learned "
            "with it: fit a batch that names at least 8 patients or slides"
        )
    return own


def slides_in_parts(store: Store, batch: Batch) -> list[tuple[SlideRows, ...]]:
    """List the slides of a batch in parts, each the work of a job."""
    return [part.slides for part in plan_parts(store, batch, by_slide=True)]


def learn_slides(
    client: Client,
    store: Store,
    batch: Batch,
    card: ModelCard,
    detector: DetectorCard,
    accepted: Mask | None = None,
) -> tuple[GroupStatistics, NightNormal | None]:
    """Compute what a batch whose features are complete adds to a site.

    Args:
        client: of the cluster.
        store: where it is.
        batch: which.
        card: of the model.
        detector: the site's.
        accepted: (n,) rows of the batch that may be learned; None where all may.

    Returns:
        The statistics, and the night's reference, where slides have too few cells.
    """
    total, night = merged([], population(store, detector)), None
    groups = slides_in_parts(store, batch)
    if any(slide.stop - slide.start < Choices.least for some in groups for slide in some):
        job = NightJob(store, batch, card, detector, least=LEAST_CELLS)
        (found,) = run_jobs(client, night_normal, [job], title=f"normal of {batch.name}")
        night = NightNormal(found.normal, found.rows)
    jobs = []
    for slides in groups:
        rows = slice(slides[0].start, slides[-1].stop)
        wanted = None if accepted is None else accepted[rows]
        jobs.append(SlidesJob(store, batch, card, detector, slides, night, wanted))
    for part in run_jobs(client, slides_statistics, jobs, title=f"learn {batch.name}"):
        total = merge_groups(total, part)
    return total, night


def keep_night(
    store: Store,
    site: str,
    batch: Batch,
    added: tuple[GroupStatistics, NightNormal | None],
    *,
    learned: bool,
) -> SiteNight:
    """Keep what a batch adds to a site, as `learn_slides` has found it.

    Raises:
        SiteError: it adds nothing.
    """
    statistics, _ = added
    if not statistics.keys:
        raise SiteError(
            f"batch {batch.name} adds nothing to site {site}: fewer than {LEAST_CELLS} of its "
            "cells can be judged"
        )
    return SiteNight(
        batch=batch.name,
        attempt=batch.attempt,
        manifest_digest=batch.manifest_digest,
        slides=len(statistics.keys),
        cells=int(statistics.n.sum()),
        digest=save_night(store, site, arrays_to_bytes(night_to_arrays(*added))),
        learned=learned,
    )


def make_version(
    client: Client,
    store: Store,
    site: str,
    known: SiteCard | None,
    nights: Sequence[SiteNight],
    detector: DetectorCard,
    operation: str,
    *,
    commissioned: bool,
    planted: Sequence[Other] = (),
    spoilt_slides: int = 0,
) -> Version:
    """Make the next version of a site; features of its commissioned nights are read again.

    Args:
        client: of the cluster.
        store: where the site is.
        site: its name.
        known: its newest version, if any.
        nights: of the new version.
        detector: of the site.
        operation: how the version came about.
        commissioned: whether a person chose its nights.
        planted: other things that its slides are tried on.
        spoilt_slides: of how many slides spoilt cells are tried beside.
    """
    own, model = population(store, detector), load_model_of(store, detector)
    statistics = site_statistics(store, site, tuple(nights), detector)
    # Accepted cells calibrate nothing: what was not accepted is missing among them.
    examined = [night for night in nights if not night.learned]
    jobs = [
        replace(job, nights=tuple(nights))
        for job in _evidence_jobs(store, site, examined, model, detector, planted, spoilt_slides)
    ]
    judged = [each for some in run_jobs(client, judge_slides, jobs, title=f"site {site}")
              for each in some]  # fmt: skip
    evidence = [each.evidence for each in judged]
    normal = site_normal(own, statistics, evidence)
    alarms = false_alarms(own, normal.reference, evidence)
    content = arrays_to_bytes(normal.to_arrays())
    version = known.version + 1 if known else 1
    card = SiteCard(
        created_at=now(),
        digest=digest_of(content),
        name=site,
        version=version,
        parent=known.version if known else None,
        operation=operation,
        commissioned=version if commissioned or known is None else known.commissioned,
        detector=detector.name,
        detector_digest=detector.digest,
        model=model.name,
        model_digest=model.digest,
        statistics_version=detector.statistics_version,
        nights=list(nights),
        slides=sum(night.slides for night in nights),
        cells=sum(night.cells for night in nights),
        calibrating_slides=len(evidence),
        false_alarms={f"{a.level:g}": a.found.value for a in alarms if a.name == OWN},
        warnings=site_warnings(len(evidence)),
    )
    return Version(card, content, normal, judged, alarms)


def _evidence_jobs(
    store: Store,
    site: str,
    nights: Sequence[SiteNight],
    model: ModelCard,
    detector: DetectorCard,
    planted: Sequence[Other],
    spoilt_slides: int,
) -> list[EvidenceJob]:
    """Choose the slides that calibrate, spread evenly over the nights, and make jobs of them."""
    slides = [
        (batch, slide)
        for batch in (load_batch(store, night.batch, night.attempt) for night in nights)
        for some in slides_in_parts(store, batch)
        for slide in some
    ]
    most = min(CALIBRATING, len(slides))
    chosen = [slides[place * len(slides) // most] for place in range(most)]
    every = max(1, most // spoilt_slides) if spoilt_slides else 0
    jobs = []
    for place in range(0, most, SLIDES_A_JOB):
        some = chosen[place : place + SLIDES_A_JOB]
        for key in dict.fromkeys((batch.key, _is_tried(place + i, every))
                                 for i, (batch, _) in enumerate(some)):  # fmt: skip
            mine = [
                (batch, slide)
                for i, (batch, slide) in enumerate(some)
                if (batch.key, _is_tried(place + i, every)) == key
            ]
            jobs.append(EvidenceJob(
                store, mine[0][0], model, detector, site, tuple(nights),
                tuple(slide for _, slide in mine), tuple(planted), spoil=key[1],
            ))  # fmt: skip
    return jobs


def _is_tried(place: int, every: int) -> bool:
    return bool(every) and place % every == 0


def save_version(held: Lease, version: Version) -> SiteCard:
    """Keep a version, while the run still holds the lease of its site."""
    held.check()
    save_site(held.store, version.card, version.content)
    return version.card


def refuse_imported(site: SiteCard) -> None:
    """Raise SiteError where features of a site's nights are in another store."""
    if any(night.imported for night in site.nights):
        raise SiteError(
            f"site {site.name} was imported, and the features of its nights are not in this store: "
            "change it where they are and import it again, or commission another --site here"
        )


def retract_night(client: Client, store: Store, site: str, batch: str) -> SiteCard:
    """Take a night out of a site, exactly, and calibrate anew.

    Raises:
        StoreError: there is no such site.
        SiteError: the night is not in it, or is the only one that was commissioned.
    """
    with site_lease(store, site) as held:
        store = held.store
        known = load_site(store, site)
        refuse_imported(known)
        left = [night for night in known.nights if night.batch != batch]
        if len(left) == len(known.nights):
            have = ", ".join(night.batch for night in known.nights)
            raise SiteError(f"night {batch} is not in {known.label}; there are: {have}")
        if all(night.learned for night in left):
            raise SiteError(
                f"{batch} is the only commissioned night of site {site}: commission another one "
                "before it is taken out"
            )
        detector = load_detector_card(store, known.detector)
        version = make_version(
            client, store, site, known, left, detector, f"retract {batch}", commissioned=True
        )
        return save_version(held, version)


def is_undecided(store: Store, site: str, batch: Batch) -> bool:
    """Tell whether it was not decided yet if a screened batch joins its site."""
    return find_learning(store, site, batch.key) is None


def learn_screened(client: Client, store: Store, batch: Batch, seal: Seal, site: str) -> Learning:
    """Let the accepted cells of a screened batch join its site, unless the site drifts.

    The newest `WINDOW` nights that were learned so count; older ones are taken out again.
    """
    with site_lease(store, site) as held:
        store = held.store
        known = load_site(store, site)
        if (night := known.night(batch.name)) is not None:
            version = known.version if night.learned else None
            reason = None if night.learned else "it was commissioned"
            learning = Learning(version=version, drift_p_value=None, reason=reason)
        else:
            learning = _decide(client, store, held, known, batch, seal)
        note_learning(store, site, batch.key, learning)
    if learning.reason:
        warn(f"site {site} does not learn batch {batch.name}: {learning.reason}")
    return learning


def try_learning(client: Client, store: Store, batch: Batch, seal: Seal, site: str) -> str:
    """Let a screened batch join its site, and say for a person whether it did.

    Its report is published by then, and good whatever happens here.
    """
    try:
        learning = learn_screened(client, store, batch, seal, site)
    except Exception as error:
        warn(f"site {site} could not learn batch {batch.name}: {error}")
        return f"nothing, for it failed ({error}): run the same command again"
    if learning.version is None:
        return f"nothing: {learning.reason}"
    return f"the night, as {version_name(learning.version)} of the site"


def _decide(
    client: Client, store: Store, held: Lease, known: SiteCard, batch: Batch, seal: Seal
) -> Learning:
    if known.detector != seal.detector:
        return _refused(f"it was screened with another detector than the site's, {known.detector}")
    refuse_imported(known)
    detector = load_detector_card(store, known.detector)
    card, own = load_model_of(store, detector), population(store, detector)
    added = learn_slides(client, store, batch, card, detector, _accepted(store, batch))
    if not added[0].keys:
        return _refused("it has too few accepted cells")
    commissioned = known.commissioned_nights
    running = [night for night in known.nights if night.learned][-(WINDOW - 1) :]
    fixed = site_statistics(store, known.name, tuple(commissioned), detector)
    recent = site_statistics(store, known.name, tuple(running), detector)
    p = drift_p_value(site_priors(own, fixed), fixed, merge_groups(recent, added[0]))
    if p < LEAST_P_VALUE:
        return _refused(
            f"with it the running normal would differ from the commissioned one (p = {p:.2g}): "
            "look at stain, light and focus, and commission the site again if they are right",
            p,
        )
    night = keep_night(store, known.name, batch, added, learned=True)
    nights = [*commissioned, *running, night]
    version = make_version(
        client, store, known.name, known, nights, detector, f"learn {batch.name}",
        commissioned=False,
    )  # fmt: skip
    return Learning(version=save_version(held, version).version, drift_p_value=p)


def _refused(reason: str, p: float | None = None) -> Learning:
    return Learning(version=None, drift_p_value=p, reason=reason)


def _accepted(store: Store, batch: Batch) -> Mask:
    """Mark the rows of a screened batch that were accepted, and whose slide is not shifted."""
    path = report_path(batch.name, batch.batch_date)
    rows = read_table(store, *path, columns=["verdict", "slide_id"])
    slides = read_table(
        store, *report_path(batch.name, batch.batch_date, SLIDES), columns=["slide_id", "shifted"]
    )
    shifted = {row["slide_id"] for row in slides.to_pylist() if row["shifted"]}
    verdicts, names = rows["verdict"].to_pylist(), rows["slide_id"].to_pylist()
    return np.asarray(
        [
            verdict == Verdict.ACCEPT and name not in shifted
            for verdict, name in zip(verdicts, names, strict=True)
        ],
        bool,
    )


def unchanged(known: SiteCard | None, batch: Batch, detector: DetectorCard) -> bool:
    """Tell whether a site has this very batch already, learned with this detector."""
    if known is None or known.detector_digest != detector.digest:
        return False
    night = known.night(batch.name)
    if night is None or night.learned:
        return False
    return (night.attempt, night.manifest_digest) == (batch.attempt, batch.manifest_digest)


def refuse_unknown(site: str, known: SiteCard | None, model: ModelCard) -> None:
    """Raise StoreError where a site's nights were extracted by another model."""
    if known is not None and known.model_digest != model.digest:
        raise StoreError(
            f"site {site} was learned with model {known.model}, not with {model.name}: choose "
            "another --site for another model"
        )
