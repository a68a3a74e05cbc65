"""Compare detectors by calibration images and synthetic corruptions alone, to choose the default.

    python -m tests.benchmarks.detector_trial choices|training

Only patients that a model was fitted on are looked at, each by statistics and by a calibration that
never saw that patient. No test patient, foreign image or attack is read, so that the figures which
are reported on those stay honest.

A seed of `choices` takes about eight minutes on one core, five of them for features; one of
`training` about twenty. ``SLIDEWATCH_SEEDS=0`` does one seed instead of three. It reads
cell_images.zip in ``$SLIDEWATCH_DATA``, and prints tables.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.linalg import cholesky, solve_triangular
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor, nn

from flows.jobs.worker import keep_freed_memory
from tasks.detector.calibration import Calibration, calibrate, group_weights, log_distance, p_values
from tasks.detector.mahalanobis import (
    TiedGaussian,
    nearest_class_distance,
    tied_covariance,
    tied_gaussian,
)
from tasks.detector.moments import Moments, merge, moments, retract
from tasks.evaluation.baselines import unit
from tasks.evaluation.metrics import accuracy, auroc
from tasks.evaluation.treatments.corruptions import CORRUPTIONS, corrupt
from tasks.images.access.files import read_bytes
from tasks.images.decoding import decode_rgb, resize
from tasks.images.listing import list_images
from tasks.network.augmentation import Augmentation
from tasks.network.backbones import DEFAULT_NETWORK, build, network_spec
from tasks.network.classifier import Classifier, to_pixels
from tasks.network.split import split
from tasks.network.training import TrainingPlan, predict, train
from tasks.types import Float
from tests.support.networks import MILD
from tests.support.paths import DATA

SEEDS = tuple(int(seed) for seed in os.environ.get("SLIDEWATCH_SEEDS", "0,1,2").split(","))
CLASSES = ("Parasitized", "Uninfected")
SPACES = ("raw", "unit")  # features as they are, and on the unit sphere
FRACTIONS = (0.75, 0.10, 0.15)  # of patients, as `flows.train` has them


@dataclass(frozen=True)
class Cut:
    """A square of ``side`` pixels: the whole image resized, or its middle at its own size."""

    side: int
    middle: bool = False

    def of(self, image: Image.Image) -> NDArray[np.uint8]:
        """The pixels (side, side, 3); black where the image is smaller than its middle."""
        if not self.middle:
            return resize(image, self.side)
        left, top = ((length - self.side) // 2 for length in image.size)
        return np.asarray(image.crop((left, top, left + self.side, top + self.side)), np.uint8)


@dataclass(frozen=True)
class Cells:
    """All cells: where they are, their class, patient and field of view."""

    uris: NDArray[np.object_]
    labels: NDArray[np.int64]
    patients: NDArray[np.object_]
    fields: NDArray[np.object_]

    def of(self, patients: list[str]) -> "Cells":
        """The cells of some patients."""
        mine = np.isin(self.patients, patients)
        return Cells(*(part[mine] for part in vars(self).values()))

    def pixels(self, cut: "Cut") -> NDArray[np.uint8]:
        """What a network sees of them, (n, side, side, 3)."""
        return np.stack([cut.of(decode_rgb(read_bytes(uri))) for uri in self.uris])


def all_cells() -> Cells:
    """Read the list of all cells."""
    keep_freed_memory()
    table = list_images(str(DATA / "cell_images.zip"), classes=CLASSES)
    return Cells(
        np.asarray(table["uri"].to_pylist(), object),
        np.asarray([CLASSES.index(label) for label in table["label"].to_pylist()]),
        np.asarray(table["patient_id"].to_pylist(), object),
        np.asarray(table["slide_id"].to_pylist(), object),
    )


@dataclass(frozen=True)
class Recipe:
    """Tell how to train: frozen stages, the input's side, and how far images are varied."""

    frozen: tuple[str, ...]
    side: int = 64
    augmentation: Augmentation = field(default_factory=Augmentation)


STEM = ("conv_stem", "bn1")
USUAL = "frozen through blocks.2: the default"
RECIPES = {
    USUAL: Recipe((*STEM, "blocks.0", "blocks.1", "blocks.2")),
    "frozen through blocks.3": Recipe((*STEM, *(f"blocks.{i}" for i in range(4)))),
    "frozen through blocks.4": Recipe((*STEM, *(f"blocks.{i}" for i in range(5)))),
    "nothing frozen": Recipe(()),
    "images varied as in 0.2": Recipe(
        (*STEM, "blocks.0", "blocks.1", "blocks.2"), augmentation=MILD
    ),
    "input of 96 pixels": Recipe((*STEM, "blocks.0", "blocks.1", "blocks.2"), side=96),
}


