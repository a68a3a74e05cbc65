"""List the scores of every image by every detector."""

from typing import Any

import numpy as np
import pyarrow as pa

from tasks.evaluation.metrics import AS_COMPUTED, AS_FILES
from tasks.evaluation.parts import CLEAN, COMPUTED, FILE, NOISE, Treatment
from tasks.evaluation.results.findings import ATTACKED, SAMPLED, TEST, Findings


def score_tables(findings: Findings) -> list[pa.Table]:
    """Make a row for each image and detector, of every set and treatment."""
    tables = [_score_table(findings, "ordinary", TEST, CLEAN, FILE, "clean", TEST)]
    for group_and_name, images in findings.other_sets.items():
        group, name = group_and_name.split("/", 1)
        tables.append(_score_table(findings, group, images, CLEAN, FILE, "changed", name))
    for each in findings.treatments("corruption"):
        tables.append(_score_table(findings, "covariate", SAMPLED, each, FILE, "changed"))
    forms = {FILE: "changed", COMPUTED: "changed", NOISE: "noise", CLEAN.name: "clean"}
    for each in findings.treatments("attack"):
        for form, what in forms.items():
            tables.append(_score_table(findings, "attack", ATTACKED, each, form, what))
    return tables


def _score_table(
    findings: Findings,
    group: str,
    images: str,
    treatment: Treatment,
    form: str,
    what: str,
    name: str | None = None,
) -> pa.Table:
    """List a set, which is called as its treatment by default, under that treatment."""
    before = form == CLEAN.name
    scored = findings.scored[images, CLEAN if before else treatment].forms[FILE if before else form]
    n, detectors = len(scored.rows), list(scored.scores)
    counted = np.ones(n, bool)
    if treatment.kind == "attack":
        counted[:] = False
        counted[findings.counted(treatment, COMPUTED if form == COMPUTED else FILE)] = True
    table = findings.tables[images].take(scored.rows)

    def same(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), n * len(detectors))

    def repeated(column: pa.ChunkedArray) -> pa.Array:
        return pa.concat_arrays([column.combine_chunks()] * len(detectors))

    return pa.table(
        {
            "model": same(findings.model, pa.string()),
            "seed": same(findings.seed, pa.int64()),
            "group": same(group, pa.string()),
            "set": same(name or treatment.name, pa.string()),
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
