"""Count the rows of a batch, part by part."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.detector.calibration import log_distance
from tasks.reports.image_columns import (
    failed_rows,
    flags,
    is_parasitized,
    is_red_cell,
    is_repeated,
    numbers_of,
    pairs_of,
)
from tasks.reports.night.summary import BINS, TAP_EDGES
from tasks.types import Verdict

Counts = NDArray[np.int64]
# False-discovery rate over the night; hardly any cell of an ordinary night passes it.
DISCOVERY_LEVEL = 0.1


class NightTally:
    """Count image rows, which come in parts, for `judge`.

    Memory grows with the number of patients (or slides without one), not of images. ``taps`` has,
    by name, the mean and deviation of the tap's log distance over calibration images.
    """

    def __init__(self, taps: Mapping[str, tuple[float, float]], alpha: float) -> None:
        self._taps, self._alpha = dict(taps), alpha
        self._clusters: dict[str, Counts] = {}
        self.images = self.scored = self.abnormal = self.uncertain = self.discoveries = 0
        self.red_cells = self.parasitized = self.repeated = self.beyond = 0
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
        self.repeated += int(is_repeated(rows).sum())
        self.beyond += int((numbers_of(rows, "population_p_value") <= self._alpha).sum())
        self.discoveries += int((numbers_of(rows, "q_value") <= DISCOVERY_LEVEL).sum())
        self.diagnoses.update(rows["diagnosis"].drop_null().to_pylist())
        self.verdicts.update(rows["verdict"].to_pylist())
        self.failures.update(reason for _, reason in failed_rows(rows))
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
        pairs, group = pairs_of(rows)
        counts = np.bincount(group[known] * BINS + places, minlength=len(pairs) * BINS)
        for (slide, patient), found in zip(pairs, counts.reshape(-1, BINS), strict=True):
            if found.any():
                key = f"slide {slide}" if patient is None else f"patient {patient}"
                self._clusters[key] = self._clusters.get(key, 0) + found

    @property
    def clusters(self) -> Counts:
        """Count the p-values of each patient (slide) in each bin, (K, BINS), by name."""
        rows = [self._clusters[key] for key in sorted(self._clusters)]
        return np.stack(rows) if rows else np.zeros((0, BINS), np.int64)

    @property
    def p_values(self) -> Counts:
        """Count the p-values in each bin, (BINS,)."""
        return np.asarray(self.clusters.sum(axis=0))

    def shares(self) -> dict[str, float]:
        """Compute the shares to compare with earlier nights."""
        of_scored = {
            "abnormal": self.abnormal,
            "parasitized": self.parasitized,
            "beyond_population": self.beyond,
        }
        return {
            **{name: n / self.scored for name, n in of_scored.items() if self.scored},
            **({"review": self.verdicts[Verdict.REVIEW] / self.images} if self.images else {}),
        }
