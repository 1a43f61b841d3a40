"""Hospitals that differ: label sets, prevalence, modality, scanner, format.

The plan of a hospital is drawn from (seed, index of the hospital); its images from
(seed, index, patient). Equal arguments give equal images to the bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from metaward_sim.cohort.anatomy import ANATOMY, pixel_grid
from metaward_sim.cohort.findings import VOCABULARY, Finding

IMAGE_SIZE = 64
N_FINDINGS = (6, 9)
"""Fewest and most findings in a hospital's label set."""
MODALITIES = ("CR", "MR", "CT", "US", "XC")
TRANSFER_SYNTAXES = ("explicit-le", "implicit-le", "rle", "jpeg-ls", "jpeg-2000")
MANUFACTURERS = ("Synthetic Alpha", "Synthetic Beta", "Synthetic Gamma")
SKIN = np.asarray([1.0, 0.78, 0.68])
"""Red, green and blue of a photographed white."""
TOWNS = (
    "alder", "birch", "cedar", "dogwood", "elm", "fir", "gorse", "hazel", "ivy", "juniper",
    "katsura", "larch", "maple", "nutmeg", "oak", "pine", "quince", "rowan", "spruce", "teak",
)  # fmt: skip


@dataclass(frozen=True)
class Scanner:
    """How a hospital's images differ from another's, whatever they show.

    Attributes:
        gamma: Exponent of the grey curve.
        contrast: Factor on the finding's contrast.
        blur: Standard deviation of the point spread, in pixels.
        noise: Standard deviation of the added noise, on the [0, 1] grey scale.
        zoom: Size of everything relative to the average hospital.
        tilt: Mean rotation of the patient, in radians.
        shading: Strength of a linear brightness fall-off across the image.
    """

    gamma: float
    contrast: float
    blur: float
    noise: float
    zoom: float
    tilt: float
    shading: float


@dataclass(frozen=True)
class SyntheticImage:
    """One image: ``pixels`` float32 in [0, 1], (size, size) or (size, size, 3)."""

    pixels: NDArray[np.float32]
    patient: str
    label: str


