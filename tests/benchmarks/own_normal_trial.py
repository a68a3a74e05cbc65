"""What a slide's own normal is worth, on features of `own_normal_features`.

    python -m tests.benchmarks.own_normal_trial FOLDER

FOLDER has the .npz files. Tables go to standard output, as Markdown. Constants were chosen by the
table of shifts alone, which has fitted patients' cells in it; the other tables only report.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.detector.calibration import (
    Calibration,
    abnormality,
    calibrate,
    leave_group_out,
    log_distance,
    p_values,
)
from tasks.detector.mahalanobis import TiedGaussian, nearest_class_distance, tied_gaussian
from tasks.detector.moments import moments
from tasks.detector.slides.cell_score import (
    OwnCalibration,
    Prior,
    SlideNormal,
    cell_scores,
    standardised_distances,
)
from tasks.detector.slides.groups import (
    GroupKey,
    GroupStatistics,
    group_statistics,
    retract_groups,
)
from tasks.detector.slides.normal import Choices, prior_of, reference_rows, slide_normal
from tasks.detector.slides.own_normal import (
    fitted_slide,
    own_calibration,
    slides_spread,
    with_spread,
)
from tasks.evaluation.metrics import auroc
from tests.support.slide_scores import score_slide

TAPS = ("blocks.2", "blocks.3")
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Cells:
    """Taps (n, d), diagnosed classes (n,), and what else the file says of each."""

    taps: dict[str, NDArray[np.float64]]
    predicted: NDArray[np.intp]
    about: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.predicted)

    def at(self, rows: NDArray[Any]) -> "Cells":
        return Cells(
            {tap: x[rows] for tap, x in self.taps.items()},
            self.predicted[rows],
            {name: x[rows] for name, x in self.about.items()},
        )

    def of(self, patient: str) -> "Cells":
        return self.at(np.flatnonzero(self.about["patients"] == patient))


def load(path: Path) -> Cells:
    arrays = dict(np.load(path))
    taps = {tap: np.asarray(arrays.pop(tap), np.float64) for tap in TAPS}
    return Cells(taps, arrays.pop("logits").argmax(axis=1), arrays)


def together(*parts: Cells) -> Cells:
    return Cells(
        {tap: np.concatenate([part.taps[tap] for part in parts]) for tap in TAPS},
        np.concatenate([part.predicted for part in parts]),
        {},
    )


# --- What is fitted ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Today:
    """The detector as it is: distances to the population."""

    gaussians: dict[str, TiedGaussian]
    calibration: Calibration

    def p(self, cells: Cells) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and p-values (n,)."""
        distances = [
            nearest_class_distance(g, cells.taps[tap]) for tap, g in self.gaussians.items()
        ]
        scores = abnormality(self.calibration, log_distance(np.stack(distances, axis=1)))
        return scores, p_values(self.calibration, scores)


@dataclass(frozen=True)
class Own:
    """Priors of slides, by patient left out and of all, and the calibration."""

    priors: dict[str, Prior]
    without: dict[str, dict[str, Prior]]
    calibration: OwnCalibration
    choices: Choices


def statistics_of(cells: Cells) -> GroupStatistics:
    keys = [GroupKey("nih", patient, "") for patient in cells.about["patients"].tolist()]
    return group_statistics(cells.taps, cells.about["labels"], keys, 2)


def fit_today(cells: Cells) -> Today:
    patients, number = np.unique(cells.about["patients"], return_inverse=True)
    labels = cells.about["labels"]
    logs = np.empty((len(cells), len(TAPS)))
    gaussians = {}
    for column, tap in enumerate(TAPS):
        total = moments(cells.taps[tap], labels, 2)
        gaussians[tap] = tied_gaussian(total)
        for p in range(len(patients)):
            mine = number == p
            logs[mine, column] = leave_group_out(total, cells.taps[tap][mine], labels[mine])
    return Today(gaussians, calibrate(logs, number))


def fit_own(cells: Cells, choices: Choices) -> Own:
    total = statistics_of(cells)
    patients = [key.patient for key in total.keys]
    by_patient = {p: cells.of(p) for p in patients}

    def priors(statistics: GroupStatistics) -> dict[str, Prior]:
        return {tap: prior_of(statistics, tap) for tap in TAPS}

    without = {
        p: priors(retract_groups(total, statistics_of(mine))) for p, mine in by_patient.items()
    }

    def fitted(priors: dict[str, dict[str, Prior]]) -> list[Any]:
        return [
            fitted_slide(priors[p], mine.taps, mine.predicted, choices)
            for p, mine in by_patient.items()
        ]

    spread = slides_spread(fitted(without))
    without = {p: with_spread(prior, *spread) for p, prior in without.items()}
    calibration = own_calibration(fitted(without))
    return Own(with_spread(priors(total), *spread), without, calibration, choices)


# --- Tables --------------------------------------------------------------------------------------


def row(*values: object) -> None:
    texts = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in values)
    print("| " + " | ".join(texts) + " |", flush=True)


