"""Cross-validate a recipe: every labelled image is diagnosed without its patient."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import expit

from flows.monitoring.console import tell
from flows.stages.training.labelled_images import CLASSES, LabelledImages
from flows.stages.training.recipes import Trained, TrainingRecipe, train_rows
from storage.models.classifiers import OUT_OF_FOLD, remove_states
from storage.store import Store
from tasks.detector.probabilities import log_odds
from tasks.detector.slides.groups import GroupKey, group_statistics
from tasks.detector.witnesses import calibrated, discriminant
from tasks.metrics import cross_validation, metrics
from tasks.network import inference, split
from tasks.types import Float, Index, Mask


def fold_rows(recipe: TrainingRecipe, data: LabelledImages, count: int) -> list[dict[str, Index]]:
    """Divide the images of a recipe into folds; SplitError if there are too few."""
    learned, judged, _ = recipe.fractions
    return split.folds(
        data.keys,
        data.labels,
        count,
        by=data.by,
        validation=judged / (learned + judged),
        seed=recipe.plan.seed,
    )


def cross_validate(
    store: Store,
    training: str,
    recipe: TrainingRecipe,
    data: LabelledImages,
    parts: list[dict[str, Index]],
) -> pa.Table:
    """Train once per fold, and diagnose its images: a table of `OUT_OF_FOLD`; states are kept."""
    count = len(data.keys)
    fold, network, statistics = np.zeros(count, np.int16), np.zeros(count), np.zeros(count)
    for number, rows in enumerate(parts):
        title = f"fold {number + 1} of {len(parts)}, "
        name = _name(training, len(parts), number)
        made = train_rows(store, name, recipe, data, rows, title=title)
        test = rows["test"]
        fold[test] = number
        network[test] = log_odds(made.test_logits, made.temperature, metrics.POSITIVE)
        statistics[test] = _scores(made, data, rows)
        right = np.mean((network[test] > 0) == (data.labels[test] == metrics.POSITIVE))
        tell(f"{title}{len(test):,} images of other {data.by}s: accuracy {right:.4f}")
    both = _both(fold, network, statistics, data.labels == metrics.POSITIVE)
    stains = split.stain_clusters(split.mean_absorbance(data.pixels), data.keys)
    made_columns = {
        "fold": pa.array(fold),
        "log_odds": pa.array(both),
        "probability": pa.array(expit(both)),
        "network": pa.array(network),
        "statistics": pa.array(statistics),
        "stain": pa.array(stains.astype(np.int16)),
    }
    given = dict(zip(data.rows.column_names, data.rows.columns, strict=True))
    return pa.table(given | made_columns, schema=OUT_OF_FOLD)


def _scores(made: Trained, data: LabelledImages, rows: Mapping[str, Index]) -> Float:
    """Score a fold's tested images (n,) by statistics of its training images; NaN without any."""
    names = np.asarray(data.keys, object)
    keys = [GroupKey("", key, "") for key in names[rows["train"]].tolist()]
    taps, _ = inference.outputs_of(made.network, data.pixels, rows["train"])
    known = group_statistics(taps, data.labels[rows["train"]], keys, len(CLASSES))
    try:
        fisher = discriminant(known, metrics.POSITIVE)
    except ValueError:
        return np.full(len(rows["test"]), np.nan)
    scores = fisher.scores(inference.outputs_of(made.network, data.pixels, rows["test"])[0])
    healthy = made.test_logits.argmax(axis=1) != metrics.POSITIVE
    tested = names[rows["test"]]
    leans = fisher.leans(scores, healthy, tested)
    return np.asarray(scores - [leans[name] for name in tested.tolist()])


def _both(fold: NDArray[np.int16], network: Float, statistics: Float, positive: Mask) -> Float:
    """Join both witnesses of images (n,), calibrated on other folds, or take the network's."""
    both = network.copy()
    for number in np.unique(fold).tolist():
        here = fold == number
        others = ~here & np.isfinite(statistics)
        known = calibrated(network[others], statistics[others], positive[others])
        if known is not None and np.isfinite(statistics[here]).all():
            both[here] = known.combine(network[here], statistics[here]).both
    return both


def remove_fold_states(store: Store, training: str, count: int) -> None:
    """Remove the states that `cross_validate` kept in order to resume."""
    for number in range(count):
        remove_states(store, _name(training, count, number))


def diagnosed(table: pa.Table, keys: list[str], positive: Mask) -> cross_validation.Diagnosed:
    """Prepare a table of `OUT_OF_FOLD` for metrics, with patients (n,) and positives (n,)."""
    log_odds, probability, stains = (
        table[name].to_numpy() for name in ("log_odds", "probability", "stain")
    )
    _, patients = np.unique(keys, return_inverse=True)
    return cross_validation.Diagnosed(positive, log_odds, probability, patients, stains)


def _name(training: str, count: int, number: int) -> str:
    return f"{training}-fold-{number}-of-{count}"
