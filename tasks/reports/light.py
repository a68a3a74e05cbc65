"""Judge a batch: a green, amber or red light, with reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.reports.batch_counts import BINS, DISCOVERY_LEVEL, Counts, NightTally
from tasks.reports.columns import AMBER, GREEN, RED
from tasks.reports.drift import (
    UNIFORM,
    clustered_p_value,
    effective_clusters,
    population_stability,
    signed_distance,
)
from tasks.reports.parasitaemia import binomial_p_value
from tasks.reports.slides import ABNORMAL_P_VALUE

# A shift of all scores by .4 deviations; a night of five ordinary patients moves by half of that.
KS_AMBER = 0.15
# A shift by one deviation, which not even a single ordinary patient makes.
KS_RED = 0.4
# Six patients that all deviate to one side; see `clustered_p_value`.
CLUSTERED_P_VALUE = 0.05
# What credit scoring, where the index is from, calls a major shift; here half a deviation.
PSI_AMBER = 0.25
# Below that, chance alone moves the Kolmogorov-Smirnov distance by up to .1 and the PSI by .05.
LEAST_SCORED = 200
# Fewer patients than that cannot agree by more than chance.
LEAST_CLUSTERS = 6
# Three times the alarms that calibration promised: single patients reach that, nights do not.
ABNORMAL_AMBER = 3.0
# Most of the night would go to a person.
ABNORMAL_RED = 0.5
DISCOVERIES_AMBER = 0.005
# A fiftieth of the files damaged has a cause that can be found; with a quarter the night is lost.
FAILED_AMBER = 0.02
FAILED_RED = 0.25
# Fewer nights have no spread to compare with; older ones than the last thirty tell of other days.
LEAST_NIGHTS = 5
MOST_NIGHTS = 30
# Robust deviations from the median of earlier nights: by chance once in thousands of nights.
UNUSUAL = 4.0
# Differences from earlier nights that matter to nobody, however quiet those were.
NEGLIGIBLE = {"abnormal": 0.03, "review": 0.1, "parasitized": 0.2, "failed": 0.01}


@dataclass(frozen=True)
class Drift:
    """How far a night is from the calibration and from ``nights`` earlier ones; None: not known.

    ``reasons`` say why the light is not green, and what could not be judged.
    """

    ks_distance: float | None
    ks_p_value: float | None
    psi: float | None
    psi_earlier: float | None
    psi_taps: dict[str, float]
    nights: int
    light: str
    reasons: tuple[str, ...]


def judge(night: NightTally, earlier: pa.Table, *, detector: str, alpha: float) -> Drift:
    """Compare a night with the calibration and with earlier nights, and give it a light.

    Args:
        night: its counts.
        earlier: rows of `batch_row` of earlier nights, oldest first. Only nights of the same
            detector are compared with, for another one's scores mean something else, and no red
            ones, so that a bad night does not become what is usual.
        detector: the night's.
        alpha: its level.
    """
    usual = _usual(earlier, detector)
    if not night.scored:
        reason = "no image could be scored" if night.images else "there are no images"
        found = [(RED, reason), *_failures(night, usual)]
        return Drift(None, None, None, None, {}, len(usual), *_light(found))
    p, clusters = night.p_values, night.clusters
    ks, ks_p = signed_distance(p), clustered_p_value(clusters)
    psi = population_stability(_deciles(p), _deciles(UNIFORM))
    before = sum((np.asarray(row["p_values"], np.int64) for row in usual), np.zeros(BINS, np.int64))
    known = len(usual) >= LEAST_NIGHTS and before.sum() >= LEAST_SCORED
    psi_earlier = population_stability(_deciles(p), _deciles(before)) if known else None
    psi_taps = (
        {
            tap: population_stability(counts, _tap_scores(usual, tap))
            for tap, counts in sorted(night.tap_scores.items())
        }
        if known
        else {}
    )
    found = [*_abnormal(night, alpha), *_failures(night, usual), *_unlike(night.shares(), usual)]
    effective = effective_clusters(clusters)
    if night.scored < LEAST_SCORED or effective < LEAST_CLUSTERS:
        found.append(
            (
                GREEN,
                f"drift is judged by gross deviations only: {night.scored} scored images of "
                f"{len(clusters)} patients or slides are too few for more",
            )
        )
        limit_p, limit_psi = 0.0, np.inf
    else:
        limit_p, limit_psi = CLUSTERED_P_VALUE, PSI_AMBER
    if night.scored >= LEAST_SCORED:
        found += _shifted(ks, ks_p <= limit_p)
    measured = {
        "scores, against the calibration": psi,
        "scores, against earlier nights": psi_earlier,
    }
    measured |= {
        f"distances at tap {tap}, against earlier nights": v for tap, v in psi_taps.items()
    }
    found += [
        (AMBER, f"{what}: population stability index {value:.2f} (limit {PSI_AMBER})")
        for what, value in measured.items()
        if value is not None and value >= limit_psi
    ]
    return Drift(abs(ks), ks_p, psi, psi_earlier, psi_taps, len(usual), *_light(found))


Finding = tuple[str, str]


def _light(found: Sequence[Finding]) -> tuple[str, tuple[str, ...]]:
    order = (RED, AMBER, GREEN)
    worst = min((order.index(light) for light, _ in found), default=2)
    return order[worst], tuple(text for light in order for each, text in found if each == light)


def _usual(earlier: pa.Table, detector: str) -> list[dict[str, Any]]:
    rows = [
        row
        for row in earlier.to_pylist()
        if row["detector"] == detector and row["light"] != RED and row["scored"]
    ]
    return rows[-MOST_NIGHTS:]


def _tap_scores(rows: Sequence[Mapping[str, Any]], tap: str) -> Counts:
    nights = [dict(row["tap_scores"])[tap] for row in rows]
    return np.asarray(np.sum(nights, axis=0, dtype=np.int64))


def _deciles(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values.reshape(10, -1).sum(axis=1))


def _shifted(ks: float, patients_agree: bool) -> list[Finding]:
    """What the distance of p-values from uniform says."""
    gross = abs(ks) >= KS_RED
    if not gross and not (patients_agree and abs(ks) >= KS_AMBER):
        return []
    # Images that are too ordinary are odd, but none of them was called ordinary wrongly.
    light = RED if gross and ks > 0 else AMBER
    how = "more" if ks > 0 else "less"
    return [
        (
            light,
            f"images are {how} abnormal than those that calibrated: Kolmogorov-Smirnov distance "
            f"of p-values from uniform {abs(ks):.2f} (limit {KS_RED if gross else KS_AMBER})",
        )
    ]


def _abnormal(night: NightTally, alpha: float) -> list[Finding]:
    """What the share of abnormal images says, one by one and among all of the night's."""
    found, rate = [], night.abnormal / night.scored
    counts = np.asarray([night.abnormal]), np.asarray([night.scored])
    if binomial_p_value(*counts, alpha)[0] <= ABNORMAL_P_VALUE and rate >= ABNORMAL_AMBER * alpha:
        light = RED if rate >= ABNORMAL_RED else AMBER
        found.append((light, f"{rate:.1%} of the scored images are abnormal, expected {alpha:.1%}"))
    if night.discoveries >= DISCOVERIES_AMBER * night.scored and night.discoveries > 1:
        found.append(
            (
                AMBER,
                f"{night.discoveries / night.scored:.1%} of the scored images are abnormal at a "
                f"false-discovery rate of {DISCOVERY_LEVEL:.0%}",
            )
        )
    return found