def head(title: str, *columns: str) -> None:
    print(f"\n**{title}**\n", flush=True)
    row(*columns)
    row(*("---" for _ in columns))


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} / {np.std(values):.3f} / {np.max(values):.2f}"


def home(today: Today, own: Own, test: Cells) -> None:
    head("Unseen patients: alarms, mean / deviation / worst", "", "at .05", "at .01")
    patients = sorted(set(test.about["patients"].tolist()))
    by_today = [today.p(test.of(p))[1] for p in patients]
    by_own = [score(own, test.of(p)).p_value for p in patients]
    for name, p in ((f"population, {len(patients)} patients", by_today), ("own normal", by_own)):
        row(name, *(spread([float(np.mean(x <= alpha)) for x in p]) for alpha in (0.05, 0.01)))


def score(own: Own, cells: Cells, laboratory: SlideNormal | None = None) -> Any:
    return score_slide(
        own.priors, own.calibration, cells.taps, cells.predicted, own.choices, laboratory
    )


def planted(today: Today, own: Own, test: Cells, sets: dict[str, Cells]) -> None:
    head(
        "Planted into unseen patients: AUROC and caught at .05; alarms among the patient's cells",
        "what",
        "share",
        "population",
        "own normal",
        "alarms, population",
        "alarms, own normal",
    )
    for name, things in sets.items():
        for share in (0.1, 0.3):
            found: dict[str, list[float]] = {c: [] for c in ("a0", "c0", "a1", "c1", "f0", "f1")}
            for number, patient in enumerate(sorted(set(test.about["patients"].tolist()))):
                mine = test.of(patient)
                rng = np.random.default_rng(number)
                pool = things.of(patient) if "patients" in things.about else things
                if not len(pool):
                    continue
                count = min(round(len(mine) * share / (1 - share)), len(pool))
                mine = mine.at(rng.permutation(len(mine))[: round(count * (1 - share) / share)])
                slide = together(mine, pool.at(rng.permutation(len(pool))[:count]))
                truth = np.arange(len(slide)) >= len(mine)
                of_own = score(own, slide)
                pairs = (today.p(slide), (of_own.abnormality, of_own.p_value))
                for which, (scores, p) in enumerate(pairs):
                    found[f"a{which}"].append(auroc(truth, scores))
                    found[f"c{which}"].append(float(np.mean(p[truth] <= 0.05)))
                    found[f"f{which}"].append(float(np.mean(p[~truth] <= 0.05)))
            m = {key: float(np.mean(values)) for key, values in found.items()}
            texts = (f"{m[f'a{w}']:.3f}, {m[f'c{w}']:.1%}" for w in (0, 1))
            row(name, f"{share:.0%}", *texts, m["f0"], m["f1"])


def fields(today: Today, own: Own, cells: Cells) -> None:
    head(
        "Fields of a laboratory never fitted",
        "a slide is",
        "slides with their own normal",
        "red cells called abnormal at .05 (at .01)",
        "mean / deviation / worst by slide",
        "white cells caught at .05 (at .01)",
        "in no box",
        "slides flagged",
    )
    about = cells.about
    use = ~(about["cut"] & (about["kind"] == "red"))
    cells, truth = cells.at(use), about["truth"][use]
    red = (truth == "red") & (cells.about["kind"] == "red")
    white, none = truth == "white", truth == "none"
    names = np.unique(cells.about["fields"])

    def tell(
        name: str, slides: list[Rows], laboratories: Callable[[int], SlideNormal | None]
    ) -> None:
        p, flagged, levels, by_slide = np.full(len(cells), np.nan), [], [], []
        for number, rows in enumerate(slides):
            found = score(own, cells.at(rows), laboratories(number))
            p[rows] = found.p_value
            flagged.append(found.shift_p_value <= 0.05)
            levels.append(found.level == "slide")
            if red[rows].any():
                by_slide.append(float(np.mean(found.p_value[red[rows]] <= 0.05)))
        report(name, p, f"{sum(levels)} of {len(slides)}", spread(by_slide), np.mean(flagged))

    def report(
        name: str, p: NDArray[np.float64], levels: str, by_slide: str, flagged: object
    ) -> None:
        known = ~np.isnan(p)

        def shares(which: NDArray[np.bool_]) -> str:
            mine = p[which & known]
            return f"{np.mean(mine <= 0.05):.3f} ({np.mean(mine <= 0.01):.3f})"

        row(name, levels, shares(red), by_slide, shares(white), shares(none), flagged)

    report("population (today)", today.p(cells)[1], "-", "-", "-")
    for size in (1, 3, 10, 30, len(names)):
        slides = [
            np.flatnonzero(np.isin(cells.about["fields"], names[start : start + size]))
            for start in range(0, len(names), size)
        ]
        tell(f"{size} fields", slides, lambda _: None)
    rng = np.random.default_rng(0)
    every = [np.flatnonzero(cells.about["fields"] == name) for name in names]
    for size in (1, 3, 10, 30):
        laboratories: list[SlideNormal] = []
        for number in range(len(names)):
            others = rng.permutation(np.delete(np.arange(len(names)), number))
            laboratory = cells.at(np.concatenate([every[k] for k in others[:size]]))
            enough = replace(own.choices, least=8)
            laboratories.append(
                slide_normal(own.priors, laboratory.taps, laboratory.predicted, enough)
            )
        tell(f"1 field, on {size} others commissioned", every, laboratories.__getitem__)