@dataclass(frozen=True)
class HospitalPlan:
    """Everything that decides a synthetic hospital's images.

    ``patients_of`` gives, for each finding, how many patients have it; a patient has one finding
    and ``images_per_patient`` (fewest, most) images.
    """

    name: str
    index: int
    seed: int
    modality: str
    manufacturer: str
    transfer_syntax: str
    bits_stored: int
    monochrome1: bool
    scanner: Scanner
    findings: tuple[Finding, ...]
    patients_of: tuple[int, ...]
    images_per_patient: tuple[int, int] = (1, 3)

    @property
    def n_images(self) -> int:
        """Number of images that :meth:`images` gives."""
        return sum(self._image_counts())

    def images(self) -> Iterator[SyntheticImage]:
        """Give the images, patient by patient."""
        counts = self._image_counts()
        number = 0
        for finding, n_patients in zip(self.findings, self.patients_of, strict=True):
            for _ in range(n_patients):
                rng = np.random.default_rng([self.seed, self.index, 1, number])
                for pixels in self._patient_images(finding, counts[number], rng):
                    yield SyntheticImage(pixels, f"{self.name}-{number:04d}", finding.name)
                number += 1

    def _image_counts(self) -> list[int]:
        rng = np.random.default_rng([self.seed, self.index, 2])
        fewest, most = self.images_per_patient
        return [int(n) for n in rng.integers(fewest, most + 1, size=sum(self.patients_of))]

    def _patient_images(
        self, finding: Finding, n_images: int, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float32]]:
        anatomy_seed = int(rng.integers(2**62))
        finding_seed = int(rng.integers(2**62))
        place = rng.uniform(-0.35, 0.35, size=2)
        size = rng.uniform(0.42, 0.56)
        strength = rng.uniform(0.35, 0.55)
        for _ in range(n_images):
            yield self._render(finding, anatomy_seed, finding_seed, place, size, strength, rng)

    def _render(
        self,
        finding: Finding,
        anatomy_seed: int,
        finding_seed: int,
        place: NDArray[np.float64],
        size: float,
        strength: float,
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        scanner = self.scanner
        x, y = pixel_grid(IMAGE_SIZE)
        turn = scanner.tilt + rng.normal(0, 0.12)
        shift = rng.normal(0, 0.04, size=2)
        x, y = x / scanner.zoom - shift[0], y / scanner.zoom - shift[1]
        bx, by = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
        grey = ANATOMY[self.modality](bx, by, np.random.default_rng(anatomy_seed))

        spot = place + rng.normal(0, 0.06, size=2)
        angle = rng.uniform(0, 2 * np.pi)
        extent = size * rng.uniform(0.9, 1.1)
        dx, dy = (bx - spot[0]) / extent, (by - spot[1]) / extent
        u, v = dx * np.cos(angle) - dy * np.sin(angle), dx * np.sin(angle) + dy * np.cos(angle)
        shape = finding.draw(u, v, np.random.default_rng(finding_seed))
        grey = grey + scanner.contrast * strength * shape

        grey = gaussian_filter(grey, scanner.blur)
        grey = grey * (1.0 + scanner.shading * x)
        grey = np.clip(grey, 0.0, 1.0) ** scanner.gamma
        grey = np.clip(grey + rng.normal(0, scanner.noise, size=grey.shape), 0.0, 1.0)
        if self.modality == "XC":
            tones = grey[..., None]
            grey = np.clip(tones * SKIN + 0.12 * (1 - tones), 0.0, 1.0)
        return np.asarray(grey, dtype=np.float32)


def demo_hospitals(n: int, *, seed: int, patients: int = 24) -> list[HospitalPlan]:
    """Plan ``n`` hospitals; ``patients`` is the mean number of patients per finding."""
    return [_plan(index, seed, patients) for index in range(n)]


def _plan(index: int, seed: int, patients: int) -> HospitalPlan:
    rng = np.random.default_rng([seed, index, 0])
    modality = MODALITIES[index % len(MODALITIES)]
    n_findings = int(rng.integers(N_FINDINGS[0], N_FINDINGS[1] + 1))
    chosen = rng.choice(len(VOCABULARY), size=n_findings, replace=False)
    # Prevalence: a finding is up to twice as frequent as another at the same hospital.
    share = rng.uniform(0.75, 1.5, size=n_findings)
    return HospitalPlan(
        name=_name(index),
        index=index,
        seed=seed,
        modality=modality,
        manufacturer=MANUFACTURERS[int(rng.integers(len(MANUFACTURERS)))],
        transfer_syntax="explicit-le"
        if modality == "XC"
        else TRANSFER_SYNTAXES[index % len(TRANSFER_SYNTAXES)],
        bits_stored=8 if modality in ("US", "XC") else (12, 16)[int(rng.integers(2))],
        monochrome1=modality == "CR" and bool(rng.integers(2)),
        scanner=Scanner(
            gamma=float(rng.uniform(0.7, 1.4)),
            contrast=float(rng.uniform(0.8, 1.15)),
            blur=float(rng.uniform(0.3, 1.1)),
            noise=float(rng.uniform(0.01, 0.05)),
            zoom=float(rng.uniform(0.85, 1.15)),
            tilt=float(rng.uniform(-0.4, 0.4)),
            shading=float(rng.uniform(-0.3, 0.3)),
        ),
        findings=tuple(VOCABULARY[i] for i in chosen),
        patients_of=tuple(round(patients * s) for s in share),
    )


def _name(index: int) -> str:
    turn, position = divmod(index, len(TOWNS))
    return TOWNS[position] if turn == 0 else f"{TOWNS[position]}-{turn + 1}"
