"""Make the rows of the report on images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import expit

from tasks.detector import detector, verdict, witnesses
from tasks.detector.probabilities import probabilities
from tasks.images.geometry import shape_of
from tasks.reports.image_columns import COLOURS, Provenance
from tasks.types import CellKind, Float, ImageStatus, Mask, Numbers, Single, Verdict

SAID = ("uri", "label", "slide_id", "patient_id", "acquired_at")  # by the source of images
WITNESSES = ("network", "statistics")
PIECE = ("source_uri", "x", "y", "level", "kind", "touches_border")
SHAPE = ("area", "eccentricity", "solidity")


@dataclass(frozen=True)
class ImagesRead:
    """The data read from n images.

    ``image_ids`` are their digests, None if a file could not be read; ``sizes`` (n, 2) width and
    height in pixels; ``colours`` (n, 3) mean red, green and blue, NaN where unknown. Rows in
    ``failures`` have failed for a reason.
    """

    image_ids: Sequence[str | None]
    sizes: NDArray[np.int32]
    colours: Single
    failures: Mapping[int, str]

    @property
    def failed(self) -> Mask:
        """Mark the images (n,) that failed."""
        failed = np.zeros(len(self.image_ids), bool)
        failed[list(self.failures)] = True
        return failed


@dataclass(frozen=True)
class Diagnoses:
    """The diagnoses of n images: logits (n, C), to be divided by temperature.

    ``steady`` int8 (n,) is 1 where the diagnosis stays when the image is blurred, 0 where it turns,
    and -1 where nobody looked. ``log_odds`` (n,) of "parasitized" are by both witnesses, before
    labelled cells adapt them, and ``by_witness`` by each, if there are two.
    """

    classes: Sequence[str]
    logits: Numbers
    temperature: float
    steady: NDArray[np.int8]
    log_odds: Float | None = None
    by_witness: witnesses.LogOdds | None = None

    @cached_property
    def probabilities(self) -> Float:
        """Compute the calibrated probability (n, C) of every class."""
        return probabilities(self.logits, self.temperature)

    def names(self) -> list[str]:
        """Return the most probable class of each of n images."""
        chances = np.nan_to_num(self.probabilities, nan=-np.inf)
        return [self.classes[place] for place in chances.argmax(axis=1).tolist()]


def image_rows(
    manifest: pa.Table,
    read: ImagesRead,
    diagnoses: Diagnoses,
    scores: detector.Scores,
    *,
    taps: Sequence[str],
    rule: verdict.VerdictRule,
    made_by: Provenance,
) -> pa.Table:
    """Make the report's rows of one shard, without ``q_value``, which needs the whole batch.

    A red cell that the border of its field cuts is diagnosed, but has no abnormality. Diagnoses and
    scores of failed images are ignored; ``rule`` decides which images a person looks at.
    """
    failed = read.failed
    # Half a cell is unlike every whole one, so its abnormality would mean nothing.
    unjudged = failed | is_cut(manifest)
    p_value = np.where(unjudged, np.nan, scores.p_value)
    unlike = scores.unlike & ~unjudged
    disagree = diagnoses.by_witness is not None and diagnoses.by_witness.disagree
    probability = diagnoses.probabilities.max(axis=1)
    marks = {"disagree": disagree, "turned": diagnoses.steady == 0}
    verdicts = rule.decide(p_value, probability, failed, unlike, **marks)
    return pa.table(
        {
            "image_id": pa.array(read.image_ids, pa.string()),
            **{name: manifest[name].combine_chunks() for name in (*SAID, *PIECE)},
            **_of_outlines(manifest["outline"]),
            **_of_files(read, failed),
            **_of_network(diagnoses, failed),
            **_of_detector(scores, taps, verdicts, unjudged),
            **made_by.to_columns(manifest.num_rows),
        }
    )


def _of_files(read: ImagesRead, failed: Mask) -> dict[str, pa.Array]:
    n = len(failed)
    unknown = failed[:, np.newaxis] | np.isnan(read.colours)
    return {
        "width": pa.array(read.sizes[:, 0], pa.int32(), mask=failed),
        "height": pa.array(read.sizes[:, 1], pa.int32(), mask=failed),
        **{
            name: pa.array(read.colours[:, k], pa.float32(), mask=unknown[:, k])
            for k, name in enumerate(COLOURS)
        },
        "status": pa.array(np.where(failed, ImageStatus.FAILED, ImageStatus.SCORED)),
        "failure": pa.array([read.failures.get(row) for row in range(n)], pa.string()),
    }


def _of_outlines(outlines: pa.ChunkedArray) -> dict[str, pa.Array]:
    shapes = [
        (np.nan,) * 3 if points is None else shape_of(np.asarray(points, np.float32).reshape(-1, 2))
        for points in outlines.to_pylist()
    ]
    columns = np.asarray(shapes, np.float32).reshape(-1, 3).T
    return {
        name: pa.array(values, pa.float32(), mask=np.isnan(values))
        for name, values in zip(SHAPE, columns, strict=True)
    }


def _of_network(diagnoses: Diagnoses, failed: Mask) -> dict[str, pa.Array]:
    return {
        "diagnosis": pa.array(diagnoses.names(), pa.string(), mask=failed),
        **{
            f"probability_{name}": pa.array(chances, pa.float32(), mask=failed)
            for name, chances in zip(diagnoses.classes, diagnoses.probabilities.T, strict=True)
        },
        "log_odds": pa.nulls(len(failed), pa.float64())
        if diagnoses.log_odds is None
        else pa.array(diagnoses.log_odds, mask=failed | np.isnan(diagnoses.log_odds)),
        **{f"{name}_probability": _chance(diagnoses, name, failed) for name in WITNESSES},
        "steady": pa.array(diagnoses.steady > 0, mask=failed | (diagnoses.steady < 0)),
    }


def _chance(diagnoses: Diagnoses, witness: str, failed: Mask) -> pa.Array:
    if diagnoses.by_witness is None:
        return pa.nulls(len(failed), pa.float32())
    return pa.array(expit(getattr(diagnoses.by_witness, witness)), pa.float32(), mask=failed)


def _of_detector(
    scores: detector.Scores, taps: Sequence[str], verdicts: verdict.Verdicts, unjudged: Mask
) -> dict[str, pa.Array]:
    measured = {
        **{f"distance_{name}": scores.distances[:, t] for t, name in enumerate(taps)},
        "abnormality": scores.abnormality,
        "p_value": scores.p_value,
        "population_p_value": scores.population_p_value,
    }
    return {
        **{name: pa.array(v, pa.float64(), mask=unjudged) for name, v in measured.items()},
        "compared_with": pa.array(scores.compared_with, pa.string(), mask=unjudged),
        # Never null, so that it can select rows: an image that was not judged is not abnormal.
        "abnormal": pa.array(verdicts.abnormal & ~unjudged, pa.bool_()),
        "verdict": pa.array(np.where(verdicts.review, Verdict.REVIEW, Verdict.ACCEPT)),
        "review_reason": pa.array(verdicts.reasons(), pa.string()),
    }


def is_cut(manifest: pa.Table) -> Mask:
    """Mark the rows (n,) of a manifest with red cells cut by a border or a neighbour."""
    # A white cell is abnormal even if it is cut.
    cut = pc.and_(manifest["touches_border"], pc.equal(manifest["kind"], CellKind.RED))
    return np.asarray(pc.fill_null(cut, False).to_numpy(), bool)


class QValues:
    """Compute the q-values of a night (Benjamini & Hochberg 1995) from its p-values, in parts.

    Among images whose q-value is at most q, the expected share of false alarms is at most q where
    p-values depend on each other positively or not at all (Benjamini & Yekutieli 2001); cells of
    one patient do, but no theorem covers them all. A p-value is a count of calibration images, so
    memory grows with their number, not with that of the night's images.
    """

    def __init__(self) -> None:
        self._values, self._times = np.zeros(0), np.zeros(0)

    def add(self, p_values: Float) -> None:
        """Add some of the night's p-values; NaN is none."""
        unique, n = np.unique(p_values[np.isfinite(p_values)], return_counts=True)
        self._values, place = np.unique(np.r_[self._values, unique], return_inverse=True)
        times = np.bincount(place, np.r_[self._times, n], len(self._values))
        self._times = times.astype(np.float64)

    def of(self, p_values: Float) -> Float:
        """Look up the q-values (n,) of p-values (n,) of the night; NaN (no p-value) stays NaN."""
        least = self._values * (self._times.sum() / np.cumsum(self._times))
        q = np.append(np.clip(np.minimum.accumulate(least[::-1])[::-1], 0, 1), np.nan)
        known = np.where(np.isfinite(p_values), p_values, np.inf)
        return np.asarray(q[np.searchsorted(np.append(self._values, np.inf), known)])
