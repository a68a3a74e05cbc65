"""What is kept of a second look is what the network says of the image, turned and filtered."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.jobs.networks import load_classifier, load_inference
from flows.jobs.second_look import LookJob, OrdinaryJob, look_twice, ordinary_losses
from storage.batches.features import read_block
from storage.batches.ledger import looks_path
from storage.batches.manifests import read_manifest
from storage.models.detectors import DetectorCard
from storage.parquet import read_table
from tasks.detector.calibration import Calibration
from tasks.detector.detector import Detector, fit_gaussians
from tasks.detector.moments import merge_tree
from tasks.detector.probabilities import probabilities
from tasks.images.regions import image_refs
from tasks.network.extraction import load_images
from tasks.network.training import predict
from tasks.second_look import settling
from tasks.second_look.changed_rows import MADE, Looked
from tasks.second_look.settling import is_settled
from tasks.second_look.stability import NOISE, losses, with_noise
from tasks.second_look.views import VIEWS, blurred, median_filtered, turned
from tests.support.models import CLASSES
from tests.support.shards import Night, keep_detector, start

PLACES = (1, 8, 9, 12, 23)  # in all three shards


@pytest.fixture
def night(store_with_model: object, cells: Path, tmp_path: Path) -> Night:
    """A night of images of one's own, so that they can vanish."""
    shutil.copytree(cells, tmp_path / "images")
    return start(store_with_model, tmp_path / "images")  # type: ignore[arg-type]


@pytest.fixture
def detector(night: Night) -> DetectorCard:
    """A detector for which a loss of 1 of log-odds is just unstable."""
    calibration = Calibration(np.zeros(2), np.ones(2), np.arange(5.0), np.full(5, 0.2))
    stability = Calibration(np.zeros(2), np.ones(2), np.linspace(-1, 1, 100), np.full(100, 0.01))
    total = merge_tree(result.statistics for result in night.run(fit=True))  # type: ignore[misc]
    return keep_detector(night.store, Detector(fit_gaussians(total), calibration, None, stability))


def look(
    night: Night, card: DetectorCard, places: tuple[int, ...] = PLACES, **other: object
) -> Looked:
    job = LookJob(night.store, night.batch, night.card, card, 0, 0, places, **other)  # type: ignore[arg-type]
    look_twice(job)
    path = looks_path(night.batch, "d", 0)
    return Looked.from_table(read_table(night.store, *path), CLASSES)


def pixels_of(night: Night, places: tuple[int, ...]) -> np.ndarray:
    refs = image_refs(read_manifest(night.store, night.batch).take(list(places)))
    side = load_inference(night.store, night.card).spec.side
    return np.stack([loaded.pixels for loaded in load_images(refs, side, 1)])


def until_settled(views: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (n, C) by as many of the views (V, n, C) as an image needs, NaN if by one."""
    wanted = np.full(views.shape[1:], np.nan)
    for image in range(views.shape[1]):
        for count in (1, 2, 3, 4, 6, 8):
            now = probabilities(views[:count, image].mean(axis=0)[np.newaxis], temperature)
            wanted[image] = now[0] if count > 1 else np.nan
            if is_settled(now, count)[0]:
                break
    return wanted


@pytest.mark.parametrize("between", [0.0, 0.02, 9.0])
def test_it_is_what_the_network_says_of_the_turned_and_filtered_image(
    night: Night, detector: DetectorCard, between: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "BETWEEN_VIEWS", between)
    found = look(night, detector)
    pixels = pixels_of(night, PLACES)
    network = load_classifier(night.store, night.card)
    first = predict(network, pixels)
    views = predict(network, turned(pixels, range(VIEWS))).reshape(VIEWS, len(PLACES), -1)
    wanted = until_settled(views, night.card.temperature)
    after = [predict(network, each) for each in (blurred(pixels), median_filtered(pixels))]
    lost = losses(first, np.stack(after, axis=1)).max(axis=1)
    assert found.rows.tolist() == list(PLACES)
    assert found.outcome == [MADE] * len(PLACES)
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-4)
    np.testing.assert_allclose(found.stability, lost, atol=1e-3)
    assert found.unstable.tolist() == (lost > np.linspace(-1, 1, 100)[-5]).tolist()


def test_looking_again_writes_the_same_bytes(night: Night, detector: DetectorCard) -> None:
    written = []
    for _ in range(2):
        look(night, detector)
        written.append(night.store.read_bytes(*looks_path(night.batch, "d", 0)))
    assert written[0] == written[1]


def test_an_image_that_is_not_the_same_any_more_says_so_and_the_others_are_looked_at(
    night: Night, detector: DetectorCard
) -> None:
    whole = look(night, detector)
    uris = read_manifest(night.store, night.batch)["uri"].to_pylist()
    gone, changed, cut = (Path(uris[row].removeprefix("file://")) for row in PLACES[:3])
    gone.unlink()
    content = bytearray(changed.read_bytes())
    content[-9] ^= 1
    changed.write_bytes(content)
    os.truncate(cut, 9)
    found = look(night, detector, killers=frozenset({3}))
    reasons = [each.partition(":")[0] for each in found.outcome]
    assert reasons == ["unreadable", "changed", "unreadable", "killed_worker", MADE]
    assert np.isnan(found.stability[:4]).all()
    assert np.isnan(found.probabilities[:4]).all()
    assert not found.unstable[:4].any()
    np.testing.assert_allclose(found.probabilities[4], whole.probabilities[4], atol=1e-5)
    probed = LookJob(night.store, night.batch, night.card, detector, 0, 0, PLACES)
    assert (probed.rows(), probed.quarantine([1]).killers) == (5, {1})
    probed.probe(4)


def test_ordinary_losses_are_of_images_and_their_noisy_copies(night: Night) -> None:
    block = read_block(night.store, "tiny", "night", 0, 24) if night.run() else None
    assert block is not None
    refs = image_refs(read_manifest(night.store, night.batch))
    images = tuple((refs[row], block.image_id[row].tobytes()) for row in PLACES)
    spoilt = (*images, (refs[0], images[0][1]))
    there, found = ordinary_losses(OrdinaryJob(night.store, night.card, spoilt))
    assert there.tolist() == [True] * len(PLACES) + [False]
    assert found.shape == (len(PLACES), 1 + len(NOISE), 2)
    network, pixels = load_classifier(night.store, night.card), pixels_of(night, PLACES)
    seeds = np.asarray([int.from_bytes(each[:4], "big") for _, each in images])
    for k, size in enumerate((0, *NOISE)):
        noisy = with_noise(pixels, size, seeds)
        after = [predict(network, each) for each in (blurred(noisy), median_filtered(noisy))]
        wanted = losses(predict(network, noisy), np.stack(after, axis=1))
        np.testing.assert_allclose(found[:, k], wanted, atol=1e-3)
