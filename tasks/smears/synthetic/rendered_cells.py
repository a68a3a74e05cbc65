"""Render crops of stained cells in a thin smear, for the demo and for tests without real data.

Colour follows the Beer-Lambert law: a pixel is the lamp's light, dimmed by the amounts of two dyes
in its path. Eosin stains haemoglobin, azure stains chromatin and parasite cytoplasm. Shapes are in
the complex plane, in units of a pixel: a distance is an absolute value, and an uneven outline is a
polynomial in ``z / |z|``, a Fourier series in the angle.
"""

import cmath
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from math import pi, sqrt
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tasks.types import Mask, Numbers, Pixels, Single

Plane = NDArray[np.complex64]
Stage = Literal["ring", "trophozoite"]

LAMP = np.array([244, 240, 228], dtype=np.float32)
PINK_EOSIN = np.array([0.17, 0.50, 0.50])
LILAC_EOSIN = np.array([0.45, 0.47, 0.29])
AZURE = np.array([0.38, 1.70, 0.18])
FIRST_DAY = date(2026, 1, 3)
BLOCK = 4  # pixels at the size of the training cells: the NIH cells were cut out along such blocks


@dataclass(frozen=True)
class Patient:
    """The smear, staining and camera of one patient.

    ``eosin`` and ``azure`` are the optical densities (red, green, blue) of a unit amount of dye,
    ``softness`` is the deviation of the blur in pixels, ``noise`` that of noise in grey levels.
    """

    id: str
    eosin: tuple[float, ...]
    azure: tuple[float, ...]
    softness: float
    noise: float


@dataclass(frozen=True)
class Dyes:
    """Amounts of both dyes in a cell, and the pixels inside its outline; (h, w) each."""

    eosin: Single
    azure: Single
    inside: Mask


def draw_patient(number: int, rng: Generator) -> Patient:
    """Draw the staining and the camera of patient ``number`` (1 is ``C101P1``)."""
    eosin = PINK_EOSIN + rng.beta(0.5, 0.6) * (LILAC_EOSIN - PINK_EOSIN)
    eosin = eosin * rng.uniform(0.75, 1.15) + rng.normal(0, 0.02, 3)
    azure = AZURE * rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, 3)
    dyes, name = (tuple(eosin.tolist()), tuple(azure.tolist())), f"C{100 + number}P{number}"
    return Patient(name, *dyes, softness=rng.uniform(0.7, 1.3), noise=rng.uniform(0.8, 2.2))


def red_cell(patient: Patient, rng: Generator, stage: Stage | None) -> Pixels:
    """Render a red cell (h, w, 3), black outside its outline, of 90 to 190 pixels a side."""
    dyes = red_cell_dyes(rng, stage)
    return expose(patient, dyes.eosin, dyes.azure, rng) * coarsen(dyes.inside)[..., np.newaxis]


def red_cell_dyes(rng: Generator, stage: Stage | None) -> Dyes:
    """Draw the dyes of a red cell on the pixels of its bounding box."""
    radius = 65 * float(np.clip(np.exp(rng.normal(0, 0.12)), 0.77, 1.27))
    outline = _draw_outline(0.09, rng)
    z = _plane_around(radius, outline)
    inwards = radius - _distance(z, outline)
    pallor = rng.beta(0.8, 3) * _dot(z - _place(radius * 0.3, rng), radius * rng.uniform(0.2, 0.5))
    texture = 0.02 * _clouds(z.shape, 5, rng) + 0.02 * _clouds(z.shape, 40, rng)
    eosin = np.clip(inwards / 4, 0.35, 1) * (1 - pallor + texture)
    azure = np.zeros_like(eosin)
    if stage is not None:
        parasite = _ring if stage == "ring" else _trophozoite
        azure += parasite(z - _place(radius * 0.75, rng), rng)
    if rng.random() < 0.25:  # a grain of precipitated stain, smaller and paler than chromatin
        azure += rng.uniform(0.15, 0.45) * _dot(z - _place(radius, rng), rng.uniform(1.5, 3))
    return Dyes(eosin, azure, inwards > 0)


