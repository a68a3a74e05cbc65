"""Segment in steps: freeze the sources, survey them, search their fields, publish."""

import logging
import re
from bisect import bisect_left
from collections import Counter
from itertools import chain, pairwise
from pathlib import PurePosixPath
from posixpath import commonpath

import pyarrow as pa
import pyarrow.compute as pc

from flows.cluster.client import Client, open_client
from flows.cluster.executor import run_jobs
from flows.monitoring import console, logs, telemetry
from flows.prefect.decorators import task
from flows.settings import Settings
from flows.smears.jobs.photographs import SearchJob, SurveyJob, search_places, survey_sources
from storage.leases import lease
from storage.records import now
from storage.smears import segmentations
from storage.store import Store, StoreError
from tasks.images import opened_slides
from tasks.images.access import addresses, files
from tasks.images.listing import as_given, each_source, is_hidden, list_images, named
from tasks.images.manifest import SCHEMA, with_column
from tasks.reports.image_columns import failed_rows
from tasks.smears.segmentation.dicom import one_file_a_slide
from tasks.smears.segmentation.field_of_view import (
    UNINFECTED,
    measured_together,
    to_measure,
    typical_diameters,
)
from tasks.smears.segmentation.finders import OUTLINES, try_finder
from tasks.smears.segmentation.sorts import names_of_slides
from tasks.words import counted

SOURCES_A_JOB = 16
FIELDS_A_JOB = 8


def cells_of_fields(
    settings: Settings, microns_per_pixel: float | None, finder: str = OUTLINES
) -> segmentations.Cutting:
    """Return the options for cutting cells out of fields, with the settings' limits of quality."""
    return segmentations.Cutting(
        microns_per_pixel=microns_per_pixel,
        finder=finder,
        least_sharpness=settings.field_limits.least_sharpness,
        most_packed=settings.field_limits.most_packed,
    )


def cut_up(
    settings: Settings,
    name: str,
    wanted: segmentations.CutUp,
    *,
    root: str | list[str],
    wait: bool = False,
    sources: pa.Table | None = None,
) -> segmentations.Segmented:
    """Segment photographs and slides, or resume where an earlier run stopped.

    Names below the folder ``root`` distinguish slides. ``sources`` are the listed images with their
    kinds (`SORT`), single cells last; by default all are listed, and are photographs or slides.
    """
    store = Store(settings.store)
    checked = segmentations.checked_name(name)
    with lease(store, segmentations.FOLDER, checked, wait=wait, on_wait=console.tell) as held:
        store = held.store
        images = as_given(wanted.images)
        frozen = segmentations.find_segmentation(store, name)
        if frozen is None:
            listed = _listed(store, images, wanted.limit) if sources is None else sources
            frozen = segmentations.freeze_segmentation(
                store,
                name,
                _with_slides(
                    one_file_a_slide(listed, console.warn),
                    root,
                    wanted.slide_is,
                    _name_of(images) if root == images else None,
                ),
                wanted,
                now(),
            )
        else:
            _refuse_other_options(frozen, wanted)
        done = segmentations.read_segmented(store, name)
        if done is not None:
            segmentations.discard_parts(store, name)  # a run may die right after completing it
            return done
        try_finder(wanted.cutting.finder)  # before every worker reports the same error
        with open_client(settings) as client:
            with telemetry.stage("survey"):
                _survey(client, store, frozen)
            with telemetry.stage("segment"):
                _search(client, store, frozen)
        held.check()
        return _publish(store, frozen)


def _listed(store: Store, images: str | list[str], limit: int | None) -> pa.Table:
    sources = list_images(
        images,
        classes=(UNINFECTED,),
        limit=limit,
        extensions=addresses.EXTENSIONS | addresses.SLIDE_EXTENSIONS,
        trusted=store.holds,
        on_skip=console.warn,
    )
    if sources["x"].null_count < sources.num_rows:
        raise StoreError(f"{named(images)} lists regions already: screen them as they are")
    return sources


