"""Findings: small structures with a shape and a texture, anywhere in the image, at any angle.

A finding is drawn in its own coordinates ``(u, v)``, where it fits the unit disc; the caller maps
pixels to them, so position, angle and size are free. A class is a shape and a texture. Position
and angle say nothing about the class, so a linear model on pixels learns next to nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
Shape = Callable[[Field, Field, np.random.Generator], Field]


def _union(masks: Sequence[Field]) -> Field:
    """Return the largest of several masks at each point."""
    union: Field = np.maximum.reduce(masks)
    return union


def _soft(inside: Field, width: float = 0.12) -> Field:
    """Turn a signed distance (positive inside) into a mask in [0, 1] with a soft edge."""
    return np.clip(inside / width + 0.5, 0.0, 1.0)


def _disc(u: Field, v: Field, at: tuple[float, float], radius: float) -> Field:
    return _soft(radius - np.hypot(u - at[0], v - at[1]))


def _rod(u: Field, v: Field, angle: float, half_length: float, half_width: float) -> Field:
    along = u * np.cos(angle) + v * np.sin(angle)
    across = -u * np.sin(angle) + v * np.cos(angle)
    return _soft(np.minimum(half_length - np.abs(along), half_width - np.abs(across)))


def _on_circle(n: int, radius: float, start: float) -> list[tuple[float, float]]:
    angles = start + 2 * np.pi * np.arange(n) / n
    return [(radius * float(np.cos(angle)), radius * float(np.sin(angle))) for angle in angles]


def _nodule(u: Field, v: Field, rng: np.random.Generator) -> Field:
    return _disc(u, v * rng.uniform(0.9, 1.2), (0, 0), 0.75)


def _ring(u: Field, v: Field, rng: np.random.Generator) -> Field:
    return _soft(rng.uniform(0.14, 0.2) - np.abs(np.hypot(u, v) - 0.72))


def _target(u: Field, v: Field, rng: np.random.Generator) -> Field:
    return np.maximum(_ring(u, v, rng), _disc(u, v, (0, 0), 0.25))


def _spiculated(u: Field, v: Field, rng: np.random.Generator) -> Field:
    spikes = int(rng.integers(5, 8))
    wave = np.abs(np.cos(spikes * np.arctan2(v, u) / 2))
    return _soft(0.35 + 0.65 * wave**3 - np.hypot(u, v))


def _lobulated(u: Field, v: Field, rng: np.random.Generator) -> Field:
    lobes = [_disc(u, v, at, 0.42) for at in _on_circle(3, 0.45, rng.uniform(0, 6.3))]
    return _union(lobes)


def _crescent(u: Field, v: Field, rng: np.random.Generator) -> Field:
    bite = _disc(u, v, (rng.uniform(0.38, 0.5), 0), 0.68)
    return np.clip(_disc(u, v, (0, 0), 0.85) - bite, 0, 1)


def _cluster(u: Field, v: Field, rng: np.random.Generator) -> Field:
    spots = rng.uniform(-0.8, 0.8, size=(int(rng.integers(7, 11)), 2))
    return _union([_disc(u, v, (float(x), float(y)), 0.15) for x, y in spots])


def _streaks(u: Field, v: Field, rng: np.random.Generator) -> Field:
    lines = _soft(np.cos(rng.uniform(8.5, 10.5) * u) - 0.3, 0.6)
    return lines * _disc(u, v, (0, 0), 0.95)


def _mesh(u: Field, v: Field, rng: np.random.Generator) -> Field:
    rate = rng.uniform(8.0, 9.5)
    lines = np.maximum(np.cos(rate * u), np.cos(rate * v))
    return _soft(lines - 0.7, 0.5) * _disc(u, v, (0, 0), 0.95)


def _wedge(u: Field, v: Field, rng: np.random.Generator) -> Field:
    slope = rng.uniform(0.5, 0.65)
    return _soft(np.minimum(0.7 - u, slope * (u + 0.9) - np.abs(v)))


def _band(u: Field, v: Field, rng: np.random.Generator) -> Field:
    return _rod(u, v, 0.0, 1.0, rng.uniform(0.18, 0.26))


def _branching(u: Field, v: Field, rng: np.random.Generator) -> Field:
    arms = []
    for angle in 2 * np.pi * np.arange(3) / 3 + rng.uniform(-0.2, 0.2, size=3):
        along = u * np.cos(angle) + v * np.sin(angle)
        arms.append(_rod(u, v, float(angle), 1.0, 0.15) * (along > -0.1))
    return _union(arms)


def _crossing(u: Field, v: Field, rng: np.random.Generator) -> Field:
    tilt = rng.uniform(1.3, 1.8)
    return np.maximum(_rod(u, v, 0.0, 1.0, 0.15), _rod(u, v, tilt, 1.0, 0.15))


def _paired(u: Field, v: Field, rng: np.random.Generator) -> Field:
    gap = rng.uniform(0.5, 0.6)
    return np.maximum(_disc(u, v, (gap, 0), 0.38), _disc(u, v, (-gap, 0), 0.38))


def _plate(u: Field, v: Field, rng: np.random.Generator) -> Field:
    return _soft(rng.uniform(0.6, 0.7) - np.maximum(np.abs(u), np.abs(v)))


def _beads(u: Field, v: Field, rng: np.random.Generator) -> Field:
    angles = np.linspace(0, rng.uniform(3.4, 4.2), 6)
    beads = [_disc(u, v, (0.75 * np.cos(a), 0.75 * np.sin(a)), 0.17) for a in angles]
    return _union(beads)


SHAPES: dict[str, Shape] = {
    "nodule": _nodule,
    "ring": _ring,
    "target": _target,
    "spiculated": _spiculated,
    "lobulated": _lobulated,
    "crescent": _crescent,
    "cluster": _cluster,
    "streaks": _streaks,
    "mesh": _mesh,
    "wedge": _wedge,
    "band": _band,
    "branching": _branching,
    "crossing": _crossing,
    "paired": _paired,
    "plate": _plate,
    "beads": _beads,
}
TEXTURES = ("solid", "mottled")


@dataclass(frozen=True)
class Finding:
    """A class of findings: a shape and a texture."""

    shape: str
    texture: str

    @property
    def name(self) -> str:
        """Label of this finding, as it stands in the label tables."""
        return f"{self.texture} {self.shape}"

    def draw(self, u: Field, v: Field, rng: np.random.Generator) -> Field:
        """Return the finding's strength in [0, 1] at finding coordinates ``u``, ``v``."""
        mask = SHAPES[self.shape](u, v, rng)
        if self.texture == "solid":
            return mask
        holes = rng.uniform(-0.9, 0.9, size=(14, 2))
        pits = _union([_disc(u, v, (float(x), float(y)), 0.13) for x, y in holes])
        return mask * (1.0 - 0.9 * pits)


VOCABULARY: tuple[Finding, ...] = tuple(
    Finding(shape, texture) for shape in SHAPES for texture in TEXTURES
)
"""All 32 findings that a synthetic hospital may have in its label set."""
