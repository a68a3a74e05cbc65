"""Adapt a diagnosis by labelled cells of unseen patients that were altered as by another camera.

    python -m tests.benchmarks.adaptation_trial STORE

Cells of the model's validation and test patients stand for a laboratory's: as they are, or with
their colours mixed and blurred. Six patients give labelled cells, of both kinds as many; the others
measure. No parasites of another laboratory are looked at, so that figures on those stay honest.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from flows.jobs.networks import load_inference
from storage.models.classifiers import find_card
from storage.store import Store
from tasks.images.listing import list_images
from tasks.images.regions import image_refs
from tasks.laboratories.adaptation import Labelled, try_adaptation
from tasks.network.extraction import load_images
from tests.support.paths import DATA

Pixels = NDArray[np.uint8]

DRAWS, GIVING = 20, 6
COUNTS = (20, 50, 100, 200)
MIXED = np.asarray([[0.6, 0.3, 0.1], [0.3, 0.55, 0.15], [0.05, 0.35, 0.6]])  # rows: what is made
BLUR = 1.6  # pixels


@dataclass(frozen=True)
class Cells:
    """Cells of patients that training has not seen, by the network's calibrated log-odds."""

    log_odds: NDArray[np.float64]
    parasitized: NDArray[np.bool_]
    patients: NDArray[np.str_]


def mixed_and_blurred(pixels: Pixels) -> Pixels:
    """Take cells (n, side, side, 3) by another camera; black surroundings stay black."""
    lit = pixels.max(axis=-1, keepdims=True) > 0
    made = gaussian_filter(pixels.astype(np.float64), (0, BLUR, BLUR, 0)) @ MIXED.T
    return np.where(lit, np.clip(made, 0, 255).round(), 0).astype(np.uint8)


ALTERED: dict[str, Callable[[Pixels], Pixels]] = {
    "as they are": lambda pixels: pixels,
    "mixed and blurred": mixed_and_blurred,
}


def diagnosed(store: Store, alter: Callable[[Pixels], Pixels]) -> Cells:
    """Diagnose the cells of patients that training has not seen."""
    card = find_card(store, None)
    table = list_images(str(DATA / "cell_images.zip"), classes=card.classes)
    unseen = {*card.split["validation"], *card.split["test"]}
    table = table.take(np.flatnonzero([p in unseen for p in table["patient_id"].to_pylist()]))
    loaded = load_images(image_refs(table), card.network["side"], threads=2)
    pixels = alter(np.stack([each.pixels for each in loaded if each.pixels is not None]))
    run = load_inference(store, card).run
    logits = np.concatenate(
        [run(pixels[at : at + 64])[1].numpy() for at in range(0, len(pixels), 64)]
    )
    place = card.classes.index("Parasitized")
    return Cells(
        (logits[:, place] - logits[:, 1 - place]).astype(np.float64) / card.temperature,
        np.asarray([label == "Parasitized" for label in table["label"].to_pylist()]),
        np.asarray(table["patient_id"].to_pylist()),
    )


def one_draw(cells: Cells, count: int, seed: int) -> tuple[float, float, bool] | None:
    """Adapt by so many cells; balanced accuracy on others before and after, and if accepted."""
    rng = np.random.default_rng(seed)
    giving = np.isin(cells.patients, rng.permutation(np.unique(cells.patients))[:GIVING])
    kinds = (cells.parasitized, ~cells.parasitized)
    some = [rng.permutation(np.flatnonzero(giving & kind))[: count // 2] for kind in kinds]
    chosen = np.concatenate(some)
    trial = try_adaptation(
        Labelled(
            cells.log_odds[chosen],
            cells.parasitized[chosen],
            tuple(cells.patients[chosen].tolist()),
        )
    )
    if trial is None:
        return None
    before, truth = cells.log_odds[~giving], cells.parasitized[~giving]
    after = trial.change.adaptation.of(before) if trial.accepted else before
    return balanced(before, truth), balanced(after, truth), trial.accepted


def balanced(log_odds: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Average sensitivity and specificity."""
    return float(np.mean([np.mean(log_odds[truth] >= 0), np.mean(log_odds[~truth] < 0)]))


def main(store: Store) -> None:
    """Print a row for each alteration and number of labelled cells."""
    print(
        "| cells | labelled | balanced accuracy before | after | accepted |\n|---|---|---|---|---|"
    )
    for name, alter in ALTERED.items():
        cells = diagnosed(store, alter)
        for count in COUNTS:
            draws = [one_draw(cells, count, seed) for seed in range(DRAWS)]
            made = [draw for draw in draws if draw is not None]
            before, after, accepted = np.asarray(made, float).T
            print(
                f"| {name} | {count} | {before.mean():.3f} | {after.mean():.3f} | "
                f"{accepted.sum():.0f} of {len(made)} |"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Store(sys.argv[1]))
