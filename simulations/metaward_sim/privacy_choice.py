"""What a scenario says of the privacy policies of the hospitals that it simulates."""

from typing import Literal

from pydantic import Field, model_validator

from metaward.config import Settings
from metaward.learner_settings import LearnerSettings
from metaward_client.privacy.policy import (
    CLIP_NORM,
    MOST_BLOCKS,
    MOST_POPULATION,
    MOST_STEPS,
    ClipNorm,
    NoiseMultiplier,
)
from metaward_sim.recommended import recommended_sums

KEYS_OF = {"dp-sgd": ("steps_per_round", "images_per_patient"), "block": ("blocks",)}
"""The keys that one mechanism alone has."""


class PrivacyChoice(Settings):
    """What the policies of the simulated hospitals say."""

    mechanism: Literal["dp-sgd", "block"] = "dp-sgd"
    target_epsilon: float = Field(gt=0, le=100, description="what a patient may lose in all rounds")
    target_delta: float | None = Field(
        None, gt=0, lt=1, description="left out: 1 / (10 population) of the largest hospital"
    )
    population: int | None = Field(
        None,
        ge=10,
        le=MOST_POPULATION,
        description="left out: each hospital's patients, rounded up",
    )
    noise_multiplier: NoiseMultiplier | None = Field(
        None, description="sigma; left out: what spends the budget in the scenario's rounds"
    )
    sample_rate: float = Field(0.3, gt=0, le=1, description="q: chance to enter one noised sum")
    max_grad_norm: ClipNorm | None = Field(
        None, description=f"{CLIP_NORM}; left out: as in a policy"
    )
    adaptive_clipping: bool = False
    steps_per_round: int | None = Field(
        None,
        ge=1,
        le=MOST_STEPS,
        description="k: noised sums per round (dp-sgd); left out: 2, FOMAML 1, prototypical 3",
    )
    images_per_patient: int = Field(4, ge=1, description="images of one patient, at most (dp-sgd)")
    blocks: int | None = Field(
        None,
        ge=2,
        le=MOST_BLOCKS,
        description="B: blocks of patients (block); left out: as the learner's episodes",
    )

    @model_validator(mode="after")
    def _no_key_of_the_other_mechanism(self) -> "PrivacyChoice":
        for mechanism, keys in KEYS_OF.items():
            for key in keys if mechanism != self.mechanism else ():
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is for mechanism {mechanism}, not {self.mechanism}")
        return self

    def sums_for(self, learner: LearnerSettings) -> int:
        """Return k for a learner: what the file says, or what suits this one."""
        return self.steps_per_round or recommended_sums(learner)
