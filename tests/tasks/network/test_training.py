import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from storage.records import arrays_from_bytes, arrays_to_bytes
from tasks.network import training
from tasks.network.backbones import build, network_spec
from tasks.network.classifier import Classifier
from tasks.network.spec import NetworkSpec
from tasks.network.training import (
    DivergedError,
    Epoch,
    TrainingData,
    TrainingPlan,
    calibrated_loss,
    fit_temperature,
    negative_log_likelihood,
    predict,
    train,
)
from tasks.smears.synthetic import rendered_cells as render
from tests.support.models import CLASSES

SIDE, COUNT = 32, 48
LABELS = np.arange(COUNT) % 2
TRAIN, VALIDATION = np.arange(32), np.arange(32, COUNT)
NONE = 1e-9  # epochs over which weights are averaged: those of the last step are left


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """Cells (class 0) and noise (class 1): nobody could mistake one for the other."""
    rng = np.random.default_rng(0)
    patient = render.draw_patient(1, rng)
    images = [
        rng.integers(0, 256, (100, 100, 3), np.uint8) if c else render.red_cell(patient, rng, None)
        for c in LABELS
    ]
    return np.stack([np.asarray(Image.fromarray(i).resize((SIDE, SIDE))) for i in images])


def make(spec: NetworkSpec, frozen: bool = False) -> Classifier:
    torch.manual_seed(0)
    taps = spec.taps
    return build(
        spec if frozen else network_spec(spec.network, CLASSES, SIDE, taps=taps, frozen=())
    )


def run(
    classifier: Classifier,
    pixels: NDArray[np.uint8],
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    **plan: Any,
) -> list[Epoch]:
    made = TrainingPlan(**({"epochs": 3, "batch": 8, "peak_rate": 3e-3, "averaging": NONE} | plan))  # type: ignore[arg-type]
    return train(classifier, TrainingData(pixels, LABELS, TRAIN, VALIDATION), made, on_epoch)


def weights(classifier: Classifier) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in classifier.state_dict().items()}


def test_loss_falls_on_images_that_are_easy_to_tell_apart(
    spec: NetworkSpec, pixels: NDArray[np.uint8]
) -> None:
    classifier = make(spec)
    epochs = run(classifier, pixels, epochs=8)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert epochs[-1].train_loss < epochs[0].train_loss / 2
    assert (predict(classifier, pixels).argmax(axis=1) == LABELS).mean() > 0.9


def test_a_seed_decides_every_weight(spec: NetworkSpec, pixels: NDArray[np.uint8]) -> None:
    def trained(seed: int) -> dict[str, bytes]:
        classifier = make(spec)
        torch.rand(seed)  # whatever was drawn before changes nothing
        run(classifier, pixels, epochs=1, seed=seed)
        return weights(classifier)

    assert trained(3) == trained(3)
    assert trained(3) != trained(4)


def test_the_best_epoch_is_what_is_left(
    spec: NetworkSpec, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.5, 0.2, 0.9, 0.2])
    monkeypatch.setattr(training, "calibrated_loss", lambda *_: next(losses))
    classifier, seen = make(spec), []
    epochs = run(classifier, pixels, lambda _: seen.append(weights(classifier)), epochs=4)
    assert [epoch.validation_loss for epoch in epochs] == [0.5, 0.2, 0.9, 0.2]
    assert weights(classifier) == seen[1] != seen[3]
    assert not classifier.training


