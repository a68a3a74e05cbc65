import io
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from flows.jobs import explanations as exhibits
from flows.jobs.explanations import ExhibitJob, make_exhibits
from flows.jobs.networks import load_inference
from storage.models.classifiers import load_card
from storage.models.detectors import DetectorCard
from storage.store import Store
from tasks.detector.calibration import calibrate, log_distance
from tasks.detector.detector import Detector
from tasks.detector.mahalanobis import class_distances, tied_gaussian
from tasks.detector.moments import moments
from tasks.images.regions import Found, ImageRef, whole_file
from tasks.network.extraction import extract
from tasks.visualisation.thumbnails import THUMBNAIL, Exhibit


@pytest.fixture
def job(
    store_with_model: Store, cells: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ExhibitJob:
    """Cells to look at, one of them gone, one changed and one not an image any more."""
    card = load_card(store_with_model, "tiny")
    paths = sorted(cells.rglob("*.png"))
    network = load_inference(store_with_model, card)
    features = extract(
        network, [whole_file(str(path)) for path in paths], tap_widths=card.tap_widths
    )
    labels = np.arange(len(paths)) % 2
    gaussians = {
        name: tied_gaussian(moments(features.taps[name].astype(np.float64), labels, 2))
        for name in sorted(features.taps)
    }
    distances = np.stack(
        [class_distances(g, features.taps[n]).min(axis=1) for n, g in gaussians.items()], 1
    )
    detector = Detector(gaussians, calibrate(log_distance(distances), np.arange(len(paths))))
    monkeypatch.setattr(exhibits, "load_fitted_detector", lambda *_: detector)
    changed, broken = tmp_path / "changed.png", tmp_path / "broken.png"
    changed.write_bytes(paths[0].read_bytes())
    broken.write_bytes(b"not an image")
    wanted = [
        *((path, digest(path)) for path in paths[:3]),
        (tmp_path / "gone.png", "0" * 64),
        (changed, digest(paths[1])),
        (broken, digest(broken)),
        (paths[3], digest(paths[3])),
    ]
    cells = tuple((whole_file(str(path)), image_id) for path, image_id in wanted)
    return ExhibitJob(store_with_model, card, cast(DetectorCard, None), cells)


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def test_cells_come_back_in_order_and_what_cannot_be_seen_says_why(job: ExhibitJob) -> None:
    found = make_exhibits(job)
    assert [exhibit.missing for exhibit in found] == [
        None,
        None,
        None,
        "the image cannot be read any more",
        "the file has changed since it was screened",
        "the image cannot be decoded: not_an_image",
        None,
    ]
    for exhibit in found:
        if exhibit.missing:
            assert exhibit == Exhibit(missing=exhibit.missing)
            continue
        assert exhibit.thumbnail is not None
        assert exhibit.heat is not None
        assert exhibit.explanation is not None
        sizes = [Image.open(io.BytesIO(file)).size for file in (exhibit.thumbnail, exhibit.heat)]
        assert sizes[0] == sizes[1]
        assert max(sizes[0]) <= THUMBNAIL
        assert len(exhibit.thumbnail) < 20_000


def test_the_same_cells_give_the_same_bytes_in_whatever_company(job: ExhibitJob) -> None:
    whole = make_exhibits(job)
    alone = make_exhibits(ExhibitJob(job.store, job.model, job.detector, job.cells[6:]))
    assert whole[6].thumbnail == alone[0].thumbnail
    again = make_exhibits(job)
    assert [exhibit.heat for exhibit in again] == [exhibit.heat for exhibit in whole]


def test_no_cells_give_no_exhibits(job: ExhibitJob) -> None:
    assert make_exhibits(ExhibitJob(job.store, job.model, job.detector, ())) == []


def test_a_cell_that_kills_workers_is_missing_and_the_others_are_as_they_were(
    job: ExhibitJob,
) -> None:
    whole, rest = make_exhibits(job), make_exhibits(job.quarantine([1]))
    assert rest[1] == Exhibit(missing="this image alone kills the worker that decodes it")
    assert rest[0].thumbnail == whole[0].thumbnail
    assert rest[2].thumbnail == whole[2].thumbnail
    assert [exhibit.missing for exhibit in rest[2:]] == [exhibit.missing for exhibit in whole[2:]]


def test_a_probe_looks_at_one_cell(job: ExhibitJob, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    honest = exhibits.find_unchanged

    def find_unchanged(ref: ImageRef, image_id: str) -> Found:
        seen.append(image_id)
        return honest(ref, image_id)

    monkeypatch.setattr(exhibits, "find_unchanged", find_unchanged)
    assert job.rows() == 7
    job.quarantine([2]).probe(2)
    assert seen == [job.cells[2][1]]


def test_of_a_large_image_no_more_is_kept_than_a_page_shows(
    job: ExhibitJob, tmp_path: Path
) -> None:
    """A job of twelve images at the limit of pixels must not need the memory of twelve."""
    Image.new("RGB", (3000, 2000), (200, 150, 160)).save(tmp_path / "large.png")
    large = (whole_file(str(tmp_path / "large.png")), digest(tmp_path / "large.png"))
    seen = exhibits._see(replace(job, cells=(large,)), 0, 32, False)
    assert isinstance(seen, exhibits._Seen)
    assert seen.pixels.shape == (32, 32, 3)
    assert max(seen.small.size) == THUMBNAIL
    (shown,) = make_exhibits(replace(job, cells=(large,)))
    assert shown.thumbnail is not None