def train_by(recipe: Recipe, cells: Cells, parts: dict[str, list[str]], seed: int) -> Classifier:
    """A classifier of the patients in ``parts``, made as `flows.train` makes one."""
    spec = network_spec(DEFAULT_NETWORK, CLASSES, recipe.side, frozen=recipe.frozen)
    torch.manual_seed(seed)
    classifier = build(spec, "imagenet")
    seen = cells.of(parts["train"] + parts["validation"])
    rows = {p: np.flatnonzero(np.isin(seen.patients, parts[p])) for p in ("train", "validation")}
    train(
        classifier,
        seen.pixels(Cut(recipe.side)),
        seen.labels,
        rows["train"],
        rows["validation"],
        TrainingPlan(seed=seed, augmentation=recipe.augmentation),
    )
    return classifier


def inner_split(cells: Cells, seed: int) -> dict[str, list[str]]:
    """Split the patients a model may see into three parts of their own; its test is never seen."""
    outer = split(
        cells.patients.tolist(), cells.labels, by="patient", fractions=FRACTIONS, seed=seed
    )
    seen = cells.of(outer.keys["train"] + outer.keys["validation"])
    return split(
        seen.patients.tolist(), seen.labels, by="patient", fractions=FRACTIONS, seed=seed
    ).keys


# --- What the detectors are given ---------------------------------------------------------------

LEVELS = (1, 3, 5)
NOISE_NORMS = (0.1, 0.2, 0.35, 0.7, 1.5)  # L2, pixels in [0, 1]: as small as minimum-norm attacks
CELLS_A_PATIENT = 8
SHIFTS = [f"{name} {level}" for name in CORRUPTIONS for level in LEVELS]
NOISES = [f"noise of norm {norm}" for norm in NOISE_NORMS]
KINDS = SHIFTS + NOISES
PROJECTED = 12  # channels of which second-order statistics are taken
WIDEST = 320  # features; wider taps are projected to it, at random, to save time


@dataclass(frozen=True)
class Features:
    """What the stages of a network make of clean cells and of shifted ones.

    ``clean`` are (n, d) by name, ``shifted`` (K, m, d): each of `KINDS` applied to the cells
    ``sample`` (m,). ``patients`` and ``fields`` (n,) are numbers, ``folds`` (n,) that of a cell's
    patient. ``predicted`` (n,) and ``predicted_shifted`` (K, m) are the network's diagnoses.
    """

    clean: dict[str, Float]
    shifted: dict[str, Float]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    fields: NDArray[np.int64]
    folds: NDArray[np.int64]
    sample: NDArray[np.intp]
    predicted: NDArray[np.int64]
    predicted_shifted: NDArray[np.int64]


