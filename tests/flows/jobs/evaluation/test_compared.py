"""The detectors of an evaluation, fitted and scored in this process on features of a few cells."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.jobs.evaluation.compared import FitJob, fit_tap, score_part
from flows.jobs.evaluation.treated import PartJob, Run, load_detector, make_part, parts, read_part
from storage.batches.manifests import read_manifest
from storage.parquet import write_table
from storage.reports.evaluations import images_path
from tasks.evaluation.baselines import BOTH, SCORES, STABILITY, seen_of
from tasks.evaluation.parts import CLEAN, FILE, Treatment
from tasks.network.backbones import every_stage
from tasks.network.spec import NetworkSpec
from tasks.second_look.stability import losses
from tests.support.shards import add_detector, start

NOISY = Treatment("noise", "noise", 4.0)


@pytest.fixture
def run(store_with_model: Any, cells: Any) -> Run:
    """An evaluation whose images are all those of a night."""
    night = start(store_with_model, cells)
    card, _ = add_detector(night)
    table = read_manifest(night.store, night.batch)
    for name in ("fitted", "ordinary", "test"):
        listed = table.append_column("group", table["patient_id"].cast(pa.string()))
        write_table(night.store, listed, *images_path("e", card.name, name))
    return Run(night.store, "e", card, night.card, ())


def made(run: Run, images: str, treatment: Treatment = CLEAN) -> tuple[PartJob, ...]:
    jobs = tuple(parts(run, images, treatment, 24, 16))
    for job in jobs:
        make_part(job)
    return jobs


def fit(run: Run, *ordinary: tuple[PartJob, ...]) -> None:
    fitted = made(run, "fitted")
    for tap in every_stage(NetworkSpec.from_dict(run.model.network)):
        fit_tap(FitJob(run, tap, fitted, ordinary))


def test_noise_is_added_to_pixels_of_the_network_and_is_the_image_s_own(run: Run) -> None:
    clean, noisy = (read_part(made(run, "ordinary", each)[1]) for each in (CLEAN, NOISY))
    assert clean.pictures.changed is not None
    assert noisy.pictures.changed is not None
    before, after = (part.pictures.changed.astype(int) for part in (clean, noisy))  # type: ignore[union-attr]
    assert set(np.unique(np.abs(after - before))) <= {0, 1, 2, 3, 4}
    inside = (before >= 4) & (before <= 251)
    assert set(np.unique(np.abs(after - before)[inside])) == {4}


def test_a_second_look_is_compared_where_there_are_images_to_learn_it_from(run: Run) -> None:
    fit(run, made(run, "ordinary"), made(run, "ordinary", NOISY))
    (job, _) = made(run, "test")
    scored = score_part(job).forms[FILE]
    assert {*SCORES, STABILITY, BOTH} <= set(scored.scores)
    evidence = read_part(job).forms[FILE]
    seen = seen_of(evidence, load_detector(run))
    assert scored.looked is not None
    np.testing.assert_allclose(scored.looked, seen.vectors)
    filtered = np.stack([evidence.filtered[name].logits for name in ("blur", "median")], axis=1)
    lost = losses(evidence.logits, filtered)
    np.testing.assert_allclose(seen.losses, lost)
    # The least stable image is the one that loses most, where one filter decides.
    assert np.isfinite(scored.scores[BOTH]).all()
    assert scored.scores[STABILITY].argmax() in lost.argmax(axis=0)


def test_without_such_images_the_others_are_compared(run: Run) -> None:
    fit(run)
    scored = score_part(made(run, "test")[0]).forms[FILE]
    assert set(SCORES) <= set(scored.scores)
    assert STABILITY not in scored.scores
    assert scored.looked is None