def _failures(night: NightTally, usual: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What the shares of images that failed say, together and by reason."""
    if not night.images:
        return []
    found, rate = [], 1 - night.scored / night.images
    if rate >= FAILED_AMBER:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(night.failures.items()))
        light = RED if rate >= FAILED_RED else AMBER
        found.append((light, f"{rate:.1%} of the images failed: {reasons}"))
        return found
    for reason, n in sorted(night.failures.items()):
        before = [dict(row["failures"]).get(reason, 0) / row["images"] for row in usual]
        found += _unusual(f"failed as {reason}", n / night.images, before, NEGLIGIBLE["failed"])
    return found


def _unlike(shares: Mapping[str, float], usual: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Which shares are unlike those of earlier nights."""
    words = {"abnormal": "abnormal", "review": "for review", "parasitized": "diagnosed parasitized"}
    found: list[Finding] = []
    for name, value in shares.items():
        total = "images" if name == "review" else "scored"
        before = [row[name] / row[total] for row in usual]
        found += _unusual(words[name], value, before, NEGLIGIBLE[name])
    return found


def _unusual(what: str, value: float, before: Sequence[float], negligible: float) -> list[Finding]:
    if len(before) < LEAST_NIGHTS:
        return []
    middle = float(np.median(before))
    spread = 1.4826 * float(np.median(np.abs(np.asarray(before) - middle)))
    if abs(value - middle) <= max(UNUSUAL * spread, negligible):
        return []
    return [
        (AMBER, f"{what}: {value:.1%} of the images, {middle:.1%} on {len(before)} earlier nights")
    ]
