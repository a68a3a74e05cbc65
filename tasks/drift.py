"""Whether a night is like those before: p-values against uniform, populations, shares; a light.

With 200,000 cells every deviation is significant, and cells of one patient depend on each other.
So a deviation counts when it is large (an effect size has a limit) and when the patients agree on
it (a test with patients, or slides where there are none, as clusters).

A p-value is the share of calibration images that are as abnormal, so the bins of p-values are bins
of the score with equal shares of the calibration set in each: the population stability index of
p-values against uniform is that of the score against the calibration.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.calibration import log_distance
from tasks.report import REVIEW
from tasks.slides import (
    ABNORMAL_P_VALUE,
    as_map,
    binomial_p_value,
    coded,
    failure_reasons,
    flags,
    is_parasitized,
    is_red_cell,
    numbers_of,
    parasitaemia,
)
from tasks.statistics import Float

Counts = NDArray[np.int64]
GREEN, AMBER, RED = "green", "amber", "red"

BINS = 20  # of p-values; the first holds those that are abnormal at the default alpha of .05
UNIFORM = np.full(BINS, 1.0 / BINS)
# Of a tap's standardised log distances; the outermost bins are open.
TAP_EDGES = np.asarray([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0])

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
# Cells that stay abnormal among all of the night's: hardly any in a night without other cells.
DISCOVERY_LEVEL = 0.1
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

DRAWS = 999
DRAWS_AT_ONCE = 100


class NightTally:
    """Counts over image rows that come in parts: what `judge` needs to know of a night.

    Memory grows with the number of patients (slides where there are none), not of images.

    Args:
        taps: by name, the mean and deviation of the tap's log distance over calibration images.
    """

    def __init__(self, taps: Mapping[str, tuple[float, float]]) -> None:
        self._taps = dict(taps)
        self._clusters: dict[str, Counts] = {}
        self.images = self.scored = self.abnormal = self.uncertain = self.discoveries = 0
        self.red_cells = self.parasitized = 0
        self.diagnoses: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.tap_scores = {tap: np.zeros(len(TAP_EDGES) + 1, np.int64) for tap in taps}

    def count(self, rows: pa.Table) -> None:
        """Count image rows, with their ``q_value``."""
        scored, abnormal, uncertain = flags(rows)
        self.images += rows.num_rows
        self.scored += int(scored.sum())
        self.abnormal += int(abnormal.sum())
        self.uncertain += int(uncertain.sum())
        self.red_cells += int((scored & is_red_cell(rows)).sum())
        self.parasitized += int(is_parasitized(rows).sum())
        self.discoveries += int((numbers_of(rows, "q_value") <= DISCOVERY_LEVEL).sum())
        self.diagnoses.update(rows["diagnosis"].drop_null().to_pylist())
        self.verdicts.update(rows["verdict"].to_pylist())
        self.failures.update(reason for reason in failure_reasons(rows) if reason is not None)
        for tap, (mean, deviation) in self._taps.items():
            distances = numbers_of(rows, f"distance_{tap}")
            standardised = (log_distance(distances[~np.isnan(distances)]) - mean) / deviation
            places = np.searchsorted(TAP_EDGES, standardised, side="right")
            self.tap_scores[tap] += np.bincount(places, minlength=len(TAP_EDGES) + 1)
        self._count_p_values(rows)

    def _count_p_values(self, rows: pa.Table) -> None:
        p = numbers_of(rows, "p_value")
        known = ~np.isnan(p)
        places = np.clip(np.ceil(p[known] * BINS) - 1, 0, BINS - 1).astype(np.int64)
        (patient, patients), (slide, slides) = coded(rows["patient_id"]), coded(rows["slide_id"])
        keys = [
            f"patient {patients[i]}" if patients[i] is not None else f"slide {slides[j]}"
            for i, j in zip(patient[known], slide[known], strict=True)
        ]
        for key, place in zip(keys, places, strict=True):
            self._clusters.setdefault(key, np.zeros(BINS, np.int64))[place] += 1

    @property
    def clusters(self) -> Counts:
        """How many p-values of each patient (slide) fall into each bin, (K, BINS), by name."""
        rows = [self._clusters[key] for key in sorted(self._clusters)]
        return np.stack(rows) if rows else np.zeros((0, BINS), np.int64)

    @property
    def p_values(self) -> Counts:
        """How many p-values fall into each bin, (BINS,)."""
        return np.asarray(self.clusters.sum(axis=0))

    def shares(self) -> dict[str, float]:
        """The shares that are compared with those of earlier nights."""
        of_scored = {"abnormal": self.abnormal, "parasitized": self.parasitized}
        return {
            **{name: n / self.scored for name, n in of_scored.items() if self.scored},
            **({"review": self.verdicts[REVIEW] / self.images} if self.images else {}),
        }


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


def signed_distance(counts: NDArray[np.integer], reference: Float = UNIFORM) -> float:
    """The Kolmogorov-Smirnov distance of binned values (B,) from shares (B,), with its sign.

    Positive where the low bins hold more than they should: with p-values, where images are more
    abnormal than they should be.
    """
    gaps = np.cumsum(counts / counts.sum() - reference)
    return float(gaps[np.argmax(np.abs(gaps))])


def clustered_p_value(clusters: NDArray[np.integer], reference: Float = UNIFORM) -> float:
    """How probable so large a Kolmogorov-Smirnov distance is if only clusters vary.

    Every cluster's deviation from the reference is as likely to point the other way: signs are
    drawn at random for whole clusters (wild bootstrap; Liu 1988, Cameron, Gelbach & Miller 2008),
    999 times with a fixed seed. A single cluster proves nothing: its p-value is 1.

    Args:
        clusters: (K, B), how many values of each cluster fall into each bin.
        reference: (B,), the shares to compare with.
    """
    gaps = np.cumsum(clusters, axis=1) - clusters.sum(axis=1, keepdims=True) * np.cumsum(reference)
    # Rounding must not tell the observed signs from the same signs that were drawn.
    observed = np.abs(gaps.sum(axis=0)).max() * (1 - 1e-9)
    rng, reached, left = np.random.default_rng(0), 0, DRAWS
    while left:
        draws = min(left, DRAWS_AT_ONCE)
        signs = 2.0 * rng.integers(0, 2, (draws, len(clusters))) - 1.0
        reached += int((np.abs(signs @ gaps).max(axis=1) >= observed).sum())
        left -= draws
    return (1 + reached) / (1 + DRAWS)


def effective_clusters(clusters: NDArray[np.integer]) -> float:
    """How many clusters of equal size say as much as these (Kish 1965)."""
    sizes = clusters.sum(axis=1).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


def population_stability(counts: NDArray[np.integer], reference: NDArray[Any]) -> float:
    """The population stability index of binned values (B,) against other counts or shares (B,).

    sum (a - b) ln(a / b), Jeffreys' divergence. Counts have half an image added in every bin, so
    that an empty one does not make the index infinite.
    """

    def shares(values: NDArray[Any]) -> Float:
        added = 0.5 if np.issubdtype(values.dtype, np.integer) else 0.0
        return np.asarray((values + added) / (values + added).sum())

    a, b = shares(counts), shares(reference)
    return float(((a - b) * np.log(a / b)).sum())


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


def batch_row(
    night: NightTally,
    drift: Drift,
    *,
    alpha: float,
    slides: int,
    slides_for_review: int,
    names: Mapping[str, Any],
) -> pa.Table:
    """The one row that a batch has in the history of nights.

    Args:
        night: its counts.
        drift: what `judge` made of them.
        alpha: the detector's level.
        slides: how many there are.
        slides_for_review: how many of them need a person.
        names: what is the same in all reports: model, detector, batch, batch_date, scored_at.
    """
    one = {
        "alpha": alpha,
        "images": night.images,
        "scored": night.scored,
        "failed": night.images - night.scored,
        "parasitized": night.parasitized,
        "abnormal": night.abnormal,
        "discoveries": night.discoveries,
        "uncertain": night.uncertain,
        "review": night.verdicts[REVIEW],
        "slides": slides,
        "slides_for_review": slides_for_review,
        "clusters": len(night.clusters),
        "nights": drift.nights,
        "light": drift.light,
        **names,
    }
    floats = {
        name: getattr(drift, name) for name in ("ks_distance", "ks_p_value", "psi", "psi_earlier")
    }
    counts = pa.list_(pa.int64())
    columns = {
        **{name: pa.array([value]) for name, value in one.items()},
        **parasitaemia(np.asarray([night.parasitized]), np.asarray([night.red_cells]), ""),
        **{name: pa.array([value], pa.float64()) for name, value in floats.items()},
        "failures": as_map([night.failures]),
        "p_values": pa.array([night.p_values.tolist()], counts),
        "tap_scores": pa.array(
            [sorted((tap, values.tolist()) for tap, values in night.tap_scores.items())],
            pa.map_(pa.string(), counts),
        ),
        "psi_taps": pa.array([sorted(drift.psi_taps.items())], pa.map_(pa.string(), pa.float64())),
        "reasons": pa.array([list(drift.reasons)], pa.list_(pa.string())),
    }
    return pa.table(columns)


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
