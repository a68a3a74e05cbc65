"""Judge a batch: a green, amber or red light, with reasons.

With 200,000 cells every deviation is significant, and cells of one patient depend on each other. So
a deviation counts only if it is large (an effect size above a limit) and if the patients agree (a
test with patients, or slides without one, as clusters).

A p-value is the share of calibration images that are at least as abnormal, so bins of p-values are
bins of the score with equal shares of the calibration set: the population stability index of
p-values against uniform is the index of the score against the calibration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.detector import verdict
from tasks.limits import FAILED_RED
from tasks.smears.reports.night.counts import BINS, NightCounts, Row, shares
from tasks.smears.reports.slide_reasons import ABNORMAL_P_VALUE
from tasks.types import Array, Float, Integers, Light
from tasks.words import counted, verb

# A shift of all scores by .4 deviations; a night of five ordinary patients shifts half as far.
KS_AMBER = 0.15
# A shift by one deviation; not even a single ordinary patient shifts as far.
KS_RED = 0.4
# Six patients that all deviate in one direction; see `clustered_p_value`.
CLUSTERED_P_VALUE = 0.05
# Credit scoring, where the index is from, calls this a major shift; here it is half a deviation.
PSI_AMBER = 0.25
# With fewer, chance moves the Kolmogorov-Smirnov distance by up to .1 and the PSI by .05.
LEAST_SCORED = 200
# Fewer patients cannot agree significantly.
LEAST_CLUSTERS = 6
# Three times the promised rate of alarms: single patients reach this, nights do not.
ABNORMAL_AMBER = 3.0
# Most of the night would go to a person.
ABNORMAL_RED = 0.5
# False-discovery rate over the night; hardly any cell of an ordinary night passes it.
DISCOVERY_LEVEL = 0.1
DISCOVERIES_AMBER = 0.005
# Fewer nights have no usable spread; nights before the last thirty are out of date.
LEAST_NIGHTS = 5
MOST_NIGHTS = 30
# Robust deviations from the median of earlier nights; chance exceeds this once in thousands.
UNUSUAL = 4.0
# Differences from earlier nights that never matter, however little those nights vary.
NEGLIGIBLE = {
    "abnormal": ("abnormal", 0.03),
    "review": ("for review", 0.1),
    "parasitized": ("diagnosed parasitized", 0.2),
    "beyond_population": ("unlike all known slides", 0.1),
}
NOT_A_CELL = "not_a_cell"  # the failure of a file that does not show a single cell
UNIFORM = np.full(BINS, 1.0 / BINS)
DRAWS = 999
DRAWS_AT_ONCE = 100

Finding = tuple[Light, str]


@dataclass(frozen=True)
class Drift:
    """The distance of a night from the calibration and from earlier ``nights``; None: unknown.

    ``reasons`` are the findings that make it amber or red, and those that could not be judged.
    """

    ks_distance: float | None
    psi: float | None
    psi_earlier: float | None
    nights: int
    light: Light
    reasons: tuple[str, ...]


def judge(
    night: NightCounts,
    earlier: Sequence[Row],
    *,
    detector: str,
    alpha: float,
    further: Sequence[Finding] = (),
) -> Drift:
    """Compare a night with the calibration and with earlier nights, and give it a light.

    Of earlier nights, oldest first, only those of the same detector count, because scores of
    another mean something else, and no red ones, so that bad nights do not become the norm.
    ``further`` findings do not depend on earlier nights.
    """
    known = [each for each in earlier if each["detector"] == detector and each["scored"]]
    usual, row = [each for each in known if each["light"] != Light.RED][-MOST_NIGHTS:], night.row
    if not row["scored"]:
        reason = "no image could be scored" if row["images"] else "there are no images"
        findings = [(Light.RED, reason), *_failures(night)]
        return Drift(None, None, None, len(usual), *_light(findings))
    ks, ks_p = signed_distance(night.p_values), clustered_p_value(night.clusters)
    psi = population_stability(_deciles(night.p_values), _deciles(UNIFORM))
    psi_earlier, psi_taps = _against_earlier(night, usual)
    findings = [*_abnormal(row, alpha), *_failures(night), *_unlike(shares(row), usual), *further]
    if copies := row["repeated"]:
        text = (
            f"{copies:,} of {counted(row['images'], 'image')} "
            f"{verb(copies, 'is a copy', 'are copies')} of others and "
            f"{verb(copies, 'counts', 'count')} once for parasitaemia: leave copies out"
        )
        findings.append((Light.AMBER, text))
    few = row["scored"] < LEAST_SCORED or effective_clusters(night.clusters) < LEAST_CLUSTERS
    if few:
        text = (
            f"{counted(row['scored'], 'scored image')} of {len(night.clusters)} "
            f"{verb(len(night.clusters), 'patient or slide', 'patients or slides')} "
            f"{verb(row['scored'], 'is', 'are')} too few to compare with other batches: only a "
            "great change would show"
        )
        findings.append((Light.GREEN, text))
    if row["scored"] >= LEAST_SCORED:
        findings += _shifted(ks, not few and ks_p <= CLUSTERED_P_VALUE)
    if not few:
        findings += _moved(psi, psi_earlier, psi_taps)
    return Drift(abs(ks), psi, psi_earlier, len(usual), *_light(findings))


def _against_earlier(
    night: NightCounts, earlier: Sequence[Row]
) -> tuple[float | None, dict[str, float]]:
    """Compute the stability of scores, and of distances by tap; None and {} with too few nights."""
    counts = [np.asarray(each["p_values"], np.int64) for each in earlier]
    before = sum(counts, np.zeros(BINS, np.int64))
    if len(earlier) < LEAST_NIGHTS or before.sum() < LEAST_SCORED:
        return None, {}
    taps = {
        tap: population_stability(
            scores, np.sum([each["tap_scores"][tap] for each in earlier], axis=0)
        )
        for tap, scores in sorted(night.tap_scores.items())
    }
    return population_stability(_deciles(night.p_values), _deciles(before)), taps


def _moved(psi: float, psi_earlier: float | None, psi_taps: Mapping[str, float]) -> list[Finding]:
    measured = {
        "abnormality differs from calibration": psi,
        "abnormality differs from earlier batches": psi_earlier,
        **{f"distances at {tap} differs from earlier batches": v for tap, v in psi_taps.items()},
    }
    said = f"(limit {PSI_AMBER})"
    return [
        (Light.AMBER, f"the distribution of {what}: stability index {value:.2f} {said}")
        for what, value in measured.items()
        if value is not None and value >= PSI_AMBER
    ]


def _light(findings: Sequence[Finding]) -> tuple[Light, tuple[str, ...]]:
    worst_first = list(Light)[::-1]
    worst = min((worst_first.index(light) for light, _ in findings), default=-1)
    texts = tuple(text for light in worst_first for each, text in findings if each == light)
    return worst_first[worst], texts


def _deciles(values: Array) -> Array:
    return np.asarray(values.reshape(10, -1).sum(axis=1))


def _shifted(ks: float, patients_agree: bool) -> list[Finding]:
    gross = abs(ks) >= KS_RED
    if not gross and not (patients_agree and abs(ks) >= KS_AMBER):
        return []
    # Images that are too ordinary are odd, but no abnormal image was missed.
    light = Light.RED if gross and ks > 0 else Light.AMBER
    text = (
        f"cells as a whole are {'more' if ks > 0 else 'less'} abnormal than those that calibrated "
        f"the detector: distance {abs(ks):.2f} (limit {KS_RED if gross else KS_AMBER})"
    )
    return [(light, text)]


def _abnormal(row: Row, alpha: float) -> list[Finding]:
    findings, scored = [], row["scored"]
    rate = row["abnormal"] / scored
    surprise = verdict.binomial_p_value(row["abnormal"], scored, alpha)
    if surprise is not None and surprise <= ABNORMAL_P_VALUE and rate >= ABNORMAL_AMBER * alpha:
        light = Light.RED if rate >= ABNORMAL_RED else Light.AMBER
        text = f"{rate:.1%} of the scored images are abnormal, expected {alpha:.1%}"
        findings.append((light, text))
    if row["discoveries"] >= DISCOVERIES_AMBER * scored and row["discoveries"] > 1:
        text = (
            f"{row['discoveries'] / scored:.1%} of the scored images are surely abnormal: at most "
            f"{DISCOVERY_LEVEL:.0%} of these are so by chance"
        )
        findings.append((Light.AMBER, text))
    return findings


def _failures(night: NightCounts) -> list[Finding]:
    """Judge what failed, by file where whole files did: a night with any failure is never green."""
    images, failures = night.row["images"], night.row["failures"]
    findings: list[Finding] = []
    if photographs := failures.get(NOT_A_CELL, 0):
        text = (
            f"{photographs:,} of {counted(images, 'image')} "
            f"{verb(photographs, 'is a photograph', 'are photographs')} of many cells, or too "
            "large for one cell, but taken for a single cell: `slidewatch screen --as fields` with "
            "these alone cuts out the cells"
        )
        findings.append((Light.AMBER, text))
    if night.failed:
        # A photograph that fails is one image, and one that does not is all its cells.
        n, of, what = night.row["files_failed"], night.row["files"], "file"
        if not n or of == images:
            n, of, what = night.failed, images, "image"
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(failures.items()))
        light = Light.RED if n / of >= FAILED_RED else Light.AMBER
        text = f"{n:,} of {counted(of, what)} failed ({n / of:.1%}): {reasons}"
        findings.append((light, text))
    return findings


def _unlike(tonight: Mapping[str, float], usual: Sequence[Row]) -> list[Finding]:
    """List the shares of images that are unlike those of earlier nights."""
    if len(usual) < LEAST_NIGHTS:
        return []
    before, findings = [shares(each) for each in usual], list[Finding]()
    for name, value in tonight.items():
        known = np.asarray([each[name] for each in before])
        middle = float(np.median(known))
        spread = 1.4826 * float(np.median(np.abs(known - middle)))
        words, negligible = NEGLIGIBLE[name]
        if abs(value - middle) > max(UNUSUAL * spread, negligible):
            text = f"{words}: {value:.1%} of the images, {middle:.1%} in {len(before)} earlier"
            findings.append((Light.AMBER, f"{text} batches"))
    return findings


def signed_distance(counts: Integers) -> float:
    """Compute the signed Kolmogorov-Smirnov distance of binned p-values (BINS,) from uniform.

    Positive if the low bins hold too much, so that images are too abnormal.
    """
    gaps = np.cumsum(counts / max(counts.sum(), 1) - UNIFORM * counts.any())
    return float(gaps[np.argmax(np.abs(gaps))])


def clustered_p_value(clusters: Integers) -> float:
    """Compute the p-value of a Kolmogorov-Smirnov distance if only clusters vary.

    Under the null hypothesis every cluster's deviation may as well point the other way: signs are
    drawn at random for whole clusters (wild bootstrap; Liu 1988, Cameron, Gelbach & Miller 2008),
    999 times with a fixed seed. A single cluster proves nothing: its p-value is 1.
    ``clusters`` (K, BINS) are the numbers of each cluster's p-values in each bin.
    """
    gaps = np.cumsum(clusters, axis=1) - clusters.sum(axis=1, keepdims=True) * np.cumsum(UNIFORM)
    # Rounding must not make the observed statistic exceed a draw of the same signs.
    observed = np.abs(gaps.sum(axis=0)).max() * (1 - 1e-9)
    rng, reached, left = np.random.default_rng(0), 0, DRAWS
    while left:
        draws = min(left, DRAWS_AT_ONCE)
        signs = 2.0 * rng.integers(0, 2, (draws, len(clusters))) - 1.0
        reached += int((np.abs(signs @ gaps).max(axis=1) >= observed).sum())
        left -= draws
    return (1 + reached) / (1 + DRAWS)


def effective_clusters(clusters: Integers) -> float:
    """Compute the effective number of clusters, as if of equal size (Kish 1965)."""
    sizes = clusters.sum(axis=1).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


def population_stability(counts: Integers, reference: Array) -> float:
    """Compute the population stability index of binned values (B,) against counts or shares (B,).

    It is sum (a - b) ln(a / b), Jeffreys' divergence. Half an image is added to every bin of
    counts, so that an empty bin does not make the index infinite.
    """

    def shares(values: Array) -> Float:
        added = 0.5 if np.issubdtype(values.dtype, np.integer) else 0.0
        return np.asarray((values + added) / (values + added).sum())

    a, b = shares(counts), shares(reference)
    return float(((a - b) * np.log(a / b)).sum())