def white_cell(patient: Patient, rng: Generator) -> Pixels:
    """Render a white cell among red cells on the pale field, not masked; ``(side, side, 3)``."""
    half = int(rng.integers(85, 115))
    z = _plane(-half, half, -half, half)
    body = _blob(z, half * rng.uniform(0.7, 0.85), _draw_outline(0.05, rng))
    lobes = [
        _blob(z - _place(half * 0.4, rng), half * rng.uniform(0.22, 0.34), _draw_outline(0.1, rng))
        for _ in range(int(rng.integers(3, 6)))
    ]
    nucleus = body * np.max(lobes, axis=0) * (1 + 0.08 * _clouds(z.shape, 6, rng))
    beside = _blob(z - cmath.rect(half * 1.5, rng.uniform(-pi, pi)), half * 0.6, [])
    eosin = 0.05 + 0.35 * body + 0.8 * nucleus + beside * (1 - body)
    azure = body * (0.12 + 0.03 * _clouds(z.shape, 3, rng)) + 0.55 * nucleus
    return expose(patient, eosin, azure, rng)


def out_of_focus(image: Pixels) -> Pixels:
    """Blur a crop by a twelfth of its width and keep its surround black; same shape."""
    return _blur(image, image.shape[1] / 12) * image.any(axis=2, keepdims=True)


def other_stain(image: Pixels) -> Pixels:
    """Turn every hue into its complement, twice as vivid, which no stain of Giemsa has."""
    levels = image.astype(np.float32)
    grey = (levels.max(axis=2, keepdims=True) + levels.min(axis=2, keepdims=True)) / 2
    return _to_bytes(grey - 2 * (levels - grey))


def write_collection(
    folder: Path,
    *,
    patients: int,
    cells_per_patient: int,
    parasitized_fraction: float,
    seed: int,
    first_patient: int = 1,
) -> int:
    """Write labelled crops as ``folder/{Parasitized,Uninfected}/*.png``; return their number."""
    rng = np.random.default_rng(seed)
    parasitized = round(parasitized_fraction * cells_per_patient)
    for number in range(first_patient, first_patient + patients):
        patient = draw_patient(number, rng)
        day = FIRST_DAY + timedelta(days=number - 1)
        for i, name in enumerate(_draw_names(patient, cells_per_patient, day, rng)):
            stage = draw_stage(rng) if i < parasitized else None
            label = "Parasitized" if stage else "Uninfected"
            _write(folder / label / name, red_cell(patient, rng, stage))
    return patients * cells_per_patient


