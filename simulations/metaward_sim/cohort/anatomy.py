"""Backgrounds: what a patient looks like in each modality, before any finding.

A patient's anatomy is a set of random numbers, drawn once; each of the patient's images shows it
with a small change of pose. None of it depends on the label.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from metaward_sim.cohort.findings import Field

Anatomy = Callable[[Field, Field, np.random.Generator], Field]


def smooth_field(x: Field, y: Field, rng: np.random.Generator, waves: int, rate: float) -> Field:
    """Return a random smooth field: a sum of plane waves, standard deviation about 1."""
    directions = rng.uniform(0, 2 * np.pi, size=waves)
    rates = rate * rng.uniform(0.4, 1.6, size=waves)
    phases = rng.uniform(0, 2 * np.pi, size=waves)
    total = np.zeros_like(x)
    for direction, speed, phase in zip(directions, rates, phases, strict=True):
        total += np.cos(speed * (x * np.cos(direction) + y * np.sin(direction)) + phase)
    return total * float(np.sqrt(2.0 / waves))


def _inside(x: Field, y: Field, width: float, height: float, softness: float = 0.08) -> Field:
    return np.clip((1.0 - np.hypot(x / width, y / height)) / softness + 0.5, 0.0, 1.0)


def _chest(x: Field, y: Field, rng: np.random.Generator) -> Field:
    lungs = sum(
        _inside(x - side * rng.uniform(0.42, 0.5), y, rng.uniform(0.3, 0.38), 0.75, 0.3)
        for side in (-1, 1)
    )
    bend = rng.uniform(0.3, 0.6)
    ribs = np.clip(np.cos(rng.uniform(9, 12) * (y + bend * x**2) + rng.uniform(0, 6.3)), 0, 1)
    return 0.62 - 0.34 * lungs + 0.13 * ribs + 0.05 * smooth_field(x, y, rng, 6, 5.0)


def _abdomen(x: Field, y: Field, rng: np.random.Generator) -> Field:
    body = _inside(x, y, rng.uniform(0.95, 1.1), rng.uniform(0.8, 0.95))
    organ_x, organ_y = rng.uniform(-0.45, 0.45, size=2)
    organ = _inside(x - organ_x, y - organ_y, rng.uniform(0.3, 0.5), rng.uniform(0.3, 0.5), 0.25)
    spine = _inside(x, y - 0.62, 0.16, 0.16)
    soft = 0.35 + 0.12 * organ + 0.05 * smooth_field(x, y, rng, 8, 6.0)
    return body * np.maximum(soft, 0.9 * spine)


def _head(x: Field, y: Field, rng: np.random.Generator) -> Field:
    width, height = rng.uniform(0.85, 0.95), rng.uniform(0.95, 1.1)
    skull = _inside(x, y, width, height) - _inside(x, y, 0.88 * width, 0.88 * height)
    brain = _inside(x, y, 0.86 * width, 0.86 * height)
    folds = smooth_field(x, y, rng, 10, 11.0)
    midline = np.exp(-((x / 0.05) ** 2)) * 0.15
    return 0.75 * skull + brain * (0.42 + 0.07 * folds - midline)


def _ultrasound(x: Field, y: Field, rng: np.random.Generator) -> Field:
    depth = (y + 1.1) / 2.1
    layers = 0.1 * np.cos(rng.uniform(6, 11) * (y + 0.25 * smooth_field(x, y, rng, 3, 2.0)))
    speckle = rng.rayleigh(0.75, size=x.shape)
    return (0.42 + layers) * (1.15 - 0.5 * depth) * (0.6 + 0.4 * speckle)


def _skin(x: Field, y: Field, rng: np.random.Generator) -> Field:
    tone = rng.uniform(0.3, 0.5)
    hairs = np.zeros_like(x)
    for _ in range(int(rng.integers(0, 4))):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8)
        line = x * np.sin(angle) - y * np.cos(angle) + 0.1 * np.sin(3 * x) - offset
        hairs = np.maximum(hairs, np.exp(-((line / 0.03) ** 2)))
    return tone + 0.06 * smooth_field(x, y, rng, 8, 7.0) - 0.15 * hairs


ANATOMY: dict[str, Anatomy] = {
    "CR": _chest,
    "CT": _abdomen,
    "MR": _head,
    "US": _ultrasound,
    "XC": _skin,
}
"""Modality (DICOM code; XC is external-camera photography) -> background in about [0, 1]."""


def pixel_grid(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of the pixel centres of a square image, both in (-1, 1)."""
    axis = (np.arange(size) + 0.5) / size * 2.0 - 1.0
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y