def rubbish(own: Own, sets: dict[str, Cells], test: Cells, trials: int = 20) -> None:
    head(
        "Slides wholly of one thing, 60 cells: flagged as slides at .05, beyond all fitted",
        "what",
        "flagged",
        "beyond",
        "cells called abnormal",
    )
    mixture = together(*(each.at(np.arange(min(150, len(each)))) for each in sets.values()))
    for name, things in (sets | {"a mixture of all": mixture}).items():
        found = []
        for trial in range(trials):
            rng = np.random.default_rng(trial)
            slide = things.at(rng.permutation(len(things))[:60])
            found.append(score(own, slide))
        flagged = float(np.mean([s.shift_p_value <= 0.05 for s in found]))
        beyond = float(np.mean([s.beyond for s in found]))
        row(name, flagged, beyond, float(np.mean([np.mean(s.p_value <= 0.05) for s in found])))
    found = [score(own, test.of(p)) for p in sorted(set(test.about["patients"].tolist()))]
    flagged = float(np.mean([s.shift_p_value <= 0.05 for s in found]))
    beyond = float(np.mean([s.beyond for s in found]))
    row("unseen patients (false alarms)", flagged, beyond, "")


def shifts(own: Own, shifted: dict[str, Cells]) -> None:
    """What constants were chosen by: fitted patients by priors without them, shifted as slides."""
    head("Fitted patients, shifted: alarms at .05, mean / deviation / worst", "shift", "own normal")
    for name, cells in shifted.items():
        found = []
        for patient, priors in own.without.items():
            mine = cells.of(patient)
            s = score_slide(priors, own.calibration, mine.taps, mine.predicted, own.choices)
            found.append(float(np.mean(s.p_value <= 0.05)))
        row(name, spread(found))


def cost(own: Own, cells: Cells) -> None:
    head(
        "Cost, processor seconds",
        "cells of a slide",
        "reference, s",
        "scores, s",
        "microseconds a cell",
    )
    for n in (100, 2_000, 20_000, 100_000):
        rng = np.random.default_rng(0)
        slide = cells.at(rng.integers(0, len(cells), n))
        sample = slide.at(reference_rows(n))
        begun = time.process_time()
        normal = slide_normal(own.priors, sample.taps, sample.predicted, own.choices)
        made = time.process_time()
        z = standardised_distances(normal, slide.taps, slide.predicted, np.zeros(n, bool))
        cell_scores(own.calibration, normal, z)
        done = time.process_time()
        row(f"{n:,}", made - begun, done - made, 1e6 * (done - begun) / n)
    head("State", "slides", "MiB")
    for slides in (1_000, 10_000, 100_000):
        nothing = group_statistics(
            {t: np.zeros((0, x.shape[1])) for t, x in cells.taps.items()}, np.zeros(0, int), [], 2
        )
        keys = tuple(GroupKey("2026-03-01", f"patient {i}", f"slide {i}") for i in range(slides))
        state = GroupStatistics(
            keys,
            np.zeros((slides, 2)),
            {tap: np.zeros((slides, 2, x.shape[1])) for tap, x in cells.taps.items()},
            nothing.scatter,
        )
        row(f"{slides:,}", sum(array.nbytes for array in state.to_arrays().values()) / 2**20)


def main(folder: Path) -> None:
    nih = load(folder / "nih.npz")
    train = nih.at(nih.about["parts"] == "train")
    test = nih.at(nih.about["parts"] != "train")
    today, own = fit_today(train), fit_own(train, Choices())
    for tap, prior in own.priors.items():
        print(
            f"{tap}: k = {prior.k:.2f}, tr B / tr W = "
            f"{np.trace(prior.between) / np.trace(prior.within):.2f}, "
            f"location {prior.location:.3f}, scale {prior.scale:.3f}"
        )
    sets = {path.stem.removeprefix("ood_"): load(path) for path in sorted(folder.glob("ood_*.npz"))}
    attacks = {p.stem.replace("_", " "): load(p) for p in sorted(folder.glob("attack_*.npz"))}
    home(today, own, test)
    fields(today, own, load(folder / "fields.npz"))
    spoilt = {
        f"unfocused or spoilt: {what}": load(folder / f"shift_none_{what}.npz")
        for what in ("blurred", "noise", "debris")
    }
    rubbish(own, sets | spoilt, test)
    planted(today, own, test, sets | attacks)
    shifts(own, {p.stem[6:-1]: load(p) for p in sorted(folder.glob("shift_*_.npz"))})
    cost(own, train)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
