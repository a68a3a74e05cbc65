"""Turn the scored images of an evaluation into the rows and the examples of its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.evaluation.comparison import VERDICT, Comparison, Side
from tasks.evaluation.metrics import Interval, auroc, interval, resampled
from tasks.evaluation.parts import CLEAN, COMPUTED, FILE, NOISE, Treatment, join, take
from tasks.evaluation.scored import OWN, Scored, ScoredPart

TEST, SAMPLED, ATTACKED = "test", "sampled", "attacked"  # sets of unseen patients' images
AS_FILES, AS_COMPUTED = "as files", "as computed"
FEWEST = 2  # successful attacks without which there is nothing to compare
REPEATS = 1000
TEACHER = "fgsm"  # what the regression for unseen attacks learns from
EXAMPLES = 2  # of each treatment


@dataclass(frozen=True)
class Example:
    """A cell before and after an attack or a corruption, two uint8 (S, S, 3), and what to say."""

    heading: str
    clean: NDArray[np.uint8]
    changed: NDArray[np.uint8]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """All scored sets of one detector, and how its verdict is made.

    ``threshold`` is the abnormality from which on an image is abnormal at level ``alpha``.
    ``tables`` list the images of each set, with the ``group`` (patient, slide or image) that each
    belongs to; ``other_sets`` maps "group/name" to the set's name.
    """

    model: str
    classes: Sequence[str]
    seed: int
    alpha: float
    threshold: float
    uncertain_below: float
    tables: Mapping[str, pa.Table]
    scored: Mapping[tuple[str, Treatment], ScoredPart]
    other_sets: Mapping[str, str]

    def diagnosis_rows(self) -> list[dict[str, Any]]:
        """How well unseen patients' cells are diagnosed, and how often the detector alarms."""
        test = self.scored[TEST, CLEAN].forms[FILE]
        clusters = _numbers(self._clusters(TEST, test))
        margin = test.logits[:, 0] - test.logits[:, 1:].max(axis=1)
        area = auroc(test.label == 0, margin)
        draws = np.asarray(
            [
                auroc(np.repeat(test.label == 0, times), np.repeat(margin, times))
                for times in resampled(clusters, 200).astype(int)
            ]
        )
        names = self._names("diagnosis", TEST, None)
        alarm = Interval(self.threshold, np.nan, np.nan)
        return [
            self._rate(names, None, "accuracy", test.right, clusters),
            _row(names, None, "AUROC", interval(area, draws), len(margin), 0),
            _row(names, OWN, "threshold", alarm, 0, 0),
            *self._verdict_rows(names, test, clusters),
        ]

    def covariate_rows(self) -> list[dict[str, Any]]:
        """What corruptions do to the diagnosis, and how often the detector alarms."""
        rows = []
        for treatment in self._treatments("corruption"):
            changed = self.scored[SAMPLED, treatment].forms[FILE]
            clusters = _numbers(self._clusters(SAMPLED, changed))
            names = self._names("covariate", treatment.name, treatment.strength)
            rows += [
                self._rate(names, None, "accuracy", changed.right, clusters),
                *self._verdict_rows(names, changed, clusters),
            ]
        return rows

    def attack_rows(self) -> list[dict[str, Any]]:
        """How often attacks succeed, how large they are, and whether other models fall for them."""
        rows = []
        for treatment in self._treatments("attack"):
            part = self.scored[ATTACKED, treatment]
            clusters = _numbers(self._clusters(ATTACKED, part.forms[FILE]))
            names = self._names("attack", treatment.name, treatment.strength)
            for form, words in ((FILE, AS_FILES), (COMPUTED, AS_COMPUTED)):
                fooled = ~part.forms[form].right
                own = names | {"images": words}
                rows.append(self._rate(own, None, "success rate", fooled, clusters))
                norms = part.norms[form]
                for sizes, word in ((norms.l2, "L2"), (norms.linf, "Linf")):
                    sizes = sizes[fooled].astype(np.float64)
                    median = float(np.median(sizes)) if len(sizes) else float("nan")
                    rows.append(
                        _row(own, None, word, Interval(median, np.nan, np.nan), len(sizes), 0)
                    )
            rows += self._transfer_rows(part, names, clusters)
        return rows

    def _transfer_rows(
        self, part: ScoredPart, names: dict[str, Any], clusters: NDArray[np.intp]
    ) -> list[dict[str, Any]]:
        """Of the images that fool this model and that the other one knew, how many fool it too."""
        if part.transfer is None:
            return []
        file = part.forms[FILE]
        knew = part.transfer.clean.argmax(axis=1) == file.label
        fell = part.transfer.file.argmax(axis=1) != file.label
        tried = ~file.right & knew
        if not tried.any():
            return []
        return [self._rate(names, None, "transfer", fell[tried], clusters[tried])]

    def comparisons(self) -> list[Comparison]:
        """Every set of other images and every attack, against ordinary images."""
        ordinary = self._side(TEST, CLEAN, FILE)
        teachers = self._teachers()
        found = []
        for group_and_name, images in self.other_sets.items():
            group, name = group_and_name.split("/", 1)
            abnormal = self._side(images, CLEAN, FILE)
            names = self._names(_with_mask(group, ordinary, abnormal), name, None)
            found.append(Comparison(names | {"against": "clean"}, ordinary, abnormal, teachers))
        for treatment in self._treatments("attack"):
            names = self._names("attack", treatment.name, treatment.strength)
            for form, words in ((FILE, AS_FILES), (COMPUTED, AS_COMPUTED)):
                counted = self._counted(treatment, form)
                if len(counted) < FEWEST:
                    continue
                clean = self._side(ATTACKED, CLEAN, FILE, counted)
                noisy = self._side(ATTACKED, treatment, NOISE, counted)
                attacked = self._side(ATTACKED, treatment, form, counted)
                for against, side in (
                    ("clean", clean),
                    ("clean and noise", join([clean, noisy])),
                ):
                    own = names | {"images": words, "against": against}
                    found.append(Comparison(own, side, attacked, teachers))
        return found

    def score_tables(self) -> list[pa.Table]:
        """A row for each image and detector, of every set and treatment."""
        tables = [self._score_table("ordinary", TEST, CLEAN, FILE, "clean", TEST)]
        for group_and_name, images in self.other_sets.items():
            group, name = group_and_name.split("/", 1)
            tables.append(self._score_table(group, images, CLEAN, FILE, "changed", name))
        for treatment in self._treatments("corruption"):
            tables.append(
                self._score_table("covariate", SAMPLED, treatment, FILE, "changed", treatment.name)
            )
        for treatment in self._treatments("attack"):
            for form, what in ((FILE, "changed"), (COMPUTED, "changed"), (NOISE, "noise")):
                tables.append(
                    self._score_table("attack", ATTACKED, treatment, form, what, treatment.name)
                )
            tables.append(
                self._score_table(
                    "attack", ATTACKED, treatment, CLEAN.name, "clean", treatment.name
                )
            )
        return tables

    def examples(self) -> list[Example]:
        """Some images before and after each treatment, with what was said of them."""
        found = []
        clean_forms = {
            ATTACKED: self.scored[ATTACKED, CLEAN].forms[FILE],
            SAMPLED: self.scored[SAMPLED, CLEAN].forms[FILE],
        }
        sampled = self.scored[SAMPLED, CLEAN].pictures.changed
        for (images, treatment), part in self.scored.items():
            if treatment.kind == "none":
                continue
            after = part.pictures.changed
            before = sampled if part.pictures.clean is None else part.pictures.clean
            if before is None or after is None:
                continue
            for i in range(min(EXAMPLES, len(before), len(part))):
                clean, changed = take(clean_forms[images], np.asarray([i])), part.forms[FILE]
                found.append(
                    Example(
                        f"{treatment.name}"
                        + (f" {treatment.strength:.3g}" if treatment.strength else ""),
                        before[i],
                        after[i],
                        (
                            f"before: {self._said(clean)}",
                            f"after: {self._said(take(changed, np.asarray([i])))}",
                        ),
                    )
                )
        return found

    def _said(self, one: Scored) -> str:
        return (
            f"{self.classes[one.diagnosed[0]]} ({one.probability[0]:.2f}), "
            f"abnormality {one.scores[OWN][0]:.1f}, p {one.p_value[0]:.2g}"
        )

    def _treatments(self, kind: str) -> list[Treatment]:
        return [treatment for _, treatment in self.scored if treatment.kind == kind]

    def _counted(self, treatment: Treatment, form: str) -> NDArray[np.intp]:
        """Images that were right, are right under noise as large, and are wrong when attacked."""
        clean = self.scored[ATTACKED, CLEAN].forms[FILE]
        part = self.scored[ATTACKED, treatment]
        return np.flatnonzero(clean.right & part.forms[NOISE].right & ~part.forms[form].right)

    def _teachers(self) -> tuple[Side, Side] | None:
        """Ordinary and attacked images that the regression for unseen attacks learns from."""
        ordinary, attacked = [], []
        for treatment in self._treatments("attack"):
            counted = self._counted(treatment, FILE)
            if treatment.name == TEACHER and len(counted):
                ordinary.append(self._side(ATTACKED, CLEAN, FILE, counted))
                ordinary.append(self._side(ATTACKED, treatment, NOISE, counted))
                attacked.append(self._side(ATTACKED, treatment, FILE, counted))
        return (join(ordinary), join(attacked)) if attacked else None

    def _side(
        self,
        images: str,
        treatment: Treatment,
        form: str,
        chosen: NDArray[np.intp] | None = None,
    ) -> Side:
        scored = self.scored[images, treatment].forms[form]
        scored = scored if chosen is None else take(scored, chosen)
        ordered = np.sort(scored.logits, axis=1)
        return Side(
            scored.scores,
            scored.layers,
            ordered[:, -1] - ordered[:, -2],
            self._review(scored),
            self._clusters(images, scored),
        )

    def _review(self, scored: Scored) -> NDArray[np.bool_]:
        """Which images the nightly report would send to a person."""
        uncertain = ~(scored.probability >= self.uncertain_below)
        return np.asarray((scored.p_value <= self.alpha) | uncertain)

    def _clusters(self, images: str, scored: Scored) -> NDArray[np.str_]:
        return np.asarray(self.tables[images]["group"].to_pylist())[scored.rows]

    def _names(self, group: str, images: str, strength: float | None) -> dict[str, Any]:
        return {
            "model": self.model,
            "seed": self.seed,
            "group": group,
            "set": images,
            "strength": strength,
            "against": None,
            "images": AS_FILES,
        }

    def _verdict_rows(
        self, names: dict[str, Any], scored: Scored, clusters: NDArray[np.intp]
    ) -> list[dict[str, Any]]:
        abnormal = scored.p_value <= self.alpha
        return [
            self._rate(names, OWN, "called abnormal", abnormal, clusters),
            self._rate(names, VERDICT, "sent to review", self._review(scored), clusters),
        ]

    def _rate(
        self,
        names: dict[str, Any],
        detector: str | None,
        metric: str,
        hit: NDArray[np.bool_],
        clusters: NDArray[np.intp],
    ) -> dict[str, Any]:
        weights = resampled(clusters, REPEATS)
        draws = (weights @ hit) / weights.sum(axis=1)
        return _row(names, detector, metric, interval(float(hit.mean()), draws), len(hit), 0)

    def _score_table(
        self, group: str, images: str, treatment: Treatment, form: str, what: str, name: str
    ) -> pa.Table:
        before = form == CLEAN.name
        scored = self.scored[images, CLEAN if before else treatment].forms[FILE if before else form]
        n, detectors = len(scored.rows), list(scored.scores)
        counted = np.ones(n, bool)
        if treatment.kind == "attack":
            counted[:] = False
            counted[self._counted(treatment, COMPUTED if form == COMPUTED else FILE)] = True
        table = self.tables[images].take(scored.rows)

        def same(value: Any, kind: pa.DataType) -> pa.Array:
            return pa.repeat(pa.scalar(value, kind), n * len(detectors))

        def repeated(column: pa.ChunkedArray) -> pa.Array:
            return pa.concat_arrays([column.combine_chunks()] * len(detectors))

        return pa.table(
            {
                "model": same(self.model, pa.string()),
                "seed": same(self.seed, pa.int64()),
                "group": same(group, pa.string()),
                "set": same(name, pa.string()),
                "strength": same(treatment.strength, pa.float64()),
                "images": same(AS_COMPUTED if form == COMPUTED else AS_FILES, pa.string()),
                "treatment": same(what, pa.string()),
                "uri": repeated(table["uri"]),
                "patient_id": repeated(table["patient_id"]),
                "diagnosed_right": pa.array(np.tile(scored.right, len(detectors))),
                "counted": pa.array(np.tile(counted, len(detectors))),
                "detector": pa.array(np.repeat(detectors, n)),
                "score": pa.array(np.concatenate([scored.scores[name] for name in detectors])),
            }
        )


def _with_mask(group: str, ordinary: Side, abnormal: Side) -> str:
    """The group, with a word where images have borders as dark as ordinary cells have."""
    own, others = (side.scores["black border"] for side in (ordinary, abnormal))
    return f"{group}, masked" if np.median(others) <= np.quantile(own, 0.95) else group


def _row(
    names: dict[str, Any],
    detector: str | None,
    metric: str,
    found: Interval,
    positives: int,
    negatives: int,
) -> dict[str, Any]:
    return {
        **names,
        "detector": detector,
        "metric": metric,
        **found._asdict(),
        "positives": positives,
        "negatives": negatives,
    }


def _numbers(keys: NDArray[np.str_]) -> NDArray[np.intp]:
    return np.asarray(np.unique(keys, return_inverse=True)[1])
