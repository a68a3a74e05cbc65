"""Train a classifier on decoded images, and fit its calibrating temperature."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tasks.network.augmentation import augment
from tasks.network.classifier import Classifier, to_pixels
from tasks.types import Array, Arrays, Float, Index, Integers, Numbers, Pixels, below, nested

PREDICTED = 256  # images in a pass without gradients


@dataclass(frozen=True)
class TrainingPlan:
    """The recipe of one-cycle AdamW, with weights averaged over ``averaging`` epochs, above 0."""

    epochs: int = 16
    batch: int = 128
    peak_rate: float = 1e-3
    weight_decay: float = 0.01
    averaging: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """The result of an epoch: mean losses in nats, that of validation by `calibrated_loss`."""

    number: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"loss {self.train_loss:.4f}, validation loss {self.validation_loss:.4f}, "
            f"validation accuracy {self.validation_accuracy:.4f}, {self.seconds:.0f} s"
        )


class DivergedError(Exception):
    """A loss of the training is not finite."""


@dataclass(frozen=True)
class TrainingData:
    """Images to train on.

    ``pixels`` (n, side, side, 3) are in memory or in a file, ``labels`` (n,) classes, ``weights``
    (n,) those of images in the loss, by default equal. Rows in ``train_rows`` are learned, those in
    ``validation_rows`` choose the epoch.
    """

    pixels: Pixels
    labels: Integers
    train_rows: Index
    validation_rows: Index
    weights: Float | None = None


def train(
    classifier: Classifier,
    data: TrainingData,
    plan: TrainingPlan,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    *,
    keep: Callable[[int, Arrays], None] = lambda number, state: None,
    start: Mapping[str, Array] | None = None,
) -> list[Epoch]:
    """Train in place to the weights of the epoch with the least validation loss.

    A CUDA device uses mixed precision. After every epoch ``keep`` is called with its number and a
    state, from which the same training can ``start``: it gives the same bytes as an uninterrupted
    one, on a processor with the same number of threads. DivergedError if a loss is not finite.
    """
    truth = np.asarray(data.labels, np.int64)[data.validation_rows]
    training = _Training(classifier, plan, math.ceil(len(data.train_rows) / plan.batch))
    if start is not None:
        training.restore(start)
    while len(training.epochs) < plan.epochs:
        began = time.monotonic()
        number = len(training.epochs) + 1
        train_loss = training.learn(data, number)
        logits = predict(training.judged, data.pixels, data.validation_rows)
        loss, accuracy = calibrated_loss(logits, truth), float(np.mean(logits.argmax(1) == truth))
        epoch = Epoch(number, train_loss, loss, accuracy, time.monotonic() - began)
        _refuse_diverged("validation loss", number, epoch.validation_loss)
        training.add(epoch)
        keep(number, training.state())
        on_epoch(epoch)
    classifier.load_state_dict(_tensors_below(training.best, "best"))
    classifier.eval()
    return training.epochs


class _Training:
    def __init__(self, classifier: Classifier, plan: TrainingPlan, steps: int) -> None:
        self._classifier, self._device = classifier, classifier.mean.device
        self._plan, self._steps = plan, steps
        self.epochs: list[Epoch] = []
        self.best: Arrays = {}
        self._generator = torch.Generator().manual_seed(plan.seed)
        torch.manual_seed(plan.seed)  # dropout, if there is any, draws from the global generator
        learned = [p for p in classifier.parameters() if p.requires_grad]
        rate = plan.peak_rate
        self._optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=plan.weight_decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, max_lr=rate, total_steps=plan.epochs * steps
        )
        self._mixed = self._device.type == "cuda"
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._mixed)
        decay = math.exp(-1.0 / (plan.averaging * steps))
        self._average = AveragedModel(classifier, multi_avg_fn=_averaging(decay), use_buffers=True)

    @property
    def judged(self) -> Classifier:
        """Return the classifier to be judged: with averaged weights."""
        judged = self._average.module
        assert isinstance(judged, Classifier)
        return judged

    def learn(self, data: TrainingData, number: int) -> float:
        """Learn from every row once, in random order; return the mean loss."""
        self._classifier.train()
        total, targets = 0.0, torch.from_numpy(np.asarray(data.labels, np.int64))
        weights = np.ones(len(targets)) if data.weights is None else data.weights
        weighs, count = torch.from_numpy(weights).float(), len(data.train_rows)
        order = data.train_rows[torch.randperm(count, generator=self._generator).numpy()]
        for rows in np.array_split(order, self._steps):
            varied = augment(to_pixels(data.pixels[rows]), self._generator)
            loss = self._step(varied, targets[rows], weighs[rows])
            _refuse_diverged("loss", number, loss)
            total += loss * len(rows)
        return total / count

    def _step(self, pixels: Tensor, targets: Tensor, weights: Tensor) -> float:
        """Learn from a weighted batch, unless its loss is not finite; return its mean loss."""
        with torch.autocast(self._device.type, enabled=self._mixed):
            logits = self._classifier(pixels.to(self._device))
            losses = nn.functional.cross_entropy(logits, targets.to(self._device), reduction="none")
            loss = (losses * weights.to(self._device)).mean()
        if torch.isfinite(loss):
            self._optimizer.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._schedule.step()
            self._average.update_parameters(self._classifier)
        return loss.item()

    def add(self, epoch: Epoch) -> None:
        """Record an epoch, and its weights if it is the best so far."""
        if all(epoch.validation_loss < before.validation_loss for before in self.epochs):
            self.best = _arrays("best", self.judged.state_dict())
        self.epochs.append(epoch)

    def state(self) -> Arrays:
        """Copy the state for a later `restore`."""
        optimizer = self._optimizer.state_dict()
        arrays = self.best | _arrays("model", self._classifier.state_dict())
        arrays |= _arrays("average", self._average.state_dict())
        for index, values in optimizer["state"].items():
            arrays |= _arrays(f"optimizer/{index}", values)
        plain = {
            "groups": optimizer["param_groups"],
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }
        return arrays | {
            "plain": np.frombuffer(json.dumps(plain).encode(), np.uint8),  # numbers stay exact
            "generator": self._generator.get_state().numpy(),
            "global_generator": torch.get_rng_state().numpy(),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Resume from a state of the same training."""
        plain = json.loads(arrays["plain"].tobytes())
        self._classifier.load_state_dict(_tensors_below(arrays, "model"))
        self._average.load_state_dict(_tensors_below(arrays, "average"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _tensors_below(arrays, "optimizer").items():
            index, _, part = name.partition("/")
            state.setdefault(int(index), {})[part] = value
        self._optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})
        self._schedule.load_state_dict(plain["schedule"])
        self._scaler.load_state_dict(plain["scaler"])
        self.best = nested("best", below("best", arrays))
        self.epochs = [Epoch(**kept) for kept in plain["epochs"]]
        self._generator.set_state(torch.from_numpy(np.array(arrays["generator"])))
        torch.set_rng_state(torch.from_numpy(np.array(arrays["global_generator"])))


