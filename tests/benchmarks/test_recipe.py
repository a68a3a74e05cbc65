"""The choice of the default training recipe, decided by stains and cells that it has not seen.

See `recipe_trial`. A recipe takes some minutes on one core; the table is written to
``tables/recipe.md`` beside this file. Lines that are in ``recipe.jsonl`` of the folder that
``SLIDEWATCH_TRIALS`` names are not made again.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from flows.options.flows import Segment
from flows.segment import segment
from flows.settings import Settings
from tests.benchmarks.recipe_trial import BEFORE, DEFAULT, RECIPES, trials
from tests.support.needs import needs_data
from tests.support.paths import DATA

TABLE = Path(__file__).parent / "tables" / "recipe.md"

pytestmark = [pytest.mark.experiment, needs_data("cell_images.zip")]


def table(lines: list[dict[str, object]]) -> str:
    """A row for each recipe that was tried with every stain left out."""
    made = [
        "| recipe | AUROC, mean over stains left out | of the worst stain | accuracy | healthy red "
        "cells of another laboratory called parasitized | the same where 95% of the stain's "
        "parasites are found | seconds of one core |",
        "|---|---|---|---|---|---|---|",
    ]
    stains = {line["stain"] for line in lines}
    for name in RECIPES:
        own = [line for line in lines if line["recipe"] == name]
        if {line["stain"] for line in own} != stains:
            continue
        found = {
            metric: np.asarray([line[metric] for line in own], float)
            for metric in ("AUROC", "accuracy", "healthy", "healthy_at_95", "seconds")
        }
        made.append(
            f"| {name} | {found['AUROC'].mean():.4f} | {found['AUROC'].min():.4f} | "
            f"{found['accuracy'].mean():.4f} | {found['healthy'].mean():.1%} | "
            f"{found['healthy_at_95'].mean():.1%} | {found['seconds'].mean():.0f} |"
        )
    return "\n".join(made) + "\n"


def test_recipes(tmp_path: Path) -> None:
    """The default is not behind the recipe of 0.2, and the table says how all of them did."""
    settings = Settings(store=str(tmp_path / "store"))
    manifest = segment(Segment(images=str(DATA / "fields.zip"), name="fields"), settings).manifest
    kept = Path(os.environ.get("SLIDEWATCH_TRIALS", tmp_path)) / "recipe.jsonl"
    lines = trials(kept, Path(manifest.removeprefix("file://")), list(RECIPES))
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(table(lines))
    print(table(lines))

    def mean(name: str) -> float:
        return float(np.mean([line["AUROC"] for line in lines if line["recipe"] == name]))

    assert mean(DEFAULT) > mean(BEFORE)
