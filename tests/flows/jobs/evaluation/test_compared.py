"""The detectors of an evaluation, fitted and scored in this process on features of a few cells."""

from typing import Any

import pyarrow as pa

from flows.jobs.evaluation.compared import FitJob, fit_tap, score_part
from flows.jobs.evaluation.treated import PartJob, Run, make_part, parts
from storage.batches.manifests import read_manifest
from storage.parquet import write_table
from storage.reports.evaluations import images_path
from tasks.evaluation.baselines import SCORES
from tasks.evaluation.parts import CLEAN, FILE
from tasks.network.backbones import every_stage
from tasks.network.spec import NetworkSpec
from tests.support.shards import add_detector, start


def test_every_compared_detector_scores_images(store_with_model: Any, cells: Any) -> None:
    night = start(store_with_model, cells)
    card, _ = add_detector(night)
    table = read_manifest(night.store, night.batch)
    for name in ("fitted", "test"):
        listed = table.append_column("group", table["patient_id"].cast(pa.string()))
        write_table(night.store, listed, *images_path("e", card.name, name))
    run = Run(night.store, "e", card, night.card, ())

    def made(images: str) -> tuple[PartJob, ...]:
        jobs = tuple(parts(run, images, CLEAN, 24, 16))
        for job in jobs:
            make_part(job)
        return jobs

    fitted = made("fitted")
    for tap in every_stage(NetworkSpec.from_dict(run.model.network)):
        fit_tap(FitJob(run, tap, fitted))
    scored = score_part(made("test")[0]).forms[FILE]
    assert scored.scores.keys() == SCORES.keys()