def _refuse_other_options(frozen: segmentations.Segmentation, wanted: segmentations.CutUp) -> None:
    given = (as_given(wanted.images), wanted.limit, wanted.slide_is, wanted.cutting)
    if given != (as_given(frozen.images), frozen.limit, frozen.slide_is, frozen.cutting):
        raise StoreError(
            f"segmentation {frozen.name} was started on {frozen.started_at:%Y-%m-%d %H:%M} from "
            f"{named(frozen.images)} with other options ({frozen.cutting.model_dump_json()}, slide "
            f"is {frozen.slide_is}, limit {frozen.limit}): give the same to resume it, or "
            "choose another name, or for a night another --series"
        )
    logs.log(logging.INFO, f"segmentation {frozen.name} resumes with {frozen.sources:,} sources")


def _with_slides(
    sources: pa.Table, root: str | list[str], slide_is: segmentations.SlideIs, whole: str | None
) -> pa.Table:
    """Name the slide of each source to cut up, unless the manifest does.

    Photographs that lie in the given folder itself, without further folders, are of the patient
    ``whole``; None if no folder was given, or one in which the photographs of all patients arrive.
    """
    uris = pc.coalesce(sources["source_uri"], sources["uri"]).to_pylist()
    kinds = (
        sources[segmentations.SORT].to_pylist()
        if segmentations.SORT in sources.column_names
        else ["slides" if opened_slides.is_slide(uri) else "fields" for uri in uris]
    )
    cut = len(uris) - kinds.count("cells")
    given, patients = (sources[name].to_pylist() for name in ("slide_id", "patient_id"))
    # A folder may hold photographs of several patients that a manifest names.
    alone = [
        kind == "slides" or bool(slide or patient)
        for kind, slide, patient in zip(kinds, given, patients, strict=True)
    ][:cut]
    names, of_files = (
        names_of_slides(uris[:cut], _folder_of_all(root), by, alone) for by in (slide_is, "file")
    )
    folders = {
        name
        for name, of_file in zip(names, of_files, strict=True)
        if name != of_file and not is_hidden(name)  # of which no photograph is read
    }
    loose = [
        place
        for place, one in enumerate(alone)
        if slide_is == "folder" and not one and names[place] == of_files[place]
    ]
    if len(each_source(root)) > 1:
        names = [_of_archive(uri) + name for uri, name in zip(uris, names, strict=False)]
    if folders:
        outside = f" and {counted(len(loose), 'photograph')} outside them" if loose else ""
        console.tell(
            f"{counted(len(folders), 'folder')} of photographs{outside}: taken for "
            f"{counted(len(folders) + len(loose), 'patient')} (--slide-is file if each photograph "
            "is one)"
        )
    elif whole is not None and loose:
        for place in loose:
            names[place] = whole
        console.tell(
            f"{counted(len(loose), 'photograph')} in one folder: taken for one patient, {whole} "
            "(--slide-is file if each photograph is one)"
        )
    slides = [
        slide or name
        for slide, name in zip(given, [*names, *[None] * (len(uris) - cut)], strict=True)
    ]
    return with_column(sources, "slide_id", slides)


def _name_of(images: str | list[str]) -> str | None:
    """Name the folder or archive that was given, or that of a pattern; None if it is neither."""
    if not isinstance(images, str) or addresses.in_archive(images):
        return None
    fs, path = files.filesystem(images)
    within = PurePosixPath(str(path).rstrip("/"))
    if addresses.is_pattern(within.name) and not addresses.is_pattern(str(within.parent)):
        return within.parent.name
    name = within.name
    ending = next((end for end in addresses.ARCHIVES if name.lower().endswith(end)), "")
    return name[: -len(ending)] if ending else name if fs.isdir(path) else None


def _folder_of_all(images: str | list[str]) -> str:
    folders = [_folder_of(source) for source in each_source(images)]
    # An archive counts as a folder, which names its members.
    plain = [folder for folder in folders if "://" not in folder]
    try:
        return commonpath(plain) if len(plain) > 1 else (plain or folders)[0]
    except ValueError:  # a folder here and one in an object store have nothing in common
        return ""


