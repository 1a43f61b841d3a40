"""How a site may turn a support set into a classifier, and what each learner does by default."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from metaward.config import Settings

HeadStart: TypeAlias = Literal["prototypes", "zeros"]


class AdaptSettings(Settings):
    """How a site turns a support set into a classifier."""

    head: HeadStart = "prototypes"
    steps: int = Field(5, ge=0, le=10_000)
    lr: float = Field(0.01, gt=0)
    batch_size: int | None = Field(
        None, ge=1, description="support images per step; left out: the whole support set"
    )

    @model_validator(mode="after")
    def _something_tells_classes_apart(self) -> "AdaptSettings":
        refuse_blank_head(self.head, self.steps, "steps")
        return self


def refuse_blank_head(head: HeadStart, steps: int, key: str) -> None:
    """Refuse a head of zeros that no step moves: it says the same for every class."""
    if head == "zeros" and steps == 0:
        raise ValueError(f"{key} 0 with head zeros tells no classes apart: take a step at least")


def changing(default: Settings) -> BeforeValidator:
    """Let keys that a file leaves out keep the values of this place, not those of the class."""

    def merge(value: object) -> object:
        return default.model_dump() | value if isinstance(value, dict) else value

    return BeforeValidator(merge)


class InnerLoopSettings(Settings):
    """What learners with an inner loop share: left out, a new site adapts as it does."""

    if TYPE_CHECKING:  # each learner has its own, in its own order
        inner_steps: int
        inner_lr: float
        adapt: AdaptSettings

    @model_validator(mode="before")
    @classmethod
    def _adapt_as_in_the_inner_loop(cls, value: object) -> object:
        if not isinstance(value, dict) or not isinstance(value.get("adapt", {}), dict):
            return value
        same = {"inner_steps": "steps", "inner_lr": "lr"}
        given = {key: value[name] for name, key in same.items() if name in value}
        return value | {"adapt": given | value.get("adapt", {})}

    @model_validator(mode="after")
    def _something_tells_classes_apart(self) -> "InnerLoopSettings":
        refuse_blank_head(self.adapt.head, self.inner_steps, "inner_steps")
        return self


ONE_STEP = AdaptSettings(steps=1, lr=0.01)
"""The adaptation of FOMAML and MAML: as many steps as in their inner loop."""
FINE_TUNE = AdaptSettings(steps=5, lr=0.01, batch_size=20)
"""Fine-tuning after FedAvg. Five classes of 1, 5, 10 or 20 images are whole passes."""
TRAINING_ALONE = AdaptSettings(steps=20, lr=0.03, batch_size=15)
"""How a hospital trains alone, from random weights, on the few images that it has labelled."""
AloneSettings: TypeAlias = Annotated[AdaptSettings, changing(TRAINING_ALONE)]
