"""Turn the scored images of an evaluation into the rows and the examples of its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.detector.verdict import VerdictRule, Verdicts
from tasks.evaluation.comparison import VERDICT, Comparison, Side
from tasks.evaluation.metrics import (
    AS_COMPUTED,
    AS_FILES,
    Interval,
    Metric,
    Subject,
    auroc,
    interval,
    resampled,
)
from tasks.evaluation.parts import CLEAN, COMPUTED, FILE, NOISE, Treatment, join, take
from tasks.evaluation.scored import OWN, Scored, ScoredPart

TEST, SAMPLED, ATTACKED = "test", "sampled", "attacked"  # sets of unseen patients' images
FEWEST = 2  # successful attacks without which there is nothing to compare
REPEATS = 1000
TEACHER = "fgsm"  # what the regression for unseen attacks learns from
EXAMPLES = 2  # of each treatment


@dataclass(frozen=True)
class Example:
    """Show a cell before and after an attack or corruption, two uint8 (S, S, 3), with captions."""

    heading: str
    clean: NDArray[np.uint8]
    changed: NDArray[np.uint8]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """Hold all scored sets of one detector, and the levels of its verdict.

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

    def diagnosis_rows(self) -> list[Metric]:
        """Measure the diagnosis of unseen patients' cells, and how often the detector alarms."""
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
        subject = self._subject("diagnosis", TEST)
        return [
            self._rate(subject, None, "accuracy", test.right, clusters),
            Metric(subject, None, "AUROC", interval(area, draws), len(margin)),
            Metric(subject, OWN, "threshold", Interval(self.threshold)),
            *self._verdict_rows(subject, test, clusters),
        ]

    def covariate_rows(self) -> list[Metric]:
        """Measure what corruptions do to the diagnosis, and how often the detector alarms."""
        rows = []
        for treatment in self._treatments("corruption"):
            changed = self.scored[SAMPLED, treatment].forms[FILE]
            clusters = _numbers(self._clusters(SAMPLED, changed))
            subject = self._subject("covariate", treatment.name, treatment.strength)
            rows += [
                self._rate(subject, None, "accuracy", changed.right, clusters),
                *self._verdict_rows(subject, changed, clusters),
            ]
        return rows

    def attack_rows(self) -> list[Metric]:
        """Measure how often attacks succeed, how large they are, and how often they transfer."""
        rows = []
        for treatment in self._treatments("attack"):
            part = self.scored[ATTACKED, treatment]
            clusters = _numbers(self._clusters(ATTACKED, part.forms[FILE]))
            subject = self._subject("attack", treatment.name, treatment.strength)
            for form, words in ((FILE, AS_FILES), (COMPUTED, AS_COMPUTED)):
                fooled = ~part.forms[form].right
                own = replace(subject, images=words)
                rows.append(self._rate(own, None, "success rate", fooled, clusters))
                network = part.forms[form].by_network != part.forms[form].label
                rows.append(self._rate(own, None, "network fooled", network, clusters))
                disagree = part.forms[form].disagree
                rows.append(self._rate(own, None, "witnesses disagree", disagree, clusters))
                norms = part.norms[form]
                for sizes, word in ((norms.l2, "L2"), (norms.linf, "Linf")):
                    sizes = sizes[fooled].astype(np.float64)
                    median = float(np.median(sizes)) if len(sizes) else float("nan")
                    rows.append(Metric(own, None, word, Interval(median), len(sizes)))
            rows += self._transfer_rows(part, subject, clusters)
        return rows

    def _transfer_rows(
        self, part: ScoredPart, subject: Subject, clusters: NDArray[np.intp]
    ) -> list[Metric]:
        """Measure how many images that fool this model fool the other one, which knew them, too."""
        if part.transfer is None:
            return []
        file = part.forms[FILE]
        knew = part.transfer.clean.argmax(axis=1) == file.label
        fell = part.transfer.file.argmax(axis=1) != file.label
        tried = ~file.right & knew
        if not tried.any():
            return []
        return [self._rate(subject, None, "transfer", fell[tried], clusters[tried])]

    def comparisons(self) -> list[Comparison]:
        """Pair every set of other images and every attack with ordinary images."""
        ordinary = self._side(TEST, CLEAN, FILE)
        teachers = self._teachers()
        found = []
        for group_and_name, images in self.other_sets.items():
            group, name = group_and_name.split("/", 1)
            abnormal = self._side(images, CLEAN, FILE)
            subject = self._subject(_with_mask(group, ordinary, abnormal), name)
            subject = replace(subject, against="clean")
            found.append(Comparison(subject, ordinary, abnormal, teachers))
        for treatment in self._treatments("attack"):
            subject = self._subject("attack", treatment.name, treatment.strength)
            for form, words in ((FILE, AS_FILES), (COMPUTED, AS_COMPUTED)):
                counted = self.counted(treatment, form)
                if len(counted) < FEWEST:
                    continue
                clean = self._side(ATTACKED, CLEAN, FILE, counted)
                noisy = self._side(ATTACKED, treatment, NOISE, counted)
                attacked = self._side(ATTACKED, treatment, form, counted)
                for against, side in (
                    ("clean", clean),
                    ("clean and noise", join([clean, noisy])),
                ):
                    own = replace(subject, images=words, against=against)
                    found.append(Comparison(own, side, attacked, teachers))
        return found

    def score_tables(self) -> list[pa.Table]:
        """Make a row for each image and detector, of every set and treatment."""
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
        """Choose some images before and after each treatment, with what was said of them."""
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

    def counted(self, treatment: Treatment, form: str) -> NDArray[np.intp]:
        """Select images that are right, also under noise as large, and wrong when attacked."""
        clean = self.scored[ATTACKED, CLEAN].forms[FILE]
        part = self.scored[ATTACKED, treatment]
        return np.flatnonzero(clean.right & part.forms[NOISE].right & ~part.forms[form].right)

    def _teachers(self) -> tuple[Side, Side] | None:
        """Join ordinary and attacked images for the regression for unseen attacks to learn from."""
        ordinary, attacked = [], []
        for treatment in self._treatments("attack"):
            counted = self.counted(treatment, FILE)
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
            scored.looked,
        )

    def _review(self, scored: Scored) -> NDArray[np.bool_]:
        """Mark the images that the nightly report would send to a person."""
        return self._verdicts(scored).review

    def _verdicts(self, scored: Scored) -> Verdicts:
        rule = VerdictRule(self.alpha, self.uncertain_below)
        return rule.decide(scored.p_value, scored.probability)

    def _clusters(self, images: str, scored: Scored) -> NDArray[np.str_]:
        return np.asarray(self.tables[images]["group"].to_pylist())[scored.rows]

    def _subject(self, group: str, images: str, strength: float | None = None) -> Subject:
        return Subject(self.model, self.seed, group, images, strength)

    def _verdict_rows(
        self, subject: Subject, scored: Scored, clusters: NDArray[np.intp]
    ) -> list[Metric]:
        verdicts = self._verdicts(scored)
        return [
            self._rate(subject, OWN, "called abnormal", verdicts.abnormal, clusters),
            self._rate(subject, VERDICT, "sent to review", verdicts.review, clusters),
        ]

    def _rate(
        self,
        subject: Subject,
        detector: str | None,
        metric: str,
        hit: NDArray[np.bool_],
        clusters: NDArray[np.intp],
    ) -> Metric:
        weights = resampled(clusters, REPEATS)
        draws = (weights @ hit) / weights.sum(axis=1)
        return Metric(subject, detector, metric, interval(float(hit.mean()), draws), len(hit))

    def _score_table(
        self, group: str, images: str, treatment: Treatment, form: str, what: str, name: str
    ) -> pa.Table:
        before = form == CLEAN.name
        scored = self.scored[images, CLEAN if before else treatment].forms[FILE if before else form]
        n, detectors = len(scored.rows), list(scored.scores)
        counted = np.ones(n, bool)
        if treatment.kind == "attack":
            counted[:] = False
            counted[self.counted(treatment, COMPUTED if form == COMPUTED else FILE)] = True
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
    """Name the group, with a word where images have borders as dark as ordinary cells have."""
    own, others = (side.scores["black border"] for side in (ordinary, abnormal))
    return f"{group}, masked" if np.median(others) <= np.quantile(own, 0.95) else group


def _numbers(keys: NDArray[np.str_]) -> NDArray[np.intp]:
    return np.asarray(np.unique(keys, return_inverse=True)[1])