def write_night(
    folder: Path,
    *,
    patients: int,
    cells_per_patient: int,
    parasitized_fraction: float,
    planted_per_kind: int,
    seed: int,
    first_patient: int,
) -> dict[str, str]:
    """Write a night's unlabelled crops as ``folder/*.png``; return the kinds of planted ones.

    ``planted_per_kind`` images of each kind in `ABNORMAL` and one truncated file have ordinary
    names too.
    """
    rng = np.random.default_rng(seed)
    day = FIRST_DAY + timedelta(days=first_patient - 1)
    to_plant = [*list(ABNORMAL) * planted_per_kind, "truncated file"]
    planted: dict[str, str] = {}
    for i in range(patients):
        patient, kinds = draw_patient(first_patient + i, rng), to_plant[i::patients]
        names = _draw_names(patient, cells_per_patient + len(kinds), day, rng)
        planted |= zip(names, kinds, strict=False)
        for name in names:
            stage = draw_stage(rng) if rng.random() < parasitized_fraction else None
            draw = ABNORMAL.get(planted.get(name, ""))
            _write(folder / name, draw(patient, rng) if draw else red_cell(patient, rng, stage))
            if planted.get(name) == "truncated file":
                os.truncate(folder / name, (folder / name).stat().st_size // 2)
    return planted


def expose(patient: Patient, eosin: Single, azure: Single, rng: Generator) -> Pixels:
    """Photograph amounts of dye, ``(height, width)`` each, as ``(height, width, 3)``."""
    dyes = np.stack([eosin, azure], axis=-1)
    light = LAMP * np.exp(-dyes @ np.array([patient.eosin, patient.azure], dtype=np.float32))
    sharp = _blur(_to_bytes(light), patient.softness)
    return _to_bytes(sharp + patient.noise * rng.standard_normal(sharp.shape, dtype=np.float32))


def draw_stage(rng: Generator) -> Stage:
    """Draw a parasite's stage; two in three are rings."""
    return "ring" if rng.random() < 0.65 else "trophozoite"


def _distance(z: Plane, outline: list[complex]) -> Single:
    """Measure an uneven distance from 0 in pixels: it is r on an ``outline`` of mean radius r."""
    away: Single = np.maximum(np.abs(z), 1e-6, dtype=np.float32)
    direction = z / away
    bulge = np.zeros_like(z)
    for harmonic in outline:
        bulge = (bulge + harmonic) * direction
    return away / (1 + bulge.real)


def _draw_outline(unevenness: float, rng: Generator) -> list[complex]:
    sizes = [rng.uniform(0, unevenness) * (2 / k) ** 1.5 for k in range(6, 1, -1)]
    return [*(cmath.rect(size, rng.uniform(-pi, pi)) for size in sizes), 0]


def _plane(top: int, bottom: int, left: int, right: int) -> Plane:
    x, y = np.arange(left, right), np.arange(top, bottom)
    return (x + 1j * y[:, np.newaxis]).astype(np.complex64)


def _plane_around(radius: float, outline: list[complex]) -> Plane:
    direction = np.exp(1j * np.linspace(0, 2 * pi, 96)).astype(np.complex64)
    edge = np.round(direction * radius / _distance(direction, outline))
    top, bottom, left, right = edge.imag.min(), edge.imag.max(), edge.real.min(), edge.real.max()
    return _plane(int(top), int(bottom) + 1, int(left), int(right) + 1)


def _place(reach: float, rng: Generator) -> complex:
    return cmath.rect(reach * sqrt(rng.random()), rng.uniform(-pi, pi))


def _blob(z: Plane, radius: float, outline: list[complex]) -> Single:
    """Draw 1 inside an outline around 0 and 0 outside, with an edge of three pixels."""
    return np.asarray(np.clip(0.5 + (radius - _distance(z, outline)) / 3, 0, 1))


def _dot(z: Plane, radius: float) -> Single:
    return np.asarray(np.exp(-((np.abs(z) / np.float32(radius)) ** 4)))


def _clouds(shape: tuple[int, ...], grain: int, rng: Generator) -> Single:
    height, width = shape
    coarse = rng.standard_normal((height // grain + 3, width // grain + 3), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _ring(z: Plane, rng: Generator) -> Single:
    """Draw a ring stage's azure around 0: a thin uneven hoop with one or two dots of chromatin."""
    radius = rng.uniform(8, 14)
    off_hoop = (_distance(z, _draw_outline(0.25, rng)) - radius) / rng.uniform(1.8, 3)
    azure: Single = rng.uniform(0.2, 0.4) * np.exp(-(off_hoop**2))
    for _ in range(int(rng.integers(1, 3))):
        spot = _dot(z - cmath.rect(radius, rng.uniform(-pi, pi)), rng.uniform(3.5, 6))
        np.maximum(azure, rng.uniform(0.7, 1.2) * spot, out=azure)
    return azure


def _trophozoite(z: Plane, rng: Generator) -> Single:
    """Draw a trophozoite's azure around 0: ragged cytoplasm, a vacuole and a chromatin mass."""
    radius = rng.uniform(12, 19)
    cytoplasm = _blob(z, radius, _draw_outline(0.4, rng))
    vacuole = _dot(z - _place(radius * 0.6, rng), radius * 0.4)
    chromatin = _blob(z - _place(radius * 0.6, rng), rng.uniform(5, 8), _draw_outline(0.4, rng))
    azure = rng.uniform(0.2, 0.4) * cytoplasm * (1 - 0.8 * vacuole)
    np.maximum(azure, rng.uniform(0.7, 1.1) * chromatin, out=azure)
    return azure


def _blur(image: Pixels, sigma: float) -> Pixels:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def _to_bytes(levels: Numbers) -> Pixels:
    return np.asarray(np.clip(levels, 0, 255).astype(np.uint8))


def _draw_names(patient: Patient, cells: int, day: date, rng: Generator) -> list[str]:
    first = datetime.combine(day, time(8)) + timedelta(seconds=int(rng.integers(8 * 3600)))
    fields = [f"IMG_{first + i * timedelta(seconds=73):%Y%m%d_%H%M%S}a" for i in range(4)]
    numbers = 1 + rng.permutation(2 * cells)[:cells]
    return [f"{patient.id}ThinF_{rng.choice(fields)}_cell_{number}.png" for number in numbers]


def _write(path: Path, image: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, compress_level=1)


ABNORMAL: dict[str, Callable[[Patient, Generator], Pixels]] = {
    "white cell": white_cell,
    "out of focus": lambda patient, rng: out_of_focus(red_cell(patient, rng, draw_stage(rng))),
    "other stain": lambda patient, rng: other_stain(red_cell(patient, rng, draw_stage(rng))),
}


def coarsen(mask: Mask) -> Mask:
    """Coarsen a mask (h, w) to square blocks, like a segmentation at low resolution."""
    y, x = (np.minimum(np.arange(n) // BLOCK * BLOCK + BLOCK // 2, n - 1) for n in mask.shape)
    return np.asarray(mask[np.ix_(y, x)])
