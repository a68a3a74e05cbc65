"""Composed slides and nights of `evaluate`, on rendered cells of large enough slides."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.fit import fit
from flows.options.flows import Evaluate, Fit, Train
from flows.settings import Settings
from flows.smears.evaluate import evaluate
from flows.train import train
from storage.reports.sql import answer
from storage.store import Store
from tasks.metrics.metrics import SINGLE
from tasks.smears.evaluation.compositions import OWN_NORMAL, POPULATION, SHARES
from tasks.smears.evaluation.measures import HOME
from tests.support.images import write_cells, write_mixed_night


@pytest.mark.slow
def test_foreign_slides_are_ordinary_and_every_share_of_every_set_is_composed(
    scheduler: str, tmp_path: Path
) -> None:
    def cells(name: str, seed: int, patients: int = 12) -> str:
        write_cells(tmp_path / name, patients, 36, seed=seed, parasitized=0.4)
        return str(tmp_path / name)

    write_mixed_night(tmp_path / "night", 1, 4, 4, parasitized=0.3)
    made = Settings(
        store=str(tmp_path / "store"), cluster="scheduler", scheduler=scheduler, shard_rows=128
    )
    smears = cells("smears", seed=1)
    train.fn(Train(images=smears, model="m", epochs=1, side=32, arithmetic="float32"), made)
    fit.fn(Fit(images=smears, batch="smears"), made)
    outcome = evaluate.fn(
        Evaluate(
            images=smears,
            ood=[f"far/night={tmp_path / 'night'}", f"healthy/ward={cells('ward', 7, patients=3)}"],
            attacks=["fgsm"],
            attacked=12,
        ),
        made,
    )
    results = pq.read_table(outcome.results).to_pandas()
    alone = results[results.share == 0]
    assert set(alone.set) == {HOME, "healthy/ward"}
    assert set(alone.composition) == {"slides", "night"}
    alarms = alone[(alone.measure == "false alarms at 0.05") & (alone.composition == "slides")]
    assert set(alarms.detector) == {OWN_NORMAL, POPULATION}
    assert alarms.ordinary[alarms.set == "healthy/ward"].tolist() == [108, 108]
    called = alone[alone.measure == "called Parasitized"]
    assert len(called) == 4
    assert called.detector.isna().all()
    composed = results[(results.share > 0) & (results.measure == "caught at 0.05")]
    assert set(composed.share) == set(SHARES)
    compositions = {f"{kind} of {host}" for kind in ("slides", "night") for host in set(alone.set)}
    assert set(composed.composition) == {*compositions, "slides", "night"}
    at_home = composed[composed.composition == f"slides of {HOME}"]
    assert {"far/night", "healthy/ward", "attack/fgsm"} <= set(at_home.set)
    assert set(at_home.strength[at_home.set == "corruption/defocus"]) == {3.0, 5.0}
    assert {"far/night", HOME} <= set(composed.set[composed.composition == "night of healthy/ward"])
    assert set(composed.share[composed.composition == "slides"]) == {1.0}
    page = Path(outcome.report).read_text()
    assert "Slides and nights" in page
    assert "night of healthy/ward" in page
    # Healthy cells of another laboratory are no abnormal images of the classic track.
    single = results[results.composition == SINGLE]
    assert not single.set.str.startswith("healthy").any()
    with answer(Store(made.store), "FROM evaluations SELECT count(*) AS n") as rows:
        assert rows.read_all()["n"].to_pylist() == [len(results)]
