import numpy as np
import pytest

from tasks.detector.slides.smears import A_NIGHT, ONE_SLIDE
from tasks.evaluation.metrics import Metric, Subject
from tasks.evaluation.planted import Cells
from tasks.evaluation.whole_nights import companies, judge_night, night_metrics
from tasks.laboratories.learning import SlideCells
from tests.support.altered import AWAY, NOWHERE, own, smear

FAR = 2 * AWAY * NOWHERE


def as_cells(made: SlideCells) -> Cells:
    n = len(made.rows)
    taps = {tap: values.astype(np.float32) for tap, values in made.taps.items()}
    names = np.asarray([str(row) for row in range(n)])
    return Cells(taps, made.predicted, np.full(n, "s"), names)


def test_images_are_tried_alone_in_four_sizes_and_in_mixed_company() -> None:
    found = {company.name: company for company in companies(400, 600, "patients")}
    assert [name for name in found if name.startswith("a night")] == [
        "a night of 1", "a night of 5", "a night of 40", "a night of 500",
    ]  # fmt: skip
    assert found["one slide"].group is ONE_SLIDE
    for share in (10, 50, 67, 90):
        company = found[f"{share}% of patients, no names"]
        assert company.group is A_NIGHT
        for ordinary, strange in company.nights:
            assert len(strange) / (len(strange) + len(ordinary)) == pytest.approx(
                share / 100, abs=0.01
            )
    assert not [each for each in companies(0, 600, "") if each.name.endswith("no names")]


def test_few_images_are_a_night_of_as_many_as_there_are() -> None:
    names = [company.name for company in companies(0, 30, "")]
    assert names == ["a night of 1", "a night of 5", "a night of 30", "one slide"]


def values(metrics: list[Metric], metric: str) -> dict[str, float]:
    return {
        each.subject.against or "": each.found.value for each in metrics if each.metric == metric
    }


def test_rubbish_is_caught_in_every_company_and_the_ordinary_keep_their_level() -> None:
    subject = Subject("m", 0, "whole nights", "rubbish")
    rubbish, ordinary = as_cells(smear(1, FAR, n=300)), as_cells(smear(0, n=300))
    alone = night_metrics(subject, own(), None, rubbish)
    assert set(values(alone, "caught at 0.05")) >= {"a night of 1", "a night of 300", "one slide"}
    assert not values(alone, "AUROC")
    home = Subject("m", 0, "whole nights", "rubbish", against="patients")
    mixed = night_metrics(home, own(), ordinary, rubbish)
    caught = values(alone, "caught at 0.05") | values(mixed, "caught at 0.05")
    assert min(caught.values()) >= 0.99
    assert max(values(mixed, "false alarms at 0.05").values()) <= 0.15
    assert min(values(mixed, "AUROC").values()) >= 0.99
    assert values(mixed, "nights that are no smear")["50% of patients, no names"] == 1.0


def test_a_night_is_judged_as_screen_judges_it() -> None:
    found = judge_night(own(), as_cells(smear(1, FAR, n=60)), A_NIGHT)
    assert found.implausible
    assert found.abnormal.all()
    found = judge_night(own(), as_cells(smear(0, n=60)), ONE_SLIDE)
    assert not found.implausible
    assert found.abnormal.mean() < 0.2
