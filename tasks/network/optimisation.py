"""Learn from batches: optimiser, schedule, averaged weights, and their state between epochs."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tasks.network.classifier import Classifier

Arrays = dict[str, NDArray[Any]]
_Tensors = tuple[Tensor, ...] | list[Tensor]


class Learner:
    """Train a classifier's weights by one-cycle AdamW: the rate rises to its peak, then falls to 0.

    Args:
        classifier: trained in place, on its device; mixed precision on CUDA.
        steps: total number of steps.
        rate: peak learning rate.
        decay: weight decay of AdamW.
        smoothing: share of a label that is spread over all classes.
        lifetime: steps of the exponential average of weights; 0 for no average.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        steps: int,
        rate: float,
        decay: float,
        smoothing: float = 0.0,
        lifetime: float = 0.0,
    ) -> None:
        self._classifier, self._device = classifier, classifier.mean.device
        self._smoothing = smoothing
        learned = [p for p in classifier.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, max_lr=rate, total_steps=steps
        )
        self._mixed = self._device.type == "cuda"
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._mixed)
        self._average: AveragedModel | None = None
        if lifetime:
            self._average = AveragedModel(
                classifier, multi_avg_fn=_averaging(math.exp(-1.0 / lifetime)), use_buffers=True
            )

    @property
    def judged(self) -> Classifier:
        """Return the classifier to be judged: with averaged weights, if they are averaged."""
        if self._average is None:
            return self._classifier
        averaged = self._average.module
        assert isinstance(averaged, Classifier)
        return averaged

    def step(self, pixels: Tensor, targets: Tensor) -> float:
        """Learn from a batch, unless its loss is not finite; return its mean loss."""
        with torch.autocast(self._device.type, enabled=self._mixed):
            logits = self._classifier(pixels.to(self._device))
            loss = nn.functional.cross_entropy(
                logits, targets.to(self._device), label_smoothing=self._smoothing
            )
        if torch.isfinite(loss):
            self._optimizer.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._schedule.step()
            if self._average is not None:
                self._average.update_parameters(self._classifier)
        return loss.item()

    def state(self) -> Arrays:
        """Copy the state for a later `restore`, without the random generators."""
        optimizer = self._optimizer.state_dict()
        arrays = _arrays("model", self._classifier.state_dict())
        if self._average is not None:
            arrays |= _arrays("average", self._average.state_dict())
        for index, values in optimizer["state"].items():
            arrays |= _arrays(f"optimizer/{index}", values)
        plain = {
            "groups": optimizer["param_groups"],
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        return arrays | {"learner": json_to_array(plain)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Resume from the `state` of a learner with the same arguments."""
        plain = array_to_json(arrays["learner"])
        self._classifier.load_state_dict(tensors_of(arrays, "model"))
        if self._average is not None:
            self._average.load_state_dict(tensors_of(arrays, "average"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors_of(arrays, "optimizer").items():
            index, _, part = name.partition("/")
            state.setdefault(int(index), {})[part] = value
        self._optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})
        self._schedule.load_state_dict(plain["schedule"])
        self._scaler.load_state_dict(plain["scaler"])


def _averaging(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """Average exponentially, at first over a ninth of the past steps.

    A short training would otherwise keep its initial weights.
    """

    def average(averaged: _Tensors, current: _Tensors, steps: Tensor | int) -> None:
        seen = int(steps)
        rule = get_ema_multi_avg_fn(min(decay, (1 + seen) / (10 + seen)))
        rule(averaged, current, steps)

    return average


def weights_of(classifier: Classifier, prefix: str) -> Arrays:
    """Copy a classifier's weights into arrays whose names begin with a prefix."""
    return _arrays(prefix, classifier.state_dict())


def tensors_of(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, Tensor]:
    """Copy the arrays below a prefix into tensors."""
    return {
        name.removeprefix(f"{prefix}/"): torch.from_numpy(np.array(values))
        for name, values in arrays.items()
        if name.startswith(f"{prefix}/")
    }


def json_to_array(plain: Any) -> NDArray[np.uint8]:
    """Write plain data as an array of bytes; numbers are kept exactly."""
    return np.frombuffer(json.dumps(plain).encode(), np.uint8)


def array_to_json(array: NDArray[np.uint8]) -> Any:
    """Read plain data from `json_to_array`."""
    return json.loads(array.tobytes())


def _arrays(prefix: str, values: Mapping[str, Tensor]) -> Arrays:
    return {f"{prefix}/{name}": np.array(value.cpu()) for name, value in values.items()}
