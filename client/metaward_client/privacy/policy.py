"""The hospital's privacy policy: the ``privacy`` section of ``site.yaml``.

Everything that decides what patients may lose stands here and nowhere else: the mechanism, the
budget, the noise, the sampling, the clip norm, the number of noised steps and rounds, and the
public constants. The coordinator can set none of it; a study that asks for more is refused.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from metaward.config import Settings, load_settings
from metaward.privacy_promise import BLOCK, DP_SGD, NO_MECHANISM
from metaward_client.named_paths import from_folder
from metaward_client.privacy.terms import (
    LEAST_DELTA,
    LEAST_NOISE_MULTIPLIER,
    MOST_NOISE_MULTIPLIER,
    Budget,
    Relation,
    Terms,
)
from metaward_client.unicode_form import one_form

MAX_DELTA_TIMES_POPULATION = 0.1
"""target_delta is at most this over the population: a mechanism that publishes one patient in
1/target_delta satisfies the definition, so target_delta must be far below one over the patients."""
MOST_POPULATION = 10**9
"""Of more patients no delta is small enough that the accountant can tell."""
NoiseMultiplier: TypeAlias = Annotated[
    float, Field(ge=LEAST_NOISE_MULTIPLIER, le=MOST_NOISE_MULTIPLIER)
]
ClipNorm: TypeAlias = Annotated[float, Field(ge=1.0e-6, le=1.0e6)]
CLIP_NORM = "C: L2 norm that one unit adds at most"
MOST_BLOCKS = 100_000
MOST_STEPS = 10_000
PATIENTS_OF_A_BLOCK = 50
"""Where a policy does not say how many blocks: so many have images enough for an episode of five
support and five query images of a class (docs/privacy-accuracy.md)."""


class NoPrivacy(Settings):
    """Deltas leave as they were computed: NOT PRIVATE."""

    mechanism: Literal["none"] = "none"

    @property
    def label(self) -> str:
        """Name to show to people."""
        return NO_MECHANISM


class _Protected(Settings):
    """What both mechanisms need."""

    unit: Literal["patient"] = Field(
        "patient", description="what is protected: all images of one patient together"
    )
    target_epsilon: float = Field(gt=0, le=100, description="all that a patient may lose, for ever")
    target_delta: float = Field(ge=LEAST_DELTA, lt=1, description="at most 1 / (10 population)")
    population: int = Field(
        ge=10,
        le=MOST_POPULATION,
        description="patients, as a public round number; never the exact count",
    )
    noise_multiplier: NoiseMultiplier = Field(2.5, description="sigma: noise over the clip norm")
    sample_rate: float = Field(0.3, gt=0, le=1, description="q: chance to enter one noised sum")
    max_grad_norm: ClipNorm = Field(1.0, description=CLIP_NORM)
    adaptive_clipping: bool = Field(
        False, description="follow the median norm, for 5% more noise (Andrew et al. 2021)"
    )
    rounds: int = Field(1000, ge=1, description="rounds of one study that the site answers at most")
    ledger: Path = Field(Path("ledger"), description="folder of the ledger; beside site.yaml")
    witness: Path | None = Field(
        None, description="folder of the ledger's key and head, on another disk where possible"
    )

    @model_validator(mode="after")
    def _small_enough(self) -> "_Protected":
        bound = MAX_DELTA_TIMES_POPULATION / self.population
        if self.target_delta > bound * (1 + 1e-9):
            raise ValueError(
                f"target_delta ({self.target_delta:g}) must be at most 1 / (10 population), "
                f"which is {bound:g}"
            )
        return self

    @property
    def budget(self) -> Budget:
        """What patients may lose in all."""
        return Budget(self.target_epsilon, self.target_delta)


class DpSgdPolicy(_Protected):
    """Patient DP-SGD: every step sums clipped per-patient gradients and adds noise."""

    mechanism: Literal["dp-sgd"] = "dp-sgd"
    max_grad_norm: ClipNorm = Field(3.0, description=CLIP_NORM)
    steps_per_round: int = Field(2, ge=1, le=MOST_STEPS, description="k: noised sums in one round")
    images_per_patient: int = Field(
        4, ge=1, description="images that one patient's gradient is the mean of, at most"
    )
    labels: tuple[Annotated[str, Field(min_length=1), AfterValidator(one_form)], ...] = Field(
        min_length=2, description="labels that take part: a public list; other images are left out"
    )

    @model_validator(mode="after")
    def _labels_differ(self) -> "DpSgdPolicy":
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: the same label twice")
        return self

    @property
    def label(self) -> str:
        """Name to show to people."""
        return "patient DP-SGD"

    def terms(self) -> Terms:
        """Return what one round costs."""
        return Terms(
            mechanism=DP_SGD,
            noise_multiplier=self.noise_multiplier,
            sample_rate=self.sample_rate,
            steps=self.steps_per_round,
            max_grad_norm=self.max_grad_norm,
            divisor=self.sample_rate * self.population,
            adaptive_clipping=self.adaptive_clipping,
        )


class BlockPolicy(_Protected):
    """Block release: fixed blocks of patients each give one clipped task delta."""

    mechanism: Literal["block"] = "block"
    blocks: int | None = Field(
        None,
        ge=2,
        le=MOST_BLOCKS,
        description="B: blocks that patients are hashed to; left out: population / 50",
    )

    @property
    def label(self) -> str:
        """Name to show to people."""
        return "block release"

    @property
    def n_blocks(self) -> int:
        """B, at least 2; of the public population where it is left out, never of the patients."""
        return self.blocks or min(max(self.population // PATIENTS_OF_A_BLOCK, 2), MOST_BLOCKS)

    def terms(self) -> Terms:
        """Return what one round costs."""
        return Terms(
            mechanism=BLOCK,
            noise_multiplier=self.noise_multiplier,
            sample_rate=self.sample_rate,
            steps=1,
            max_grad_norm=self.max_grad_norm,
            divisor=self.sample_rate * self.n_blocks,
            adaptive_clipping=self.adaptive_clipping,
        )


ProtectedSettings: TypeAlias = DpSgdPolicy | BlockPolicy
PrivacySettings: TypeAlias = Annotated[
    NoPrivacy | DpSgdPolicy | BlockPolicy, Field(discriminator="mechanism")
]


class PolicyFile(Settings):
    """A file with a ``privacy`` section alone; a simulation writes one per hospital."""

    privacy: PrivacySettings


def read_policy_file(path: Path) -> NoPrivacy | ProtectedSettings:
    """Return the policy of a file that holds nothing else, with absolute paths.

    Raises:
        ConfigError: The file is missing or a key is wrong.
    """
    return with_absolute_paths(load_settings(path, PolicyFile).privacy, path.resolve().parent)


def with_absolute_paths(
    policy: NoPrivacy | ProtectedSettings, folder: Path
) -> NoPrivacy | ProtectedSettings:
    """Return the policy with ledger and witness taken from ``folder`` where they are relative.

    The last part of a path is not resolved: a symbolic link there is for the ledger to refuse.
    """
    if isinstance(policy, NoPrivacy):
        return policy

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.normpath(from_folder(folder, path)))

    return policy.model_copy(
        update={"ledger": absolute(policy.ledger), "witness": absolute(policy.witness)}
    )


def statement_of_relation(policy: ProtectedSettings) -> str:
    """Return the neighbouring relation in words."""
    relation: Relation = policy.terms().relation
    return relation.value
