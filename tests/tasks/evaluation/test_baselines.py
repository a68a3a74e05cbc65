from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import softmax
from scipy.stats import rankdata, spearmanr
from sklearn.covariance import OAS, EmpiricalCovariance, oas
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch import nn

from tasks.detector.calibration import abnormality, calibrate
from tasks.detector.detector import Detector
from tasks.detector.mahalanobis import TiedGaussian, tied_gaussian
from tasks.detector.moments import moments
from tasks.evaluation import baselines as scores
from tasks.evaluation.baselines import (
    NEIGHBOURS,
    ODIN_TEMPERATURE,
    SCORES,
    Evidence,
    Fitted,
    Residual,
    all_scores,
    layer_distances,
    odin,
    one_class,
    residual_directions,
    residual_norm,
    unit,
    whole_gaussian,
)
from tasks.evaluation.treatments.attacks import preprocess

Array = NDArray[np.floating]
LAST, EARLY = "penultimate", "blocks.2"
MAGNITUDES = (0.0, 0.0014)


@dataclass(frozen=True)
class World:
    """Features of fitted, ordinary and abnormal images, and the last layer above them."""

    fitted: Array
    labels: NDArray[np.integer]
    ordinary: Array
    abnormal: Array
    weight: Array
    bias: Array

    @property
    def new(self) -> Array:
        return np.concatenate([self.ordinary, self.abnormal])

    @property
    def truth(self) -> NDArray[np.bool_]:
        return np.arange(len(self.new)) >= len(self.ordinary)

    def logits(self, features: Array) -> Array:
        return features @ self.weight.T + self.bias

    def auroc(self, values: Any) -> float:
        return float(roc_auc_score(self.truth, np.asarray(values)))


def draw_world(seed: int, n: int, d: int, classes: int) -> World:
    """Correlated features about class means, and abnormal ones that are a little off."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    mixing = rotation * rng.uniform(0.3, 2, d)
    means = 0.5 * rng.normal(size=(classes, d)) + 2

    def some(labels: NDArray[np.integer], off: float = 0.0) -> Array:
        white = rng.normal(size=(len(labels), d)) + off * rng.normal(size=(len(labels), d))
        return (means[labels] + white @ mixing.T).astype(np.float32)

    labels = np.arange(n) % classes
    return World(
        fitted=some(labels),
        labels=labels,
        ordinary=some(rng.integers(0, classes, 400)),
        abnormal=some(rng.integers(0, classes, 400), off=1.6 / d**0.25),
        weight=(rng.normal(size=means.shape) + means - 2).astype(np.float32) / np.sqrt(d),
        bias=rng.normal(size=classes).astype(np.float32),
    )


def fit(world: World, early: Array | None = None) -> Fitted:
    classes = int(world.labels.max()) + 1
    raw = moments(world.fitted, world.labels, classes)
    on_sphere = world.fitted / np.linalg.norm(world.fitted, axis=1, keepdims=True)
    origin, directions = residual_directions(raw, world.weight, world.bias)
    residual = Residual(origin, directions, 1.0)
    largest = world.logits(world.fitted).max(axis=1).mean(dtype=np.float64)
    scale = float(largest / residual_norm(residual, world.fitted).mean())
    layers = {LAST: tied_gaussian(raw)}
    if early is not None:
        layers = {EARLY: tied_gaussian(moments(early, world.labels, classes)), **layers}
    rng = np.random.default_rng(0)
    calibration = calibrate(rng.normal(size=(100, len(layers))), np.arange(100) % 10)
    return Fitted(
        detector=Detector(dict(layers), calibration),
        last=LAST,
        layers=layers,
        unit_last=tied_gaussian(moments(on_sphere, world.labels, classes)),
        whole=whole_gaussian(raw),
        residual=replace(residual, scale=scale),
        bank=on_sphere,
    )


def evidence(world: World, features: Array, early: Array | None = None) -> Evidence:
    taps = {LAST: features} | ({} if early is None else {EARLY: early})
    rng = np.random.default_rng(1)
    shift = {m: rng.normal(scale=0.1, size=features.shape).astype(np.float32) for m in MAGNITUDES}
    return Evidence(
        taps=taps,
        logits=world.logits(features),
        border=rng.random(len(features), dtype=np.float32),
        odin={m: world.logits(features + shift[m]) for m in MAGNITUDES},
        moved={m: {k: v + v.std() * m for k, v in taps.items()} for m in MAGNITUDES},
    )


def squared_distances(features: Array, mean: Array, covariance: Array) -> Array:
    offsets = np.asarray(features, np.float64) - mean
    return np.einsum("ij,jk,ik->i", offsets, np.linalg.inv(covariance), offsets)


def nearest(features: Array, fitted: Array, labels: NDArray[np.integer]) -> Array:
    """The formula with an inverse, and scikit-learn's shrinkage."""
    wide = np.asarray(fitted, np.float64)
    means = np.stack([wide[labels == c].mean(axis=0) for c in np.unique(labels)])
    covariance, _ = oas(wide - means[labels], assume_centered=True)
    return np.min([squared_distances(features, m, covariance) for m in means], axis=0)


