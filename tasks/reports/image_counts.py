"""Count the images of a batch, as its seal states them."""

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from tasks.reports.image_columns import failed_rows, flags
from tasks.types import Verdict


@dataclass
class ImageCounts:
    """The numbers of images, scored, abnormal and reviewed, by diagnosis and failure's reason."""

    images: int = 0
    scored: int = 0
    abnormal: int = 0
    review: int = 0
    diagnoses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def count(self, rows: pa.Table) -> None:
        """Count rows of the report on images."""
        scored, abnormal = flags(rows)
        verdicts = Counter(rows["verdict"].to_pylist())
        self.images += rows.num_rows
        self.scored += int(scored.sum())
        self.abnormal += int(abnormal.sum())
        self.review += verdicts[Verdict.REVIEW]
        self.diagnoses.update(rows["diagnosis"].drop_null().to_pylist())
        self.failures.update(reason for _, reason in failed_rows(rows))

    def add(self, other: "ImageCounts") -> None:
        """Add the counts of other images."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