_Tensors = tuple[Tensor, ...] | list[Tensor]


def _averaging(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """Average exponentially, at first over a ninth of the past steps, to forget the start."""

    def average(averaged: _Tensors, current: _Tensors, steps: Tensor | int) -> None:
        seen = int(steps)
        get_ema_multi_avg_fn(min(decay, (1 + seen) / (10 + seen)))(averaged, current, steps)

    return average


def _arrays(prefix: str, values: Mapping[str, Tensor]) -> Arrays:
    return nested(prefix, {name: np.array(value.cpu()) for name, value in values.items()})


def _tensors_below(arrays: Mapping[str, Array], prefix: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(each)) for name, each in below(prefix, arrays).items()}


def _refuse_diverged(name: str, epoch: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise DivergedError(f"the {name} of epoch {epoch} is {loss}: lower the rate")


def predict(classifier: Classifier, pixels: Pixels, rows: Index | None = None) -> Array:
    """Compute logits float32 (n, C) of images (n, side, side, 3), or of some rows of them."""
    wanted = np.arange(len(pixels)) if rows is None else rows
    device, parts = classifier.mean.device, range(0, len(wanted), PREDICTED)
    classifier.eval()
    with torch.inference_mode():
        logits = [
            classifier(to_pixels(pixels[wanted[start : start + PREDICTED]]).to(device)).float()
            for start in parts
        ]
    return np.asarray(torch.cat(logits).cpu())


def negative_log_likelihood(logits: Numbers, truth: Integers, temperature: float = 1.0) -> float:
    """Average the negative log-likelihood in nats of logits (n, C) divided by a temperature."""
    chances = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return float(-np.mean(chances[np.arange(len(truth)), truth]))


def fit_temperature(logits: Numbers, truth: Integers) -> float:
    """Fit the temperature in [1/20, 20] of least negative log-likelihood (Guo et al. 2017)."""
    least = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, truth, math.exp(log_t)),
        bounds=(-math.log(20.0), math.log(20.0)),
        method="bounded",
    )
    return math.exp(least.x)


def calibrated_loss(logits: Numbers, truth: Integers) -> float:
    """Average the negative log-likelihood in nats, minimised over the model's temperature."""
    return negative_log_likelihood(logits, truth, fit_temperature(logits, truth))