def on_sphere(features: Array) -> Array:
    wide = np.asarray(features, np.float64)
    return wide / np.sqrt((wide**2).sum(axis=1))[:, None]


WORLD = draw_world(0, 900, 24, 3)
FITTED = fit(WORLD)
EVIDENCE = evidence(WORLD, WORLD.new)


def test_mahalanobis_equals_the_formula() -> None:
    expected = nearest(WORLD.new, WORLD.fitted, WORLD.labels)
    assert_allclose(scores.mahalanobis_last(EVIDENCE, FITTED), expected, rtol=1e-7)


def test_mahalanobis_plus_plus_is_mahalanobis_on_the_unit_sphere() -> None:
    expected = nearest(on_sphere(WORLD.new), on_sphere(WORLD.fitted), WORLD.labels)
    found = scores.mahalanobis_plus_plus(EVIDENCE, FITTED)
    assert_allclose(found, expected, rtol=1e-5)
    # How long a feature is does not count.
    longer = replace(EVIDENCE, taps={LAST: 3 * EVIDENCE.taps[LAST]})
    assert_allclose(scores.mahalanobis_plus_plus(longer, FITTED), found, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_features_have_length_one_and_zero_stays_zero(scale: float) -> None:
    features = np.array([[3, 4], [0, 0], [-5, 12]], np.float32) * np.float32(scale)
    assert_allclose(unit(features), [[0.6, 0.8], [0, 0], [-5 / 13, 12 / 13]], rtol=1e-6)


def test_the_marginal_distance_is_scikit_learns() -> None:
    expected = OAS().fit(WORLD.fitted.astype(np.float64)).mahalanobis(WORLD.new)
    assert_allclose(scores.marginal_mahalanobis(EVIDENCE, FITTED), expected, rtol=1e-7)


def test_the_relative_distance_is_the_difference_of_both() -> None:
    whole = OAS().fit(WORLD.fitted.astype(np.float64)).mahalanobis(WORLD.new)
    expected = nearest(WORLD.new, WORLD.fitted, WORLD.labels) - whole
    assert_allclose(scores.relative_mahalanobis(EVIDENCE, FITTED), expected, atol=1e-6)


@pytest.mark.parametrize(("counts", "empty"), [([300, 300, 300], []), ([5, 80, 700], [1, 4])])
def test_statistics_of_one_class_are_those_of_the_pooled_images(
    counts: list[int], empty: list[int]
) -> None:
    rng = np.random.default_rng(2)
    there = [c for c in range(len(counts) + len(empty)) if c not in empty]
    labels = np.repeat(there, counts)
    features = 100 + labels[:, None] + rng.normal(size=(len(labels), 5))
    whole = one_class(moments(features, labels, len(there) + len(empty)))
    expected = EmpiricalCovariance().fit(features)
    assert whole.n.tolist() == [len(features)]
    assert_allclose(whole.mean, expected.location_[None], rtol=1e-12)
    assert_allclose(whole.scatter[0] / len(features), expected.covariance_, rtol=1e-9, atol=1e-9)
    gaussian = whole_gaussian(moments(features, labels, len(there) + len(empty)))
    shrunk = OAS().fit(features)
    assert gaussian.shrinkage == pytest.approx(shrunk.shrinkage_)
    assert_allclose(gaussian.factor @ gaussian.factor.T, shrunk.covariance_, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [900, 50, 49, 1])
def test_nearest_neighbours_equal_sorting_all_distances(count: int) -> None:
    bank = on_sphere(WORLD.fitted[:count])
    distances = np.sort(cdist(on_sphere(WORLD.new), bank), axis=1)
    expected = distances[:, min(NEIGHBOURS, count) - 1]
    found = scores.k_nearest_neighbours(EVIDENCE, replace(FITTED, bank=bank))
    assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_energy_equals_the_formula_also_for_large_logits() -> None:
    logits = np.float64(EVIDENCE.logits)
    assert_allclose(
        scores.energy(EVIDENCE, FITTED), -np.log(np.exp(logits).sum(axis=1)), rtol=1e-12
    )
    large = replace(EVIDENCE, logits=np.float32([[2000, 0, -2000], [-3000, -3000, -9000]]))
    assert_allclose(scores.energy(large, FITTED), [-2000, 3000 - np.log(2)])


def test_maximum_softmax_ranks_as_the_probability_does_and_goes_on_where_it_is_one() -> None:
    probability = softmax(np.float64(EVIDENCE.logits), axis=1).max(axis=1)
    found = scores.maximum_softmax(EVIDENCE, FITTED)
    assert_allclose(found, np.log(1 - probability), rtol=1e-9)
    assert_array_equal(rankdata(found), rankdata(1 - probability))
    sure = replace(EVIDENCE, logits=np.float32([[0, 50, 0], [60, 1, 0], [0, 90, 80], [0, 0, 0]]))
    assert_allclose(
        scores.maximum_softmax(sure, FITTED),
        [np.log(2) - 50, np.log(1 + np.e) - 60, -10 - np.log1p(np.exp(-10)), np.log(2 / 3)],
        rtol=1e-9,
    )


def test_odin_is_the_tempered_probability_at_its_magnitude() -> None:
    for magnitude in MAGNITUDES:
        tempered = np.float64(EVIDENCE.odin[magnitude]) / ODIN_TEMPERATURE
        chances = np.exp(tempered) / np.exp(tempered).sum(axis=1, keepdims=True)
        assert_allclose(odin(EVIDENCE, magnitude), 1 - chances.max(axis=1), rtol=1e-12)
    assert (odin(EVIDENCE, MAGNITUDES[0]) != odin(EVIDENCE, MAGNITUDES[1])).all()
    with pytest.raises(KeyError):
        odin(EVIDENCE, 0.5)


def origin_of(world: World) -> Array:
    """Where the logits are zero, and nearest to zero of such places."""
    solved: Array = np.linalg.lstsq(np.float64(world.weight), -np.float64(world.bias), rcond=None)
    return solved[0]


def residual_by_svd(world: World, features: Array, principal: int) -> Array:
    """What a singular value decomposition of the fitted features themselves leaves out."""
    origin = origin_of(world)
    _, _, rows = np.linalg.svd(np.float64(world.fitted) - origin, full_matrices=False)
    offsets = np.float64(features) - origin
    return np.linalg.norm(offsets - offsets @ rows[:principal].T @ rows[:principal], axis=1)


def test_the_residual_and_vim_equal_a_decomposition_of_the_features() -> None:
    assert_allclose(WORLD.weight @ origin_of(WORLD) + WORLD.bias, 0, atol=1e-5)
    expected = residual_by_svd(WORLD, WORLD.new, 12)
    assert_allclose(scores.residual(EVIDENCE, FITTED), expected, rtol=1e-7)
    scale = WORLD.logits(WORLD.fitted).max(axis=1).mean() / (
        residual_by_svd(WORLD, WORLD.fitted, 12).mean()
    )
    logits = np.float64(EVIDENCE.logits)
    wanted = scale * expected - np.log(np.exp(logits).sum(axis=1))
    assert_allclose(scores.vim(EVIDENCE, FITTED), wanted, rtol=1e-5, atol=1e-5)


def test_a_residual_about_the_mean_is_what_principal_components_leave_out() -> None:
    centred = WORLD.fitted - WORLD.fitted.mean(axis=0)
    raw = moments(centred, WORLD.labels, 3)
    residual = Residual(*residual_directions(raw, WORLD.weight, np.zeros(3)), 1.0)
    components = PCA(12).fit(centred)
    left = WORLD.new - components.inverse_transform(components.transform(WORLD.new))
    assert_allclose(residual_norm(residual, WORLD.new), np.linalg.norm(left, axis=1), rtol=1e-4)


@pytest.mark.parametrize(("d", "left_out"), [(9, 5), (24, 12), (767, 384), (768, 256)])
def test_the_principal_subspace_is_as_large_as_its_authors_say(d: int, left_out: int) -> None:
    features = np.random.default_rng(3).normal(size=(40, d))
    raw = moments(features, np.zeros(40, int), 1)
    origin, directions = residual_directions(raw, np.ones((1, d)), np.array([2.0 * d]))
    assert_allclose(origin, -2)
    assert directions.shape == (d, left_out)
    assert_allclose(directions.T @ directions, np.eye(left_out), atol=1e-9)


def test_the_border_is_its_brightness() -> None:
    assert_array_equal(scores.black_border(EVIDENCE, FITTED), EVIDENCE.border)


def test_slidewatch_and_the_layers_see_every_stage() -> None:
    rng = np.random.default_rng(4)
    early = rng.normal(size=(900, 7)).astype(np.float32)
    new_early = rng.normal(size=(800, 7)).astype(np.float32)
    fitted, found = fit(WORLD, early), evidence(WORLD, WORLD.new, new_early)
    logs = np.log(
        np.stack(
            [
                nearest(new_early, early, WORLD.labels),
                nearest(WORLD.new, WORLD.fitted, WORLD.labels),
            ],
            axis=1,
        )
    )
    assert_allclose(layer_distances(found, fitted), logs, rtol=1e-7)
    expected = abnormality(fitted.detector.calibration, logs)
    assert_allclose(scores.slidewatch(found, fitted), expected, rtol=1e-6)
    moved = replace(found, taps=found.moved[0.0014])
    assert_allclose(
        scores.preprocessed(found, fitted, 0.0014), scores.slidewatch(moved, fitted), rtol=1e-12
    )
    assert (scores.preprocessed(found, fitted, 0.0014) != scores.slidewatch(found, fitted)).any()


def test_every_score_has_a_finite_value_for_every_image_under_its_own_name() -> None:
    found = all_scores(EVIDENCE, FITTED)
    for name, function in SCORES.items():
        assert_array_equal(found[name], function(EVIDENCE, FITTED))
    others = {"ODIN 0", "ODIN 0.0014"}
    others |= {f"slidewatch, pre-processed {m:g}" for m in MAGNITUDES}
    assert set(found) == set(SCORES) | others
    for values in found.values():
        assert values.shape == (800,)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
    assert len({values.tobytes() for values in found.values()}) >= len(SCORES) + 2
    without = replace(EVIDENCE, odin={}, moved={})
    assert set(all_scores(without, FITTED)) == set(SCORES)


@pytest.mark.parametrize(
    "name", ["k nearest neighbours", "mahalanobis, last layer", "mahalanobis++", "residual"]
)
def test_a_higher_score_is_more_abnormal(name: str) -> None:
    far = WORLD.ordinary + np.random.default_rng(5).normal(size=24).astype(np.float32) * 20
    both = np.concatenate([WORLD.ordinary, far])
    values = SCORES[name](evidence(WORLD, both), FITTED)
    assert roc_auc_score(np.arange(800) >= 400, values) > 0.9


def test_images_without_a_clear_class_have_less_of_a_maximum_and_more_energy() -> None:
    sure, unsure = np.float32([[9, 0, 0]]), np.float32([[1, 0.9, 1]])
    for function in (scores.maximum_softmax, scores.energy):
        low, high = (function(replace(EVIDENCE, logits=x), FITTED)[0] for x in (sure, unsure))
        assert low < high


# Against pytorch-ood, on the same features.

MANY = {
    "two classes, d = 64": draw_world(10, 6000, 64, 2),
    "ten classes, d = 64": draw_world(11, 6000, 64, 10),
    "ten classes, d = 256": draw_world(12, 12000, 256, 10),
}
WORLDS = pytest.mark.parametrize("world", MANY.values(), ids=MANY)


@pytest.fixture(scope="module")
def peer() -> Any:
    from pytorch_ood import detector

    return detector


def tensors(world: World) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """In float64, so that differences are of definitions."""
    return (
        torch.from_numpy(world.fitted).double(),
        torch.from_numpy(world.labels),
        torch.from_numpy(world.new).double(),
    )


def by_peer(made: Any, world: World, monkeypatch: pytest.MonkeyPatch) -> Array:
    # It allocates what it fits in the default type.
    monkeypatch.setattr(torch, "zeros", _double(torch.zeros))
    monkeypatch.setattr(torch, "eye", _double(torch.eye))
    fitted, labels, new = tensors(world)
    return made(None).fit_features(fitted, labels).predict_features(new).numpy()


def _double(make: Any) -> Any:
    return lambda *args, **kwargs: make(*args, **{"dtype": torch.float64, **kwargs})


def with_ridge(gaussian: TiedGaussian, scatter: Array, n: int) -> TiedGaussian:
    """A Gaussian with pytorch-ood's covariance: the scatter and a ridge, here over n."""
    covariance = (scatter + 1e-6 * np.eye(len(scatter))) / n
    return replace(gaussian, factor=np.linalg.cholesky(covariance))


@WORLDS
def test_mahalanobis_agrees_with_pytorch_ood_and_the_formula(
    peer: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, found = fit(world), evidence(world, world.new)
    n, classes = len(world.fitted), int(world.labels.max()) + 1
    ours = scores.mahalanobis_last(found, fitted)
    theirs = by_peer(peer.Mahalanobis, world, monkeypatch)
    oracle = nearest(world.new, world.fitted, world.labels)
    areas = [world.auroc(values) for values in (ours, theirs, oracle)]
    assert 0.6 < areas[0] < 0.99  # neither is all clear nor is it chance
    assert np.ptp(areas) < 0.002
    # With the same covariance it is the same distance, up to their half and their n.
    scatter = moments(world.fitted, world.labels, classes).scatter.sum(axis=0)
    gaussian = with_ridge(fitted.layers[LAST], scatter, n)
    same = scores.mahalanobis_last(found, replace(fitted, layers={LAST: gaussian}))
    assert_allclose(same, 2 * n * theirs, rtol=1e-6)
    assert abs(world.auroc(same) - areas[1]) < 1e-5


@WORLDS
def test_the_relative_distance_agrees_with_pytorch_ood(
    peer: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, found = fit(world), evidence(world, world.new)
    n, classes = len(world.fitted), int(world.labels.max()) + 1
    theirs = by_peer(peer.RMD, world, monkeypatch)
    raw = moments(world.fitted, world.labels, classes)
    same = replace(
        fitted,
        layers={LAST: with_ridge(fitted.layers[LAST], raw.scatter.sum(axis=0), n)},
        whole=with_ridge(fitted.whole, one_class(raw).scatter[0], n),
    )
    ours = scores.relative_mahalanobis(found, same)
    assert_allclose(ours, n * theirs, rtol=1e-6, atol=1e-6)
    assert abs(world.auroc(ours) - world.auroc(theirs)) < 1e-4


@WORLDS
def test_scores_of_logits_agree_with_pytorch_ood(peer: Any, world: World) -> None:
    found, fitted = evidence(world, world.new), fit(world)
    logits = torch.from_numpy(found.logits).double()
    energy = peer.EnergyBased(None).predict_logits(logits)
    assert_allclose(scores.energy(found, fitted), energy, rtol=1e-9, atol=1e-9)
    softest = peer.MaxSoftmax(None).predict_logits(logits)
    ours = scores.maximum_softmax(found, fitted)
    assert spearmanr(ours, softest).statistic > 0.999999
    assert abs(world.auroc(ours) - world.auroc(softest)) < 0.002


@WORLDS
def test_nearest_neighbours_agree_with_pytorch_ood(peer: Any, world: World) -> None:
    fitted, labels, new = tensors(world)
    theirs = peer.KNN(None, k=NEIGHBOURS).fit_features(fitted, labels).predict_features(new)
    ours = scores.k_nearest_neighbours(evidence(world, world.new), fit(world))
    assert_allclose(ours, theirs, rtol=1e-4)
    assert abs(world.auroc(ours) - world.auroc(theirs)) < 0.002


@WORLDS
def test_vim_agrees_with_pytorch_ood(peer: Any, world: World) -> None:
    fitted, labels, new = tensors(world)
    d = world.fitted.shape[1]
    weight, bias = torch.from_numpy(world.weight), torch.from_numpy(world.bias)
    vim = peer.ViM(None, d=d // 2, w=weight, b=bias).fit_features(fitted, labels)
    theirs = vim.predict_features(new)
    made = fit(world)
    ours = scores.vim(evidence(world, world.new), made)
    assert made.residual.scale == pytest.approx(vim.alpha, rel=1e-3)
    assert_allclose(made.residual.origin, vim.u, rtol=1e-3, atol=1e-4)
    assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)
    assert spearmanr(ours, theirs).statistic > 0.999
    assert abs(world.auroc(ours) - world.auroc(theirs)) < 0.002


def test_odin_agrees_with_pytorch_ood(peer: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.Tanh(), nn.Linear(20, 3)).double()
    pixels = torch.rand(40, 3, 4, 4, dtype=torch.float64)
    for magnitude in MAGNITUDES:
        moved = peer.odin_preprocessing(network, pixels, eps=magnitude)
        start = pixels.clone().requires_grad_(True)
        tempered = -(network(start) / ODIN_TEMPERATURE).log_softmax(dim=1).amax(dim=1)
        ours = preprocess(start, tempered, magnitude)
        assert_allclose(ours, moved, rtol=1e-12)
        with torch.no_grad():
            logits = network(ours).numpy()
        found = odin(replace(EVIDENCE, odin={magnitude: logits}), magnitude)
        theirs = peer.ODIN(network, eps=magnitude).predict(pixels).detach().numpy()
        assert_allclose(found - 1, theirs, rtol=1e-9)