def stage_maps(classifier: Classifier, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The output maps of every stage, the first ones first."""
    network: Any = classifier.backbone
    maps = network.conv_stem((pixels - classifier.mean) / classifier.std)
    yield "conv_stem", maps
    maps = network.bn1(maps)
    for i, block in enumerate(network.blocks):
        maps = block(maps)
        yield f"blocks.{i}", maps
    yield "global_pool", network.bn2(network.conv_head(maps))


def pooled(name: str, maps: Tensor) -> dict[str, Tensor]:
    """Mean, standard deviation and, of two thin stages, channel covariances: (B, d) each."""
    channels = maps.shape[1]
    shuffle = torch.Generator().manual_seed(channels)
    mean = maps.mean(dim=(2, 3))
    if channels > WIDEST:
        mean = mean @ torch.randn(channels, WIDEST, generator=shuffle) / channels**0.5
        return {name: mean}
    # torch's own deviation is 25 times slower on channels-last maps.
    deviation = (maps - mean[:, :, None, None]).square_().mean(dim=(2, 3)).sqrt()
    found = {name: mean, f"{name} sd": deviation}
    if name in ("blocks.1", "blocks.2"):
        basis, _ = torch.linalg.qr(torch.randn(channels, PROJECTED, generator=shuffle))
        centred = torch.einsum("bchw,cp->bphw", maps, basis).flatten(2)
        centred = centred - centred.mean(dim=2, keepdim=True)
        gram = centred @ centred.transpose(1, 2) / centred.shape[2]
        upper = torch.triu_indices(PROJECTED, PROJECTED)
        found[f"{name} gram"] = gram[:, upper[0], upper[1]]
    return found


def look(
    classifier: Classifier, tiles: Tensor, last: str = "global_pool", batch: int = 64
) -> tuple[dict[str, Float], NDArray[np.int64]]:
    """Pooled features of tiles (B, 3, side, side) up to a stage; diagnoses with the last one."""
    parts: dict[str, list[Tensor]] = {}
    diagnoses = []
    with torch.inference_mode():
        for start in range(0, len(tiles), batch):
            for name, maps in stage_maps(classifier, tiles[start : start + batch]):
                for key, values in pooled(name, maps).items():
                    parts.setdefault(key, []).append(values)
                if name == "global_pool":
                    network: Any = classifier.backbone
                    logits = network.classifier(maps.mean(dim=(2, 3)))
                    diagnoses.append(logits.argmax(dim=1))
                if name == last:
                    break
    features = {key: torch.cat(values).double().numpy() for key, values in parts.items()}
    return features, np.asarray(torch.cat(diagnoses)) if diagnoses else np.zeros(0, np.int64)


@dataclass(frozen=True)
class View:
    """A way to look at cells: what is cut out of the image, and up to which stage of what."""

    classifier: Classifier
    cut: Cut
    last: str


def shifted_tiles(cells: Cells, cuts: set[Cut]) -> Iterator[dict[Cut, Tensor]]:
    """The same cells under each of `KINDS`: (m, 3, side, side) in [0, 1] by cut."""
    images = [decode_rgb(read_bytes(uri)) for uri in cells.uris]

    def tiles(cut: Cut, made: list[Image.Image]) -> Tensor:
        return to_pixels(np.stack([cut.of(image) for image in made]))

    for name in CORRUPTIONS:
        for level in LEVELS:
            made = [Image.fromarray(corrupt(np.asarray(i), name, level)) for i in images]
            yield {cut: tiles(cut, made) for cut in cuts}
    clean = {cut: tiles(cut, images) for cut in cuts}
    inside = tiles(Cut(64), images).amax(dim=1, keepdim=True) > 0
    grain = torch.randn(len(images), 3, 64, 64, generator=torch.Generator().manual_seed(0)) * inside
    grain /= grain.flatten(1).norm(dim=1)[:, None, None, None]

    # Noise is of the tile of 64 pixels; a view of the whole image sees it resized, as it sees the
    # image, and the middle at its own size does not see it.
    def noisy(cut: Cut, pixels: Tensor, norm: float) -> Tensor:
        if cut.middle:
            return pixels
        size = (cut.side, cut.side)
        seen = nn.functional.interpolate(grain, size, mode="bilinear", antialias=True)
        return (pixels + norm * seen).clamp(0.0, 1.0)

    for norm in NOISE_NORMS:
        yield {cut: noisy(cut, pixels, norm) for cut, pixels in clean.items()}


def extract(views: dict[str, View], cells: Cells, folds: int, seed: int) -> Features:
    """Features of cells, those of a view under names that begin with its own.

    Args:
        views: by the prefix of names; that of "" gives diagnoses.
        cells: those of fitted patients.
        folds: how many; a patient is in one of them.
        seed: of the folds and of the sample that is shifted.
    """
    rng = np.random.default_rng(seed)
    names, patients = np.unique(cells.patients.astype(str), return_inverse=True)
    _, fields = np.unique(cells.fields.astype(str), return_inverse=True)
    rows_of = [np.flatnonzero(patients == p) for p in range(len(names))]
    sample = np.concatenate([rng.permutation(rows)[:CELLS_A_PATIENT] for rows in rows_of])
    few = Cells(*(part[sample] for part in vars(cells).values()))
    cuts = {view.cut for view in views.values()}

    def look_at(tiles: dict[Cut, Tensor]) -> tuple[dict[str, Float], NDArray[np.int64]]:
        found: dict[str, Float] = {}
        for prefix, view in views.items():
            features, diagnoses = look(view.classifier.eval(), tiles[view.cut], view.last)
            found |= {prefix + name: values for name, values in features.items()}
            if not prefix:
                predicted = diagnoses
        return found, predicted

    clean, predicted = look_at({cut: to_pixels(cells.pixels(cut)) for cut in cuts})
    kinds = [look_at(tiles) for tiles in shifted_tiles(few, cuts)]
    return Features(
        clean,
        {name: np.stack([found[name] for found, _ in kinds]) for name in clean},
        cells.labels,
        patients,
        fields,
        rng.permutation(len(names))[patients] % folds,
        sample,
        predicted,
        np.stack([diagnoses for _, diagnoses in kinds]),
    )


# --- Distances at one tap ------------------------------------------------------------------------


@dataclass(frozen=True)
class Tap:
    """Features, and how far from the classes they are said to be.

    ``features`` are concatenated. ``shrinkage`` is "OAS", "Ledoit-Wolf" or a number. ``covariance``
    is "tied", "own" (one for each class) or "global" (one Gaussian, no classes). ``weighting``
    makes "images" or "patients" equal in the statistics. ``centred`` takes away the mean of the
    other cells of the "field" or "patient"; with "shifted patient" those are shifted too.
    ``given``: the distance is that of what these features leave unexplained.
    """

    features: tuple[str, ...]
    space: str = "raw"
    shrinkage: str | float = "OAS"
    covariance: str = "tied"
    weighting: str = "images"
    centred: str = ""
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Distances:
    """Log distances by statistics that have not seen the cell's patient.

    ``clean`` (n,) and ``shifted`` (K, m) are by statistics without the cell's fold of patients;
    ``calibrating`` (F, n) by statistics without fold f and without the cell's patient.
    """

    clean: Float
    shifted: Float
    calibrating: Float


def tap_features(features: Features, tap: Tap) -> tuple[Float, Float]:
    """The features of a tap, of clean cells (n, d) and of shifted ones (K, m, d)."""
    names = (*tap.given, *tap.features)
    # One ridge suits all that is concatenated when all of it has the same deviation.
    scales = [np.sqrt(features.clean[name].var(axis=0).mean()) for name in names]
    clean, shifted = (
        np.concatenate([part[n] / s for n, s in zip(names, scales, strict=True)], axis=-1)
        for part in (features.clean, features.shifted)
    )
    if tap.centred:
        others = mean_of_others(clean, features.patients)
        if tap.centred == "field":
            alone = np.bincount(features.fields)[features.fields] == 1
            others = np.where(alone[:, None], others, mean_of_others(clean, features.fields))
        clean, shifted = clean - others, shifted - others[features.sample]
        if tap.centred == "shifted patient":
            moved = shifted - clean[features.sample]
            groups = features.patients[features.sample]
            shifted = shifted - np.stack([mean_of_others(kind, groups) for kind in moved])
    return in_space(tap.space, clean), np.stack([in_space(tap.space, kind) for kind in shifted])


def in_space(space: str, features: Float) -> Float:
    """Features (n, d) in one of `SPACES`."""
    return unit(features) if space == "unit" else features


def group_means(rows: Float, groups: NDArray[np.int64]) -> Float:
    """The mean (G, d) of the rows of every group."""
    sums = np.zeros((groups.max() + 1, rows.shape[1]))
    np.add.at(sums, groups, rows)
    return sums / np.maximum(np.bincount(groups), 1)[:, None]


def mean_of_others(rows: Float, groups: NDArray[np.int64]) -> Float:
    """The mean (n, d) of the other rows of each row's group; 0 where there are none."""
    count = np.bincount(groups)[groups][:, None]
    return np.asarray((group_means(rows, groups)[groups] * count - rows) / np.maximum(count - 1, 1))


def gaussian_of(state: Moments, shrinkage: float | None) -> TiedGaussian:
    """`tied_gaussian`, with a coefficient of one's own instead of OAS's."""
    if shrinkage is None:
        return tied_gaussian(state)
    covariance = tied_covariance(state)
    d = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    return TiedGaussian(state.mean, cholesky(shrunk, lower=True), shrinkage)


def log_distances(
    state: Moments, rows: Float, tap: Tap, shrinkage: float | None, given: int
) -> Float:
    """Log distances (n,) of rows (n, d), the first ``given`` of them explained, to a class."""
    if tap.covariance == "own":
        own = [
            Moments(state.n[c : c + 1], state.mean[c : c + 1], state.scatter[c : c + 1])
            for c in range(state.classes)
        ]
        each = [nearest_class_distance(gaussian_of(o, shrinkage), rows) for o in own]
        return log_distance(np.min(each, axis=0))
    gaussian = gaussian_of(state, shrinkage)
    if not given:
        return log_distance(nearest_class_distance(gaussian, rows))
    # The last coordinates of a whitened vector are the whitened residual of the regression of the
    # last features on the first ones.
    return log_distance(
        np.min(
            [
                (solve_triangular(gaussian.factor, (rows - mean).T, lower=True)[given:] ** 2).sum(
                    axis=0
                )
                for mean in gaussian.means
            ],
            axis=0,
        )
    )


def distances(features: Features, tap: Tap) -> Distances:
    clean, shifted = tap_features(features, tap)
    given = sum(features.clean[name].shape[1] for name in tap.given)
    classes = 1 if tap.covariance == "global" else len(CLASSES)
    labels = np.minimum(features.labels, classes - 1)
    rows_of = [np.flatnonzero(features.patients == p) for p in np.unique(features.patients)]
    parts = [moments(clean[rows], labels[rows], classes) for rows in rows_of]
    if tap.weighting == "patients":
        weights = [len(clean) / len(rows_of) / len(rows) for rows in rows_of]
        parts = [
            Moments(m.n * w, m.mean, m.scatter * w) for m, w in zip(parts, weights, strict=True)
        ]
    shrinkage = tap.shrinkage if isinstance(tap.shrinkage, float) else None
    if tap.shrinkage == "Ledoit-Wolf":
        centred = clean - group_means(clean, labels)[labels]
        shrinkage = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
    folds, fold_of = np.unique(features.folds), [features.folds[rows[0]] for rows in rows_of]
    found = Distances(
        np.empty(len(clean)),
        np.empty(shifted.shape[:2]),
        np.full((len(folds), len(clean)), np.nan),
    )
    for fold in folds:
        others = [p for p, f in enumerate(fold_of) if f != fold]
        total = reduce(merge, (parts[p] for p in others))
        rows, columns = features.folds == fold, features.folds[features.sample] == fold
        found.clean[rows] = log_distances(total, clean[rows], tap, shrinkage, given)
        flat = shifted[:, columns].reshape(-1, shifted.shape[2])
        found.shifted[:, columns] = log_distances(total, flat, tap, shrinkage, given).reshape(
            len(KINDS), -1
        )
        for p in others:
            state = retract(total, parts[p])
            found.calibrating[fold, rows_of[p]] = log_distances(
                state, clean[rows_of[p]], tap, shrinkage, given
            )
    return found


# --- From distances to a detector ----------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A detector: its taps, how they are fused, and whether each diagnosis is calibrated apart."""

    taps: tuple[Tap, ...]
    fusion: str = "max"
    by_diagnosis: bool = False


@dataclass(frozen=True)
class Found:
    """How a detector does: by kind (K,), and its false alarms by patient (P,)."""

    auroc: Float
    caught_05: Float
    caught_01: Float
    alarms_05: Float
    alarms_01: Float


def fused(fusion: str, calibration: Calibration, logs: Float, taps: list[Calibration]) -> Float:
    """One score (n,) of log distances (n, T)."""
    if fusion == "Fisher":
        p = [p_values(tap, logs[:, t]) for t, tap in enumerate(taps)]
        return np.asarray(-np.log(p).sum(axis=0))
    deviations = (logs - calibration.mean) / calibration.deviation
    return np.asarray(deviations.max(axis=1) if fusion == "max" else deviations.sum(axis=1))


def evaluate(features: Features, choice: Choice, memory: dict[Tap, Distances]) -> Found:
    """Calibrate on all folds but one, score that one; ``memory`` keeps distances."""
    for tap in choice.taps:
        if tap not in memory:
            memory[tap] = distances(features, tap)
    found = [memory[tap] for tap in choice.taps]
    clean = np.stack([d.clean for d in found], axis=-1)
    shifted = np.stack([d.shifted for d in found], axis=-1)
    calibrating = np.stack([d.calibrating for d in found], axis=-1)
    diagnoses, of_shifted = features.predicted, features.predicted_shifted
    if not choice.by_diagnosis:
        diagnoses, of_shifted = np.zeros(len(clean), int), np.zeros(shifted.shape[:2], int)
    score, p = np.empty(len(clean)), np.empty(len(clean))
    score_shifted, p_shifted = np.empty(shifted.shape[:2]), np.empty(shifted.shape[:2])
    for fold in np.unique(features.folds):
        held = features.folds == fold
        for diagnosis in np.unique(diagnoses):
            given = ~held & (diagnoses == diagnosis)
            logs, groups = calibrating[fold][given], features.patients[given]
            whole = calibrate(logs, groups)
            taps = (
                [_sorted(logs[:, t], groups) for t in range(logs.shape[1])]
                if choice.fusion == "Fisher"
                else []
            )
            scores = _sorted(fused(choice.fusion, whole, logs, taps), groups)
            mine = held & (diagnoses == diagnosis)
            score[mine] = fused(choice.fusion, whole, clean[mine], taps)
            p[mine] = p_values(scores, score[mine])
            here = held[features.sample] & (of_shifted == diagnosis)
            score_shifted[here] = fused(choice.fusion, whole, shifted[here], taps)
            p_shifted[here] = p_values(scores, score_shifted[here])
    alarms = [
        group_means((p <= alpha)[:, None].astype(float), features.patients)[:, 0]
        for alpha in (0.05, 0.01)
    ]
    return Found(
        aurocs(score, group_weights(features.patients), score_shifted),
        np.mean(p_shifted <= 0.05, axis=1),
        np.mean(p_shifted <= 0.01, axis=1),
        alarms[0],
        alarms[1],
    )


def _sorted(scores: Float, groups: NDArray[np.int64]) -> Calibration:
    """A calibration by scores (n,) that are fused already."""
    order = np.argsort(scores, kind="stable")
    nothing = np.zeros(1)
    return Calibration(nothing, nothing, scores[order], group_weights(groups)[order])


def aurocs(clean: Float, weights: Float, shifted: Float) -> Float:
    """AUROC (K,) of shifted scores (K, m) against weighted clean ones (n,)."""
    order = np.argsort(clean, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    sides = [below[np.searchsorted(clean[order], shifted, side=s)] for s in ("left", "right")]
    return np.asarray(np.mean(sides, axis=0).mean(axis=1))


COLUMNS: dict[str, Callable[[Found], float]] = {
    "AUROC": lambda f: f.auroc[: len(SHIFTS)].mean(),
    "at .05": lambda f: f.caught_05[: len(SHIFTS)].mean(),
    "at .01": lambda f: f.caught_01[: len(SHIFTS)].mean(),
    "weak AUROC": lambda f: f.auroc[len(SHIFTS) :].mean(),
    "weak .05": lambda f: f.caught_05[len(SHIFTS) :].mean(),
    "alarms .05": lambda f: f.alarms_05.mean(),
    "worst": lambda f: f.alarms_05.max(),
    "alarms .01": lambda f: f.alarms_01.mean(),
}


def print_table(title: str, rows: dict[str, list[Found]], reference: list[Found]) -> None:
    """A row a choice: means over seeds, and what each seed's AUROCs gain over the reference."""
    print(f"\n{title}, mean of {len(reference)} seeds")
    print(f"{'':<44}" + "".join(f"{c:>11}" for c in COLUMNS) + f"{'gain in AUROC, by seed':>32}")
    for name, seeds in rows.items():
        means = [np.mean([column(found) for found in seeds]) for column in COLUMNS.values()]
        gains = [
            100 * (COLUMNS["AUROC"](a) - COLUMNS["AUROC"](b))
            for a, b in zip(seeds, reference, strict=True)
        ]
        shown = " ".join(f"{gain:+.2f}" for gain in gains)
        print(f"{name:<44}" + "".join(f"{m:>11.4f}" for m in means) + f"{shown:>32}")


def print_kinds(rows: dict[str, list[Found]]) -> None:
    """AUROC and the share caught at .05 by kind of shift, a column a choice."""
    print("\nAUROC / caught at .05\n" + f"{'':<24}" + "".join(f"{name:>28}" for name in rows))
    for k, kind in enumerate(KINDS):
        shown = (
            f"{np.mean([f.auroc[k] for f in seeds]):.3f} / "
            f"{np.mean([f.caught_05[k] for f in seeds]):.3f}"
            for seeds in rows.values()
        )
        print(f"{kind:<24}" + "".join(f"{s:>28}" for s in shown))


# --- The choices ---------------------------------------------------------------------------------


def at(*features: str, **how: Any) -> tuple[Tap, ...]:
    """One tap a feature, all measured in the same way."""
    return tuple(Tap((name,), **how) for name in features)


STAGES = ("conv_stem", *(f"blocks.{i}" for i in range(7)), "global_pool")
B2, B3 = at("blocks.2"), at("blocks.3")
DEFAULT = Choice(B2 + B3)
SETS = {
    "2 3": ("blocks.2", "blocks.3"),
    "1 2": ("blocks.1", "blocks.2"),
    "1 2 3": ("blocks.1", "blocks.2", "blocks.3"),
    "stem 0 1 2 3": ("conv_stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3"),
    "2 3 4": ("blocks.2", "blocks.3", "blocks.4"),
    "2 5": ("blocks.2", "blocks.5"),
    "2 6": ("blocks.2", "blocks.6"),
    "2 3 6 global_pool": ("blocks.2", "blocks.3", "blocks.6", "global_pool"),
    "5 6 global_pool": ("blocks.5", "blocks.6", "global_pool"),
    "all": STAGES,
    "2, ImageNet's 3": ("blocks.2", "ImageNet's blocks.3"),
    "2, ImageNet's 3 4": ("blocks.2", "ImageNet's blocks.3", "ImageNet's blocks.4"),
    "2, ImageNet's 5": ("blocks.2", "ImageNet's blocks.5"),
    "2 3, ImageNet's 3": ("blocks.2", "blocks.3", "ImageNet's blocks.3"),
}
SHRINKAGES = ("OAS", "Ledoit-Wolf", 1e-6, 1e-3, 1e-2, 1e-1)
SIDES = (48, 96, 128)
MIDDLES = (64, 96)
LATE = ("blocks.3", "blocks.4", "blocks.5", "blocks.6", "global_pool")

QUESTIONS: dict[str, dict[str, Choice]] = {
    "(a) taps": {"2 3: the default": DEFAULT}
    | {name: Choice(at(name)) for name in STAGES}
    | {f"ImageNet's {i}": Choice(at(f"ImageNet's blocks.{i}")) for i in (3, 4, 5)}
    | {name: Choice(at(*taps)) for name, taps in SETS.items() if name != "2 3"}
    | {"2 3 concatenated": Choice((Tap(("blocks.2", "blocks.3")),))},
    "(b) fusion": {
        f"{name}, {fusion}": Choice(at(*SETS[name]), fusion)
        for name in ("2 3", "1 2 3", "2 3 4", "stem 0 1 2 3", "2 3 6 global_pool")
        for fusion in ("max", "sum", "Fisher")
    },
    "(c) space": {
        f"{' '.join(taps)}, {space}": Choice(at(*taps, space=space))
        for taps in (("blocks.2",), ("blocks.3",), ("blocks.2", "blocks.3"), ("blocks.6",))
        for space in SPACES
    }
    | {"2 and 3, both spaces": Choice(B2 + B3 + at("blocks.2", "blocks.3", space="unit"))},
    "(d) shrinkage of 2 3": {
        f"{shrinkage}": Choice(at("blocks.2", "blocks.3", shrinkage=shrinkage))
        for shrinkage in SHRINKAGES
    },
    "(e) covariance": {
        f"{' '.join(taps)}, {covariance}": Choice(at(*taps, covariance=covariance))
        for taps in (("blocks.2",), ("blocks.2", "blocks.3"))
        for covariance in ("tied", "own", "global")
    },
    "(f) standard deviations, second order": {
        **{f"{n} alone": Choice(at(n)) for n in ("conv_stem sd", "blocks.0 sd", "blocks.1 sd")},
        **{f"{n} alone": Choice(at(n)) for n in ("blocks.2 sd", "blocks.3 sd")},
        **{f"{n} alone": Choice(at(n)) for n in ("blocks.1 gram", "blocks.2 gram")},
        "2 with its sd": Choice((Tap(("blocks.2", "blocks.2 sd")),)),
        "2 with its sd, 3": Choice((Tap(("blocks.2", "blocks.2 sd")), *B3)),
        "2 with its sd, 3 with its sd": Choice(
            tuple(Tap((name, f"{name} sd")) for name in ("blocks.2", "blocks.3"))
        ),
        "2 3, 2 sd": Choice(B2 + B3 + at("blocks.2 sd")),
        "2 3, 2 sd, 3 sd": Choice(B2 + B3 + at("blocks.2 sd", "blocks.3 sd")),
        "2 3, stem sd": Choice(B2 + B3 + at("conv_stem sd")),
        "2 3, 0 sd": Choice(B2 + B3 + at("blocks.0 sd")),
        "2 3, 1 sd": Choice(B2 + B3 + at("blocks.1 sd")),
        "2 3, 1 gram": Choice(B2 + B3 + at("blocks.1 gram")),
        "2 3, 2 gram": Choice(B2 + B3 + at("blocks.2 gram")),
        "1 with its sd, 2 with its sd, 3": Choice(
            (Tap(("blocks.1", "blocks.1 sd")), Tap(("blocks.2", "blocks.2 sd")), *B3)
        ),
    },
    "(g) what early taps leave unexplained": {
        **{f"{n} given 2": Choice(at(n, given=("blocks.2",))) for n in LATE},
        **{f"2 3, {n} given 2": Choice(B2 + B3 + at(n, given=("blocks.2",))) for n in LATE},
        "3 given ImageNet's 3": Choice(at("blocks.3", given=("ImageNet's blocks.3",))),
        "2 3, 3 given ImageNet's 3": Choice(
            B2 + B3 + at("blocks.3", given=("ImageNet's blocks.3",))
        ),
        "5 given ImageNet's 5": Choice(at("blocks.5", given=("ImageNet's blocks.5",))),
        "2 3, 5 given ImageNet's 5": Choice(
            B2 + B3 + at("blocks.5", given=("ImageNet's blocks.5",))
        ),
    },
    "(h) p-values by diagnosis": {
        f"{name}, {'by diagnosis' if by else 'together'}": Choice(taps, by_diagnosis=by)
        for name, taps in (("2", B2), ("2 3", B2 + B3))
        for by in (False, True)
    },
    "(i) what is equal in the statistics": {
        f"2 3, {equal}": Choice(at("blocks.2", "blocks.3", weighting=equal))
        for equal in ("images", "patients")
    },
    "(j) the field's or the patient's mean taken away": {
        f"{' '.join(taps)}, {centred or 'as they are'}": Choice(at(*taps, centred=centred))
        for taps in (("blocks.2",), ("blocks.2", "blocks.3"), ("conv_stem",))
        for centred in ("", "field", "patient", "shifted patient")
    }
    | {
        f"2, and 2 less its {centred}": Choice(B2 + at("blocks.2", centred=centred))
        for centred in ("field", "shifted patient")
    },
    "(k) other sizes": {
        **{f"2 at {side}": Choice(at(f"{side} px blocks.2")) for side in SIDES},
        **{f"3 at {side}": Choice(at(f"{side} px blocks.3")) for side in SIDES},
        **{
            f"2 3 at {side}": Choice(at(f"{side} px blocks.2", f"{side} px blocks.3"))
            for side in SIDES
        },
        **{f"2 3, 2 at {side}": Choice(B2 + B3 + at(f"{side} px blocks.2")) for side in SIDES},
        "1 at 96": Choice(at("96 px blocks.1")),
        "2 at 64, 96 concatenated": Choice((Tap(("blocks.2", "96 px blocks.2")),)),
        **{
            f"2 at {side}, field": Choice(at(f"{side} px blocks.2", centred="field"))
            for side in SIDES
        },
    },
    "(l) the image's middle at its own size": {
        **{f"2 of {side}": Choice(at(f"middle {side} blocks.2")) for side in MIDDLES},
        **{f"1 of {side}": Choice(at(f"middle {side} blocks.1")) for side in MIDDLES},
        **{f"2, 2 of {side}": Choice(B2 + at(f"middle {side} blocks.2")) for side in MIDDLES},
        **{
            f"2 3, 2 of {side}": Choice(B2 + B3 + at(f"middle {side} blocks.2")) for side in MIDDLES
        },
        "2 and 2 of 64 concatenated": Choice((Tap(("blocks.2", "middle 64 blocks.2")),)),
        "2 at 96, 2 of 64": Choice(at("96 px blocks.2", "middle 64 blocks.2")),
        "2 of 64, field": Choice(at("middle 64 blocks.2", centred="field")),
    },
    "(m) early taps together": {
        **{
            f"{' '.join(names)} concatenated": Choice((Tap(names),))
            for names in (
                ("blocks.1", "blocks.2"),
                ("blocks.0", "blocks.1", "blocks.2"),
                ("conv_stem", "blocks.0", "blocks.1", "blocks.2"),
                ("conv_stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3"),
            )
        },
        **{
            f"{name} given {given}": Choice(at(name, given=(given,)))
            for name, given in (
                ("blocks.1", "conv_stem"),
                ("blocks.2", "conv_stem"),
                ("blocks.2", "blocks.0"),
                ("blocks.2", "blocks.1"),
            )
        },
        "2 3, and 2 given stem": Choice(B2 + B3 + at("blocks.2", given=("conv_stem",))),
    },
}
FOLDS = 7


def choices(cells: Cells) -> None:
    """Print how each choice does, a table for each question."""
    rows: dict[str, dict[str, list[Found]]] = {title: {} for title in QUESTIONS}
    reference: list[Found] = []
    for seed in SEEDS:
        parts = split(
            cells.patients.tolist(), cells.labels, by="patient", fractions=FRACTIONS, seed=seed
        ).keys
        trained = train_by(RECIPES[USUAL], cells, parts, seed)
        views = {
            "": View(trained, Cut(64), "global_pool"),
            "ImageNet's ": View(build(trained.spec, "imagenet"), Cut(64), "blocks.5"),
            **{f"{side} px ": View(trained, Cut(side), "blocks.3") for side in SIDES},
            **{f"middle {side} ": View(trained, Cut(side, True), "blocks.2") for side in MIDDLES},
        }
        features = extract(views, cells.of(parts["train"]), FOLDS, seed)
        memory: dict[Tap, Distances] = {}
        reference.append(evaluate(features, DEFAULT, memory))
        for title, tried in QUESTIONS.items():
            for name, choice in tried.items():
                rows[title].setdefault(name, []).append(evaluate(features, choice, memory))
    for title, table in rows.items():
        print_table(title, table, reference)
    found = {name: seeds for table in rows.values() for name, seeds in table.items()}
    print_kinds({name: found[name] for name in ("blocks.2", "blocks.3", "2 at 128", "2 of 64")})


def training(cells: Cells) -> None:
    """Print how the default detector and the diagnosis do after each recipe of training."""
    rows: dict[str, list[Found]] = {name: [] for name in RECIPES}
    diagnosis: dict[str, list[tuple[float, float]]] = {name: [] for name in RECIPES}
    for seed in SEEDS:
        parts = inner_split(cells, seed)
        unseen = cells.of(parts["test"])
        for name, recipe in RECIPES.items():
            trained = train_by(recipe, cells, parts, seed)
            logits = predict(trained, unseen.pixels(Cut(recipe.side)))
            diagnosis[name].append(diagnose(logits, unseen.labels))
            views = {"": View(trained, Cut(recipe.side), "blocks.3")}
            features = extract(views, cells.of(parts["train"]), FOLDS, seed)
            rows[name].append(evaluate(features, DEFAULT, {}))
    print_table("detector by recipe of training", rows, rows[USUAL])
    print(f"\n{'diagnosis of inner test patients':<44}{'accuracy':>11}{'AUROC':>11}{'by seed':>48}")
    for name, found in diagnosis.items():
        means = np.mean(found, axis=0)
        shown = "  ".join(f"{a:.4f} {b:.4f}" for a, b in found)
        print(f"{name:<44}{means[0]:>11.4f}{means[1]:>11.4f}{shown:>48}")


def diagnose(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Accuracy and AUROC."""
    truth, margin = labels == 0, np.asarray(logits[:, 0] - logits[:, 1], np.float64)
    return accuracy(truth, margin > 0), auroc(truth, margin)


if __name__ == "__main__":
    {"choices": choices, "training": training}[sys.argv[1]](all_cells())
