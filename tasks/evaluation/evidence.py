"""Gather what the scores need to know of images, as named arrays."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from tasks.detector.calibration import p_values
from tasks.evaluation.attacks import Target, differentiable_abnormality, preprocess
from tasks.evaluation.baselines import (
    ODIN_TEMPERATURE,
    Evidence,
    Fitted,
    all_scores,
    layer_distances,
)
from tasks.evaluation.results import Scored
from tasks.types import Arrays


def evidence_of_forms(
    forms: Mapping[str, Tensor], target: Target, magnitudes: tuple[float, ...], batch: int = 32
) -> Arrays:
    """Gather all that the scores need of each form of the images, as named arrays."""
    arrays: Arrays = {}
    for form, images in forms.items():
        pieces = [
            _evidence(images[start : start + batch], target, magnitudes)
            for start in range(0, len(images), batch)
        ]
        arrays |= {
            f"{form}/{name}": np.concatenate([piece[name] for piece in pieces])
            for name in pieces[0]
        }
    return arrays


def _evidence(pixels: Tensor, target: Target, magnitudes: tuple[float, ...]) -> Arrays:
    classifier, detector = target.classifier, target.detector
    pixels = pixels.detach().requires_grad_(bool(magnitudes))
    with torch.set_grad_enabled(bool(magnitudes)):
        taps, logits = classifier.features(pixels)
    border = torch.ones(pixels.shape[2:], dtype=torch.bool)
    border[2:-2, 2:-2] = False
    arrays: Arrays = {f"tap/{name}": to_numpy(values) for name, values in taps.items()}
    arrays["logits"] = to_numpy(logits)
    arrays["border"] = to_numpy(pixels[:, :, border].mean(dim=(1, 2)))
    if not magnitudes:
        return arrays
    tempered = -(logits / ODIN_TEMPERATURE).log_softmax(dim=1).amax(dim=1)
    fused = differentiable_abnormality(detector, taps)
    for magnitude in magnitudes:
        with_odin = preprocess(pixels, tempered, magnitude)
        with_taps_moved = preprocess(pixels, fused, magnitude)
        with torch.inference_mode():
            arrays[f"odin/{magnitude}"] = to_numpy(classifier(with_odin))
            moved, _ = classifier.features(with_taps_moved)
        for tap in detector.taps:
            arrays[f"moved/{magnitude}/{tap}"] = to_numpy(moved[tap])
    return arrays


def to_numpy(values: Tensor) -> NDArray[np.float32]:
    """Copy a tensor to an array of float32."""
    return np.asarray(values.detach().float().cpu().numpy(), np.float32)


def to_images(pixels: Tensor) -> NDArray[np.uint8]:
    """Pixels (B, 3, S, S) in [0, 1] as images (B, S, S, 3) of 8 bits."""
    return np.asarray((pixels * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy(), np.uint8)


def scored_form(arrays: Arrays, form: str, fitted: Fitted, temperature: float) -> Scored:
    """Score one form of some images by all scores."""
    own = {k.removeprefix(f"{form}/"): v for k, v in arrays.items() if k.startswith(f"{form}/")}
    magnitudes = sorted(float(k.split("/")[1]) for k in own if k.startswith("odin/"))
    taps = {k.removeprefix("tap/"): v for k, v in own.items() if k.startswith("tap/")}
    evidence = Evidence(
        taps=taps,
        logits=own["logits"],
        border=own["border"],
        odin={e: own[f"odin/{e}"] for e in magnitudes},
        moved={
            e: {tap: own[f"moved/{e}/{tap}"] for tap in fitted.detector.taps} for e in magnitudes
        },
    )
    scores = all_scores(evidence, fitted)
    chances = softmax(np.asarray(own["logits"], np.float64) / temperature, axis=1)
    return Scored(
        rows=arrays["rows"],
        label=arrays["label"],
        scores=scores,
        layers=layer_distances(evidence, fitted),
        p_value=p_values(fitted.detector.calibration, scores["slidewatch"]),
        diagnosed=chances.argmax(axis=1).astype(np.int8),
        probability=chances.max(axis=1),
        logits=np.asarray(own["logits"], np.float64),
    )