def _of_archive(uri: str) -> str:
    """Return the archive of an image as a folder; empty for a plain file."""
    if not addresses.in_archive(uri):
        return ""
    return f"{PurePosixPath(addresses.split_link(uri.partition('://')[2])[1]).name}/"


def _folder_of(images: str) -> str:
    if addresses.in_archive(images):
        return images
    fs, path = files.filesystem(images)
    if fs.isfile(path):
        return str(path).rpartition("/")[0]
    return str(path) if fs.exists(path) else re.split(r"[*?[]", path)[0].rpartition("/")[0]


@task
def _survey(client: Client, store: Store, frozen: segmentations.Segmentation) -> None:
    if segmentations.count_places(store, frozen.name) is not None:
        return
    done = segmentations.complete_parts(store, frozen.name, "surveys")
    cut = frozen.sources - frozen.cells
    starts = range(0, cut, SOURCES_A_JOB)
    outlined = frozen.cutting.finder == OUTLINES
    slides = segmentations.read_sources(store, frozen.name, 0, cut)["slide_id"].to_pylist()
    measured = to_measure(measured_together(slides)) if outlined else []
    jobs = [
        SurveyJob(store, frozen.name, number, frozen.cutting, *ends, _within(measured, *ends))
        for number, ends in enumerate(pairwise([*starts, cut]))
        if number not in done
    ]
    list(run_jobs(client, survey_sources, jobs, title=f"survey {frozen.name}"))
    parts = segmentations.read_parts(store, frozen.name, "surveys", len(starts))
    places = pa.concat_tables([segmentations.PLACE_SCHEMA.empty_table(), *parts])
    segmentations.write_places(store, frozen.name, _with_diameters(places), FIELDS_A_JOB)


def _within(numbers: list[int], start: int, stop: int) -> tuple[int, ...]:
    return tuple(numbers[bisect_left(numbers, start) : bisect_left(numbers, stop)])


def _with_diameters(places: pa.Table) -> pa.Table:
    """Use the diameter measured on some photographs of a slide for all of its size."""
    about = places.select(["width", "height", "is_slide"]).to_pylist()
    sizes = [
        None if row["is_slide"] or row["width"] is None else (row["width"], row["height"])
        for row in about
    ]
    diameters = typical_diameters(
        measured_together(places["slide_id"].to_pylist()), sizes, places["diameter"].to_pylist()
    )
    return with_column(places, "diameter", diameters)


@task
def _search(client: Client, store: Store, frozen: segmentations.Segmentation) -> None:
    done = segmentations.complete_parts(store, frozen.name, "fields")
    jobs = [
        SearchJob(store, frozen.name, number, frozen.cutting)
        for number in range(segmentations.count_places(store, frozen.name) or 0)
        if number not in done
    ]
    list(run_jobs(client, search_places, jobs, title=f"segment {frozen.name}"))


@task
def _publish(store: Store, frozen: segmentations.Segmentation) -> segmentations.Segmented:
    name, count = frozen.name, segmentations.count_places(store, frozen.name) or 0
    whole = segmentations.read_sources(store, name, frozen.sources - frozen.cells, frozen.sources)
    whole = whole.select(SCHEMA.names)
    parts = chain(segmentations.read_parts(store, name, "cells", count), [whole])
    manifest = segmentations.publish(store, name, segmentations.MANIFEST, SCHEMA, parts)
    fields = segmentations.publish(
        store, name, segmentations.FIELDS, segmentations.FIELD_SCHEMA,
        segmentations.read_parts(store, name, "fields", count),
    )  # fmt: skip
    table = segmentations.read_fields(store, name)
    kinds = table["kind"].drop_null().value_counts().to_pylist()
    cells = segmentations.read_parts(store, name, "cells", count)
    done = segmentations.Segmented(
        digest=frozen.digest,
        sources=frozen.sources,
        manifest_digest=manifest,
        fields_digest=fields,
        images=sum(part["failure"].null_count for part in (whole, *cells)),
        fields={each["values"]: each["counts"] for each in kinds},
        failures=dict(Counter(reason for _, reason in failed_rows(table))),
    )
    segmentations.seal_segmentation(store, name, done)
    return done
