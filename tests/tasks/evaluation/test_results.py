from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from flows.jobs.evaluation.treated import PartJob, Run, parts
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from tasks.evaluation.comparison import VERDICT, Comparison
from tasks.evaluation.metrics import AS_COMPUTED, AS_FILES, METRICS, Metric
from tasks.evaluation.parts import (
    CLEAN,
    COMPUTED,
    FILE,
    NOISE,
    Norms,
    Pictures,
    Transfer,
    Treatment,
)
from tasks.evaluation.results.examples import examples
from tasks.evaluation.results.findings import ATTACKED, SAMPLED, TEST, Findings
from tasks.evaluation.results.measured import attack_rows, covariate_rows, diagnosis_rows
from tasks.evaluation.results.pairs import comparisons
from tasks.evaluation.results.score_tables import score_tables
from tasks.evaluation.scored import OWN, Scored, ScoredPart, join_parts
from tasks.evaluation.treatments.attacks import ATTACKS
from tasks.evaluation.treatments.corruptions import CORRUPTIONS
from tasks.visualisation.robustness_page import SCORES
from tests.support.models import CLASSES

FGSM = Treatment("attack", "fgsm", 8 / 255)
WEAK = Treatment("attack", "fgsm", 2 / 255)
DEEPFOOL = Treatment("attack", "deepfool", None)
BLUR = Treatment("corruption", "defocus", 3.0)
DETECTORS = (OWN, "energy", "black border")


def scored(
    right: list[int] | NDArray[np.bool_],
    *,
    start: float = 0.0,
    border: float = 0.0,
    p_value: list[float] | None = None,
    probability: list[float] | None = None,
    label: list[int] | None = None,
    rows: list[int] | None = None,
) -> Scored:
    """Images that are diagnosed rightly or not; their scores are ``start`` and up from there."""
    n = len(right)
    truth = np.array(label if label is not None else [i % 2 for i in range(n)], np.int8)
    diagnosed = np.where(np.array(right, bool), truth, 1 - truth).astype(np.int8)
    own = start + np.arange(n, dtype=np.float64)
    logits = np.zeros((n, 2))
    logits[np.arange(n), diagnosed] = 1.0 + np.arange(n)
    return Scored(
        rows=np.arange(n) if rows is None else np.array(rows),
        label=truth,
        scores={OWN: own, "energy": -own, "black border": np.full(n, border)},
        layers=np.stack([own, own**2], axis=1),
        p_value=np.full(n, 0.5) if p_value is None else np.array(p_value),
        diagnosed=diagnosed,
        probability=np.full(n, 0.9) if probability is None else np.array(probability),
        logits=logits,
        by_network=diagnosed,
        disagree=np.zeros(n, bool),
    )


def digests(n: int, first: int = 0) -> NDArray[np.uint8]:
    return np.stack([np.full(32, first + i, np.uint8) for i in range(n)]).reshape(n, 32)


def part(
    forms: dict[str, Scored] | Scored,
    norms: dict[str, Norms] | None = None,
    *,
    transfer: Transfer | None = None,
    pictures: Pictures | None = None,
) -> ScoredPart:
    forms = {FILE: forms} if isinstance(forms, Scored) else forms
    n = len(forms[FILE].rows)
    return ScoredPart(forms, digests(n), norms or {}, transfer, pictures or Pictures())


def table(n: int, name: str, patients: list[str] | None = None) -> pa.Table:
    patients = patients or [f"C{i // 2}" for i in range(n)]
    return pa.table(
        {
            "uri": [f"file:///{name}/{i}.png" for i in range(n)],
            "patient_id": pa.array(patients, pa.string()),
            "group": patients,
        }
    )


#               0  1  2  3  4  5
CLEAN_RIGHT = [1, 1, 1, 1, 0, 1]
NOISE_RIGHT = [1, 1, 0, 1, 1, 1]
FILE_RIGHT = [0, 0, 0, 1, 0, 0]  # counted: 0, 1, 5
COMPUTED_RIGHT = [0, 0, 0, 0, 0, 1]  # counted: 0, 1, 3


