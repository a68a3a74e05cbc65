"""The full-spectrum track of `evaluate`, on rendered cells of slides that are large enough."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from flows.evaluate import evaluate
from flows.fit import fit
from flows.options.flows import Evaluate, Fit, Train
from flows.settings import Settings
from flows.train import train
from tasks.evaluation.planted import OWN_NORMAL, POPULATION
from tasks.synthetic.rendered_cells import write_collection, write_night


@pytest.mark.slow
def test_foreign_slides_are_ordinary_and_things_are_planted_in_every_slide(
    scheduler: str, tmp_path: Path
) -> None:
    def cells(name: str, seed: int, patients: int = 12) -> str:
        write_collection(
            tmp_path / name,
            patients=patients,
            cells_per_patient=36,
            parasitized_fraction=0.4,
            seed=seed,
        )
        return str(tmp_path / name)

    write_night(
        tmp_path / "night",
        patients=1,
        cells_per_patient=4,
        parasitized_fraction=0.3,
        planted_per_kind=4,
        seed=2,
        first_patient=101,
    )
    made = Settings(
        store=str(tmp_path / "store"), cluster="scheduler", scheduler=scheduler, shard_rows=128
    )
    smears = cells("smears", seed=1)
    train(Train(images=smears, model="m", epochs=1, side=32, arithmetic="float32"), made)
    fit(Fit(images=smears, batch="smears"), made)
    outcome = evaluate(
        Evaluate(
            images=smears,
            ood=[f"far/night={tmp_path / 'night'}", f"healthy/ward={cells('ward', 7, patients=3)}"],
            attacks=["fgsm"],
            attacked=12,
            planted=[0.1, 0.3],
        ),
        made,
    )
    metrics = pq.read_table(outcome.metrics).to_pandas()
    by_slide = metrics[metrics.group == "slides as they are"]
    assert set(by_slide.set) == {"unseen patients", "ward"}
    alarms = by_slide[(by_slide.metric == "mean at 0.05")]
    assert set(alarms.detector) == {OWN_NORMAL, POPULATION}
    assert alarms.negatives[alarms.set == "ward"].tolist() == [3, 3]
    called = by_slide[by_slide.metric == "called Parasitized"]
    assert len(called) == 2
    assert called.detector.isna().all()
    planted = metrics[(metrics.group == "planted in slides") & (metrics.metric == "AUROC")]
    assert set(planted.against) == {
        f"{share} of {host}" for share in ("10%", "30%") for host in ("unseen patients", "ward")
    }
    at_home = planted[planted.against == "10% of unseen patients"]
    assert {"far/night", "defocus, level 3", "defocus, level 5"} <= set(at_home.set)
    in_ward = planted[planted.against == "10% of ward"]
    assert "far/night" in set(in_ward.set)
    assert not set(in_ward.set) & {"fgsm"}
    whole = metrics[metrics.group == "slides of one kind"]
    assert set(whole.set) == {"far/night"}
    for text in (Path(outcome.report), Path(outcome.report).with_suffix(".md")):
        assert "planted in slides" in text.read_text().lower()
    # Healthy cells of another laboratory are no abnormal images of the classic track.
    assert set(metrics[metrics.group == "healthy"].metric) == set()


def test_a_share_of_a_slide_is_less_than_all_of_it() -> None:
    with pytest.raises(ValidationError, match="less than 1"):
        evaluate(Evaluate(images="x", planted=[1.0]), Settings())
