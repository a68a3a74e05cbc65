"""Count a night part by part, judge it, and make its row of the report on batches."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.counting.call import Call
from tasks.counting.expected import ExpectedErrors
from tasks.reports.image_columns import Provenance, is_for_review
from tasks.reports.night.batch_counts import NightTally
from tasks.reports.night.light import judge
from tasks.reports.night.strangeness import Strangeness
from tasks.reports.night.summary import P_VALUE_EDGES, TAP_EDGES, BatchSummary
from tasks.reports.parasitaemia import parasitaemia
from tasks.reports.slide_reasons import OF_IMAGES
from tasks.types import Verdict


class BatchTally:
    """Count and judge a batch, and make its row of the report on batches.

    Earlier nights are oldest first.
    """

    def __init__(
        self,
        night: NightTally,
        earlier: Sequence[BatchSummary],
        alpha: float,
    ) -> None:
        self.night, self._earlier, self._alpha = night, earlier, alpha
        self._slides = self._slides_for_review = self._implausible_cells = 0
        self._shifted: int | None = None
        self._implausible: int | None = None
        self._calls: Counter[str] | None = None
        self._wrongly_far = 0
        self._unreadable: Counter[str] = Counter()
        self._expected: dict[str, Any] = {}

    def count(self, rows: pa.Table) -> None:
        """Count image rows, with their ``q_value``."""
        self.night.count(rows)

    def count_slides(self, rows: pa.Table) -> None:
        """Count rows of the report on slides."""
        self._slides += rows.num_rows
        self._slides_for_review += int(is_for_review(rows).sum())
        known = rows["shifted"].drop_null().to_pylist()
        if known:
            self._shifted = (self._shifted or 0) + sum(known)
        wrong = rows["implausible"].drop_null().to_pylist()
        if wrong:
            self._implausible = (self._implausible or 0) + sum(wrong)
            among = rows.filter(rows["implausible"])
            self._implausible_cells += sum(among["scored"].to_pylist())
            self._wrongly_far += sum(each or 0 for each in among["shifted"].to_pylist())

    def count_patients(self, rows: pa.Table) -> None:
        """Count rows of the report on patients by their call."""
        self._calls = (self._calls or Counter()) + Counter(rows["call"].to_pylist())
        calls, reasons = rows["call"].to_pylist(), rows["call_reasons"].to_pylist()
        for call, why in zip(calls, reasons, strict=True):
            if call == Call.UNREADABLE and not OF_IMAGES.isdisjoint(why):
                self._unreadable[", ".join(why)] += 1

    def expect(self, errors: ExpectedErrors, doubt: str | None) -> None:
        """Keep the errors expected from probabilities, and why they cannot be believed."""
        known = {f"expected_{name}": each for name, each in vars(errors).items() if each == each}
        self._expected = {**known, "expected_doubt": doubt}

    def table(self, made_by: Provenance) -> pa.Table:
        """Make the one row of the report on batches."""
        return self.summary(made_by).to_table()

    def summary(self, made_by: Provenance) -> BatchSummary:
        """Judge the batch by its counts."""
        night = self.night
        drift = judge(
            night,
            self._earlier,
            detector=made_by.detector,
            alpha=self._alpha,
            strangeness=self._strangeness(made_by),
        )
        share = parasitaemia(np.asarray([night.parasitized]), np.asarray([night.red_cells]), "")
        return BatchSummary(
            images=night.images,
            scored=night.scored,
            failed=night.images - night.scored,
            failures=dict(night.failures),
            parasitized=night.parasitized,
            **{name: column[0].as_py() for name, column in share.items()},
            alpha=self._alpha,
            abnormal=night.abnormal,
            discoveries=night.discoveries,
            uncertain=night.uncertain,
            review=night.verdicts[Verdict.REVIEW],
            slides=self._slides,
            slides_for_review=self._slides_for_review,
            slides_shifted=self._shifted,
            slides_implausible=self._implausible,
            implausible_cells=None if self._implausible is None else self._implausible_cells,
            beyond_population=night.beyond,
            clusters=len(night.clusters),
            p_values=tuple(night.p_values.tolist()),
            p_value_edges=P_VALUE_EDGES,
            tap_scores={tap: tuple(n.tolist()) for tap, n in night.tap_scores.items()},
            tap_edges=TAP_EDGES,
            patient_calls=None if self._calls is None else dict(self._calls),
            **self._expected,
            **vars(drift),
            **vars(made_by) | {"batch_date": made_by.batch_date.isoformat()},
        )

    def _strangeness(self, made_by: Provenance) -> Strangeness:
        return Strangeness(
            slides=self._slides,
            shifted=(self._shifted or 0) - self._wrongly_far,
            implausible=self._implausible,
            implausible_cells=self._implausible_cells,
            scored=self.night.scored,
            beyond=self.night.beyond,
            unreadable=dict(self._unreadable),
            patients=sum((self._calls or Counter[str]()).values()),
            laboratory=made_by.laboratory,
            limits=self._shifted is None or self._implausible is not None,
        )
