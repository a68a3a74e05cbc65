"""Train a classifier on decoded images, and fit the temperature that calibrates it."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor, nn

from tasks.network.classifier import Classifier, to_pixels


@dataclass(frozen=True)
class TrainingPlan:
    """Describe how to train: one-cycle AdamW; the rate rises to ``peak_rate``, then falls to 0."""

    epochs: int = 4
    batch: int = 128
    peak_rate: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data, for a model's card."""
        return asdict(self)


@dataclass(frozen=True)
class Epoch:
    """Hold the result of one epoch: mean losses in nats, and how long it took."""

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
    """Training has come to a loss that is not a number."""


def train(
    classifier: Classifier,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.integer],
    train_rows: NDArray[np.intp],
    validation_rows: NDArray[np.intp],
    plan: TrainingPlan,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Train in place; the classifier is left with the weights of its best epoch.

    The best epoch is that of the least validation loss. On a CUDA device arithmetic is mixed
    precision.

    Args:
        classifier: on the device to train on.
        pixels: (n, side, side, 3).
        labels: (n,) classes.
        train_rows: rows to learn from.
        validation_rows: rows to choose the epoch by.
        plan: the recipe of the training.
        on_epoch: called after every epoch.

    Raises:
        DivergedError: a loss is not finite.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    torch.manual_seed(plan.seed)  # dropout, where a network has it, draws from the global generator
    steps = math.ceil(len(train_rows) / plan.batch)
    targets = torch.as_tensor(np.asarray(labels, np.int64))
    learner = _Learner(classifier, plan, plan.epochs * steps)
    epochs: list[Epoch] = []
    best: dict[str, Tensor] = {}
    for number in range(1, plan.epochs + 1):
        start, total = time.monotonic(), 0.0
        classifier.train()
        order = train_rows[torch.randperm(len(train_rows), generator=generator).numpy()]
        for rows in np.array_split(order, steps):
            loss = learner.step(augment(to_pixels(pixels[rows]), generator), targets[rows])
            _refuse_diverged("loss", number, loss)
            total += loss * len(rows)
        logits = predict(classifier, pixels[validation_rows])
        truth = np.asarray(labels)[validation_rows]
        epoch = Epoch(
            number=number,
            train_loss=total / len(train_rows),
            validation_loss=negative_log_likelihood(logits, truth),
            validation_accuracy=float(np.mean(logits.argmax(axis=1) == truth)),
            seconds=time.monotonic() - start,
        )
        _refuse_diverged("validation loss", number, epoch.validation_loss)
        if not best or epoch.validation_loss < min(e.validation_loss for e in epochs):
            best = copy.deepcopy(classifier.state_dict())
        epochs.append(epoch)
        on_epoch(epoch)
    classifier.load_state_dict(best)
    classifier.eval()
    return epochs


class _Learner:
    """Train a classifier's weights by its optimiser, schedule and loss scaler."""

    def __init__(self, classifier: Classifier, plan: TrainingPlan, steps: int) -> None:
        self._classifier, self._device = classifier, classifier.mean.device
        learned = [p for p in classifier.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            learned, lr=plan.peak_rate, weight_decay=plan.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, max_lr=plan.peak_rate, total_steps=steps
        )
        self._mixed = self._device.type == "cuda"
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._mixed)

    def step(self, pixels: Tensor, targets: Tensor) -> float:
        """Learn from a batch; give its mean loss, from which nothing is learned if not finite."""
        with torch.autocast(self._device.type, enabled=self._mixed):
            logits = self._classifier(pixels.to(self._device))
            loss = nn.functional.cross_entropy(logits, targets.to(self._device))
        if torch.isfinite(loss):
            self._optimizer.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._schedule.step()
        return loss.item()


def _refuse_diverged(name: str, epoch: int, loss: float) -> None:
    """Raise DivergedError where a loss is not finite."""
    if not math.isfinite(loss):
        raise DivergedError(f"the {name} of epoch {epoch} is {loss}: lower the rate")


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Flip and turn each image at random, and jitter its brightness and colour a little.

    A cell has no up and no left. Gains multiply, so that a black surround stays black.
    """
    count = len(pixels)
    turned = torch.stack(
        [
            torch.rot90(image.flip(2) if flip else image, int(turns), (1, 2))
            for image, flip, turns in zip(
                pixels,
                torch.randint(0, 2, (count,), generator=generator),
                torch.randint(0, 4, (count,), generator=generator),
                strict=True,
            )
        ]
    )
    brightness = 1.0 + 0.1 * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
    colour = 1.0 + 0.05 * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)
    jittered = (turned * brightness * colour).clamp_(0.0, 1.0)
    return jittered.contiguous(memory_format=torch.channels_last)


def predict(classifier: Classifier, images: NDArray[np.uint8], batch: int = 256) -> NDArray[Any]:
    """Compute logits float32 (n, C) of images (n, side, side, 3)."""
    device = classifier.mean.device
    classifier.eval()
    with torch.inference_mode():
        logits = [
            classifier(to_pixels(images[start : start + batch]).to(device)).float().cpu()
            for start in range(0, len(images), batch)
        ]
    return np.asarray(torch.cat(logits))


def negative_log_likelihood(
    logits: NDArray[np.floating], truth: NDArray[np.integer], temperature: float = 1.0
) -> float:
    """Average the negative log-likelihood in nats of logits (n, C) divided by a temperature."""
    chances = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return float(-np.mean(chances[np.arange(len(truth)), truth]))


def fit_temperature(logits: NDArray[np.floating], truth: NDArray[np.integer]) -> float:
    """Fit the temperature in [1/20, 20] of least negative log-likelihood (Guo et al. 2017)."""
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, truth, math.exp(log_t)),
        bounds=(-math.log(20.0), math.log(20.0)),
        method="bounded",
    )
    return math.exp(found.x)