def norms(l2: list[float], linf: list[float]) -> Norms:
    return Norms(np.array(l2, np.float32), np.array(linf, np.float32))


def attacked_part(transfer: Transfer | None = None) -> ScoredPart:
    sizes = {
        FILE: norms([1, 2, 3, 4, 5, 60], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        COMPUTED: norms([10, 20, 30, 40, 50, 600], [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]),
    }
    pictures = Pictures(np.ones((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8))
    forms = {
        FILE: scored(FILE_RIGHT, start=100),
        COMPUTED: scored(COMPUTED_RIGHT, start=200),
        NOISE: scored(NOISE_RIGHT, start=300),
    }
    return part(forms, sizes, transfer=transfer, pictures=pictures)


def findings(
    attacks: dict[Treatment, ScoredPart] | None = None,
    others: dict[str, ScoredPart] | None = None,
    test: Scored | None = None,
) -> Findings:
    others = others or {}
    ordinary = test or scored([1, 1, 0, 1, 1, 1, 1, 0], p_value=[0.5] * 7 + [0.01])
    pictures = Pictures(np.zeros((2, 4, 4, 3), np.uint8))
    sets = {f"near/{name}": f"near--{name}" for name in others}
    sampled = scored([1, 1, 1, 1])
    made = {
        (TEST, CLEAN): part(ordinary),
        (SAMPLED, CLEAN): part(sampled, pictures=pictures),
        (ATTACKED, CLEAN): part(scored(CLEAN_RIGHT)),
        (SAMPLED, BLUR): part(
            scored([1, 0, 0, 0], start=50, p_value=[0.01, 0.2, 0.01, 0.5]), pictures=pictures
        ),
        **{(ATTACKED, treatment): each for treatment, each in (attacks or {}).items()},
        **{(f"near--{name}", CLEAN): each for name, each in others.items()},
    }
    tables = {
        TEST: table(len(ordinary.rows), "test"),
        SAMPLED: table(4, "sampled"),
        ATTACKED: table(6, "attacked"),
        **{f"near--{k}": table(9, k, [f"{k}{i}" for i in range(9)]) for k in others},
    }
    return Findings(
        model="tiny",
        classes=CLASSES,
        seed=2,
        alpha=0.05,
        threshold=1.75,
        uncertain_below=0.75,
        tables=tables,
        scored=made,
        other_sets=sets,
    )


Rows = Sequence[Metric | dict[str, Any]]


def rows_of(metrics: Rows, **wanted: Any) -> list[dict[str, Any]]:
    rows = [each.row() if isinstance(each, Metric) else each for each in metrics]
    return [row for row in rows if wanted.items() <= row.items()]


def value_of(rows: Rows, **wanted: Any) -> float:
    (row,) = rows_of(rows, **wanted)
    return float(row["value"])


# What counts as an attack


def compared(found: list[Comparison], **names: Any) -> Comparison:
    (one,) = [each for each in found if names.items() <= vars(each.subject).items()]
    return one


def test_an_attack_counts_where_clean_and_noise_are_right_and_the_attacked_is_wrong() -> None:
    found = comparisons(findings({FGSM: attacked_part()}))
    assert len(found) == 4
    for words, base, counted in ((AS_FILES, 100, [0, 1, 5]), (AS_COMPUTED, 200, [0, 1, 3])):
        for against in ("clean", "clean and noise"):
            one = compared(found, images=words, against=against)
            noisy = [300.0 + i for i in counted] if against == "clean and noise" else []
            assert one.abnormal.scores[OWN].tolist() == [base + i for i in counted]
            assert one.ordinary.scores[OWN].tolist() == [*map(float, counted), *noisy]
            assert one.abnormal.layers.tolist() == [[base + i, (base + i) ** 2] for i in counted]
            patients = [f"C{i // 2}" for i in counted]
            assert one.abnormal.clusters.tolist() == patients
            assert one.ordinary.clusters.tolist() == patients * (1 + bool(noisy))
            assert (one.subject.set, one.subject.strength) == ("fgsm", 8 / 255)
            assert one.subject.group == "attack"


def test_margins_are_between_the_largest_logits() -> None:
    found = comparisons(findings({FGSM: attacked_part()}))
    one = compared(found, images=AS_FILES, against="clean")
    assert one.abnormal.margin.tolist() == [1.0, 2.0, 6.0]


@pytest.mark.parametrize(("fooled", "compared"), [(0, False), (1, False), (2, True)])
def test_an_attack_that_all_but_fails_is_not_compared(fooled: int, compared: bool) -> None:
    right = [0] * fooled + [1] * (6 - fooled)
    forms = {form: scored(right, start=9) for form in (FILE, COMPUTED)} | {NOISE: scored([1] * 6)}
    made = replace(attacked_part(), forms=forms)
    found = findings({DEEPFOOL: made})
    assert bool(comparisons(found)) == compared
    assert value_of(attack_rows(found), metric="success rate", images=AS_FILES) == fooled / 6


def test_teachers_are_what_fgsm_fooled_as_files() -> None:
    found = comparisons(findings({FGSM: attacked_part(), DEEPFOOL: attacked_part()}))
    for one in found:
        assert one.teachers is not None
        ordinary, attacked = one.teachers
        assert attacked.scores[OWN].tolist() == [100.0, 101.0, 105.0]
        assert ordinary.scores[OWN].tolist() == [0.0, 1.0, 5.0, 300.0, 301.0, 305.0]
    without = comparisons(findings({DEEPFOOL: attacked_part()}))
    assert {one.teachers for one in without} == {None}


# Attacks in figures


def test_success_and_norms_are_of_images_that_fool() -> None:
    rows = attack_rows(findings({FGSM: attacked_part()}))
    assert value_of(rows, metric="success rate", images=AS_FILES) == pytest.approx(5 / 6)
    assert value_of(rows, metric="success rate", images=AS_COMPUTED) == pytest.approx(5 / 6)
    assert value_of(rows, metric="L2", images=AS_FILES) == 3  # the median of 1, 2, 3, 5, 60
    assert value_of(rows, metric="Linf", images=AS_FILES) == pytest.approx(0.3)
    assert value_of(rows, metric="L2", images=AS_COMPUTED) == 30
    assert value_of(rows, metric="Linf", images=AS_COMPUTED) == pytest.approx(0.03)
    assert {row["detector"] for row in rows_of(rows)} == {None}
    assert {row["positives"] for row in rows_of(rows, metric="L2")} == {5}
    assert not rows_of(rows, metric="transfer")


def test_norms_of_an_attack_that_fools_nobody_are_no_numbers() -> None:
    forms = dict.fromkeys((FILE, COMPUTED, NOISE), scored([1] * 6))
    rows = attack_rows(findings({FGSM: replace(attacked_part(), forms=forms)}))
    assert value_of(rows, metric="success rate", images=AS_FILES) == 0
    assert np.isnan(value_of(rows, metric="L2", images=AS_FILES))


def logits(classes: list[int]) -> NDArray[np.float32]:
    return np.array([[3.0, -1.0] if c == 0 else [-1.0, 3.0] for c in classes], np.float32)


def test_transfer_is_of_images_that_the_other_model_knew_and_this_one_fell_for() -> None:
    label = [0, 1, 0, 1, 0, 1]
    # This model falls for all but 3; the other one never knew 1, and falls for 0, 3 and 5.
    before, after = [0, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0]
    made = attacked_part(Transfer(logits(before), logits(after)))
    assert made.forms[FILE].label.tolist() == label
    (row,) = rows_of(attack_rows(findings({FGSM: made})), metric="transfer")
    assert row["positives"] == 4  # 0, 2, 4, 5
    assert row["value"] == pytest.approx(2 / 4)


def test_transfer_is_left_out_where_there_is_no_image_to_try() -> None:
    unknown = attacked_part(Transfer(logits([1, 0, 1, 0, 1, 0]), logits([1, 0, 1, 0, 1, 0])))
    assert not rows_of(attack_rows(findings({FGSM: unknown})), metric="transfer")


# Other images


@pytest.mark.parametrize(
    ("ordinary", "other", "group"),
    [(0.0, 0.0, "near, masked"), (0.0, 0.4, "near"), (0.3, 0.2, "near, masked")],
)
def test_a_group_is_masked_where_its_borders_are_as_dark_as_cells_have(
    ordinary: float, other: float, group: str
) -> None:
    found = comparisons(
        findings(
            others={"white": part(scored([1] * 9, border=other))},
            test=scored([1] * 8, border=ordinary),
        )
    )
    (one,) = found
    assert (one.subject.group, one.subject.set, one.subject.against) == (group, "white", "clean")


def test_one_bright_border_among_dark_ones_does_not_decide() -> None:
    dark = scored([1] * 9)
    odd = replace(dark, scores=dark.scores | {"black border": np.r_[np.zeros(8), 1.0]})
    (one,) = comparisons(findings(others={"white": part(odd)}))
    assert one.subject.group == "near, masked"


def test_other_images_are_compared_with_ordinary_ones_of_the_test() -> None:
    (one,) = comparisons(findings(others={"white": part(scored([1] * 9, start=70))}))
    assert one.ordinary.scores[OWN].tolist() == list(range(8))
    assert one.abnormal.scores[OWN].tolist() == [70.0 + i for i in range(9)]
    assert one.abnormal.clusters.tolist() == [f"white{i}" for i in range(9)]
    assert one.teachers is None


def test_the_verdict_is_abnormal_or_uncertain() -> None:
    test = scored(
        [1] * 8,
        p_value=[0.05, 0.051, 0.9, 0.01, 0.9, 0.9, 0.9, 0.9],
        probability=[0.9, 0.9, 0.75, 0.9, 0.749, float("nan"), 0.9, 0.9],
    )
    (one,) = comparisons(findings(others={"white": part(scored([1] * 9))}, test=test))
    assert one.ordinary.verdict.tolist() == [True, False, False, True, True, True, False, False]
    rows = diagnosis_rows(findings(test=test))
    assert value_of(rows, detector=OWN, metric="called abnormal") == 2 / 8
    assert value_of(rows, detector=VERDICT, metric="sent to review") == 4 / 8


def test_diagnoses_are_right_or_not_and_ranked_by_their_margin() -> None:
    rows = diagnosis_rows(findings(test=scored([1, 1, 0, 1, 1, 1, 1, 0])))
    assert value_of(rows, metric="accuracy") == 6 / 8
    # Class 0 (rows 0, 2, 4, 6) has margins 1, -3, 5, 7; class 1 has -2, -4, -6, +8.
    positive, negative = [1, -3, 5, 7], [-2, -4, -6, 8]
    pairs = [(p > n) for p in positive for n in negative]
    assert value_of(rows, metric="AUROC") == pytest.approx(np.mean(pairs))
    (row,) = rows_of(rows, metric="AUROC")
    assert row["low"] <= row["value"] <= row["high"]
    assert value_of(rows, detector=OWN, metric="threshold") == 1.75


def test_corruptions_are_false_alarms_and_lost_accuracy() -> None:
    rows = covariate_rows(findings())
    assert {(row["group"], row["set"], row["strength"]) for row in rows_of(rows)} == {
        ("covariate", "defocus", 3.0)
    }
    assert value_of(rows, metric="accuracy") == 1 / 4
    assert value_of(rows, metric="called abnormal") == 2 / 4


def test_rows_have_the_columns_of_the_report() -> None:
    found = findings({FGSM: attacked_part()})
    made = [*diagnosis_rows(found), *covariate_rows(found), *attack_rows(found)]
    for row in rows_of(made):
        assert set(METRICS.names) <= row.keys()
        assert (row["model"], row["seed"]) == ("tiny", 2)


# A row for each image and detector


def test_score_tables_have_a_row_for_every_image_and_detector() -> None:
    found = findings({FGSM: attacked_part()}, {"white": part(scored([1] * 9, start=70))})
    tables = score_tables(found)
    for each in tables:
        assert set(SCORES.names) <= set(each.column_names)
        assert each.schema == tables[0].schema
    whole = pa.concat_tables(tables).to_pylist()
    sizes = {
        ("ordinary", "test", "clean", AS_FILES): 8,
        ("near", "white", "changed", AS_FILES): 9,
        ("covariate", "defocus", "changed", AS_FILES): 4,
        ("attack", "fgsm", "changed", AS_FILES): 6,
        ("attack", "fgsm", "changed", AS_COMPUTED): 6,
        ("attack", "fgsm", "noise", AS_FILES): 6,
        ("attack", "fgsm", "clean", AS_FILES): 6,
    }
    keys = [(r["group"], r["set"], r["treatment"], r["images"]) for r in whole]
    assert {key: keys.count(key) for key in keys} == {k: 3 * n for k, n in sizes.items()}
    (row,) = rows_of(
        whole, group="attack", images=AS_COMPUTED, uri="file:///attacked/4.png", detector="energy"
    )
    assert row["score"] == -204.0
    assert (row["patient_id"], row["strength"], row["seed"]) == ("C2", 8 / 255, 2)
    noise = rows_of(whole, treatment="noise", detector=OWN)
    assert [r["score"] for r in noise] == [300.0 + i for i in range(6)]
    clean = rows_of(whole, group="attack", treatment="clean", detector=OWN)
    assert [r["score"] for r in clean] == [float(i) for i in range(6)]


def test_score_tables_say_which_images_are_right_and_counted() -> None:
    tables = score_tables(findings({FGSM: attacked_part()}))
    whole = pa.concat_tables(tables).to_pylist()

    def column(name: str, **wanted: Any) -> list[int]:
        return [int(row[name]) for row in rows_of(whole, detector="energy", **wanted)]

    assert column("counted", group="ordinary") == [1] * 8
    for what in ("changed", "noise", "clean"):
        chosen = {"group": "attack", "images": AS_FILES, "treatment": what}
        assert column("counted", **chosen) == [1, 1, 0, 0, 0, 1]
    assert column("counted", group="attack", images=AS_COMPUTED) == [1, 1, 0, 1, 0, 0]
    assert column("diagnosed_right", group="attack", images=AS_FILES, treatment="noise") == (
        NOISE_RIGHT
    )


def test_rows_are_those_of_the_set_where_some_images_could_not_be_read() -> None:
    test = scored([1] * 3, rows=[1, 4, 6])
    found = replace(findings(test=test), tables=findings().tables)
    (ordinary, *_) = score_tables(found)
    uris = [f"file:///test/{i}.png" for i in (1, 4, 6)]
    assert ordinary["uri"].to_pylist() == uris * 3
    (one,) = comparisons(
        replace(
            findings(test=test, others={"white": part(scored([1] * 9))}),
            tables=findings(others={"white": part(scored([1] * 9))}).tables,
        )
    )
    assert one.ordinary.clusters.tolist() == ["C0", "C2", "C3"]


# Parts


def test_images_are_left_out_by_their_digests() -> None:
    whole = attacked_part()
    seen = {digests(6)[2].tobytes(), digests(6)[5].tobytes(), bytes(32 * [99])}
    left = whole.without(seen)
    assert len(left) == 4
    assert_array_equal(left.image_ids[:, 0], [0, 1, 3, 4])
    for form in (FILE, COMPUTED, NOISE):
        assert left.forms[form].rows.tolist() == [0, 1, 3, 4]
        wanted = whole.forms[form].scores["energy"][[0, 1, 3, 4]]
        assert_array_equal(left.forms[form].scores["energy"], wanted)
        assert left.forms[form].logits.shape == (4, 2)
    assert left.norms[FILE].l2.tolist() == [1, 2, 4, 5]
    assert len(whole.without(set())) == 6
    assert len(whole.without({row.tobytes() for row in digests(6)})) == 0


def cut(whole: ScoredPart, chosen: list[int]) -> ScoredPart:
    gone = {row.tobytes() for i, row in enumerate(whole.image_ids) if i not in chosen}
    return whole.without(gone)


def equal(a: ScoredPart, b: ScoredPart) -> None:
    assert_array_equal(a.image_ids, b.image_ids)
    assert a.forms.keys() == b.forms.keys()
    assert a.norms.keys() == b.norms.keys()
    for name, sizes in a.norms.items():
        assert_array_equal(sizes.l2, b.norms[name].l2)
        assert_array_equal(sizes.linf, b.norms[name].linf)
    assert (a.transfer is None) == (b.transfer is None)
    if a.transfer and b.transfer:
        assert_array_equal(a.transfer.clean, b.transfer.clean)
        assert_array_equal(a.transfer.file, b.transfer.file)
    for form in a.forms:
        one, other = a.forms[form], b.forms[form]
        assert one.scores.keys() == other.scores.keys()
        for detector, values in one.scores.items():
            assert_array_equal(values, other.scores[detector])
        for field in set(vars(one)) - {"scores"}:
            assert_array_equal(getattr(one, field), getattr(other, field))


def test_parts_are_joined_in_their_order() -> None:
    whole = attacked_part()
    pieces = [cut(whole, chosen) for chosen in ([0, 1], [2], [3, 4, 5])]
    equal(join_parts(pieces), whole)
    equal(join_parts([whole]), whole)
    backwards = join_parts(pieces[::-1])
    assert backwards.forms[FILE].rows.tolist() == [3, 4, 5, 2, 0, 1]
    # Pictures are of the first part.
    first = replace(pieces[0], pictures=Pictures(np.full((1, 2, 2, 3), 7, np.uint8)))
    assert join_parts([first, *pieces[1:]]).pictures == first.pictures


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_part_of_which_no_image_can_be_read_adds_nothing(place: int) -> None:
    """`treated.score_part` knows no forms of it, for there are no features."""
    whole = attacked_part()
    pieces = [cut(whole, [0, 1, 2]), cut(whole, [3, 4, 5])]
    pieces.insert(place, ScoredPart({}, np.empty((0, 32), np.uint8)))
    joined = join_parts(pieces)
    equal(joined, whole)
    assert joined.pictures == whole.pictures


def test_every_treatment_has_a_folder_of_its_own() -> None:
    treatments = [
        CLEAN,
        *(Treatment("attack", name, s) for name, made in ATTACKS.items() for s in made.strengths),
        *(Treatment("corruption", name, float(s)) for name in CORRUPTIONS for s in range(1, 6)),
    ]
    keys = [treatment.key for treatment in treatments]
    assert len(set(keys)) == len(keys)
    assert all("/" not in key and " " not in key for key in keys)


def test_the_parts_of_a_set_are_all_of_its_rows_once(store: Any) -> None:
    detector = cast(DetectorCard, SimpleNamespace(name="tiny-v0001"))
    run = Run(store, "night", detector, cast(ModelCard, None), ())
    for rows in (0, 1, 7, 8, 9):
        jobs = parts(run, TEST, FGSM, rows, 4)
        covered = [row for job in jobs for row in range(job.start, job.stop)]
        assert covered == list(range(rows))
        assert len({job.path for job in jobs}) == len(jobs)
        assert all(isinstance(job, PartJob) and "fgsm" in "/".join(job.path) for job in jobs)


# Examples


def test_examples_show_what_was_said_of_the_same_image_before_and_after() -> None:
    found = examples(findings({FGSM: attacked_part(), DEEPFOOL: attacked_part()}))
    headings = [example.heading for example in found]
    assert headings == ["defocus 3"] * 2 + ["fgsm 0.0314"] * 2 + ["deepfool"] * 2
    second = found[3]
    assert (second.clean == 0).all()
    assert (second.changed == 1).all()
    assert second.captions == (
        "before: Uninfected (0.90), abnormality 1.0, p 0.5",
        "after: Parasitized (0.90), abnormality 101.0, p 0.5",
    )