def test_frozen_stages_come_out_as_they_went_in(
    spec: NetworkSpec, pixels: NDArray[np.uint8]
) -> None:
    classifier = make(spec, frozen=True)
    before = weights(classifier)
    run(classifier, pixels, epochs=1)
    after = weights(classifier)
    prefixes = tuple(f"backbone.{name}." for name in spec.frozen)
    assert all(after[name] == before[name] for name in before if name.startswith(prefixes))
    assert after != before


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_a_rate_that_is_too_high_diverges_or_leaves_finite_weights(
    spec: NetworkSpec, pixels: NDArray[np.uint8], rate: float
) -> None:
    classifier = make(spec)
    try:
        epochs = run(classifier, pixels, epochs=2, peak_rate=rate)
    except DivergedError as error:
        message = str(error)
    else:
        message = "lower the rate"
        assert all(math.isfinite(epoch.validation_loss) for epoch in epochs)
        assert np.isfinite(predict(classifier, pixels)).all()
    assert "lower the rate" in message


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_validation_loss_that_is_no_number_is_no_best_epoch(
    spec: NetworkSpec, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    monkeypatch.setattr(training, "calibrated_loss", lambda *_: loss)
    with pytest.raises(DivergedError, match=f"validation loss of epoch 1 is {loss}"):
        run(make(spec), pixels, epochs=2)


def noisy_logits(scale: float) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Logits that are calibrated at scale 1: labels are drawn from their own softmax."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (4000, 2))
    chance = 1 / (1 + np.exp(honest[:, 0] - honest[:, 1]))
    return scale * honest, (rng.random(4000) < chance).astype(np.intp)


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_a_temperature_undoes_over_and_underconfidence(scale: float) -> None:
    logits, truth = noisy_logits(scale)
    temperature = fit_temperature(logits, truth)
    assert temperature == pytest.approx(scale, rel=0.1)
    if scale != 1.0:
        fitted = negative_log_likelihood(logits, truth, temperature)
        assert fitted < negative_log_likelihood(logits, truth) - 0.01


def test_a_temperature_stays_in_its_range() -> None:
    logits = np.array([[0.2, -0.2], [-0.2, 0.2]])
    right, wrong = np.array([0, 1]), np.array([1, 0])
    assert fit_temperature(logits, right) == pytest.approx(1 / 20, rel=0.01)
    assert fit_temperature(logits, wrong) == pytest.approx(20, rel=0.01)


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_a_calibrated_loss_does_not_mind_how_sure_logits_are(scale: float) -> None:
    (honest, truth), (other, _) = noisy_logits(1.0), noisy_logits(scale)
    found = calibrated_loss(other, truth)
    assert found == pytest.approx(calibrated_loss(honest, truth), rel=1e-3)
    assert found < negative_log_likelihood(other, truth) - 0.01


RESUMED = TrainingPlan(epochs=4, batch=8, peak_rate=3e-3, averaging=0.5)


class CutOffError(Exception):
    """Training was killed."""


@pytest.mark.parametrize(
    ("network", "plan"),
    [
        ("timm:test_resnet", replace(RESUMED, averaging=NONE)),
        ("torchvision:mobilenet_v3_small", RESUMED),
    ],
)
def test_training_that_was_cut_off_in_epoch_3_comes_to_the_same_bytes(
    pixels: NDArray[np.uint8], network: str, plan: TrainingPlan
) -> None:
    """The second network has dropout, which draws from the global generator."""

    def made() -> Classifier:
        torch.manual_seed(1)
        return build(network_spec(network, CLASSES, SIDE, taps=(), frozen=()))

    def cut_off(epoch: Epoch) -> None:
        if epoch.number == 3:
            raise CutOffError

    args = (TrainingData(pixels, LABELS, TRAIN, VALIDATION), plan)
    undisturbed, resumed, states = made(), made(), {}
    expected = train(undisturbed, *args)
    with pytest.raises(CutOffError):
        train(made(), *args, cut_off, keep=lambda number, state: states.update({number: state}))
    torch.rand(7)
    # What happened in epoch 3 is lost with the process; the state of epoch 2 is the newest whole.
    kept = arrays_from_bytes(arrays_to_bytes(states[2]))
    found = train(resumed, *args, start=kept)
    assert weights(resumed) == weights(undisturbed)
    assert [replace(e, seconds=0.0) for e in found] == [replace(e, seconds=0.0) for e in expected]


def test_a_finished_training_is_not_repeated(spec: NetworkSpec, pixels: NDArray[np.uint8]) -> None:
    states: dict[int, dict[str, NDArray[Any]]] = {}
    first, again = make(spec), make(spec)
    plan = TrainingPlan(epochs=2, batch=8)
    args = (TrainingData(pixels, LABELS, TRAIN, VALIDATION), plan)
    train(first, *args, keep=lambda number, state: states.update({number: state}))
    train(again, *args, lambda _: pytest.fail("an epoch was trained"), start=states[2])
    assert weights(again) == weights(first)


def test_averaged_weights_are_left_where_weights_are_averaged(
    spec: NetworkSpec, pixels: NDArray[np.uint8]
) -> None:
    plain, averaged = make(spec), make(spec)
    losses = [e.train_loss for e in run(plain, pixels)]
    found = run(averaged, pixels, averaging=1.0)
    assert [e.train_loss for e in found] == losses
    assert weights(averaged) != weights(plain)
    fc = "backbone.fc.weight"
    assert averaged.state_dict()[fc].norm() < plain.state_dict()[fc].norm()  # it began at 0


def test_a_short_training_is_not_left_with_the_weights_it_began_with(
    spec: NetworkSpec, pixels: NDArray[np.uint8]
) -> None:
    """Averaged over 10 epochs, of which there are 4: half of the way at least is kept."""
    start, plain, averaged = make(spec), make(spec), make(spec)
    run(plain, pixels, epochs=4)
    run(averaged, pixels, epochs=4, averaging=10.0)
    fc = "backbone.fc.weight"
    began, moved, kept = (c.state_dict()[fc] for c in (start, plain, averaged))
    assert (kept - began).norm() > 0.5 * (moved - began).norm()


def test_pixels_in_a_file_train_the_same_network(
    spec: NetworkSpec, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    file = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=pixels.shape)
    file[:] = pixels
    in_memory, in_file = make(spec), make(spec)
    run(in_memory, pixels, epochs=1)
    run(in_file, file, epochs=1)
    assert weights(in_file) == weights(in_memory)
