"""What a study says of the body that all sites share."""

import math
from typing import Literal

from pydantic import Field, model_validator

from metaward.config import Settings
from metaward.learner_settings import LearnerSettings

MIN_NORM_VALUES = 4
CONV4_BLOCKS = 4
SIDE_TO_COMPARE = 7
"""Pixels of a map's side that leave a relation network something to compare. Sung et al. 2018 have
5 of images of 28, and 19 of 84."""


class ModelSettings(Settings):
    """The body that all sites share. The head is local and is not part of it."""

    name: Literal["conv4", "resnet"] = "conv4"
    filters: int = Field(32, ge=4, le=512, description="channels of every block")
    image_size: int = Field(32, ge=16, le=512, description="pixels, height and width")
    channels: Literal[1, 3] = 1
    downsample: Literal["pool", "stride"] = "stride"
    downsampled_blocks: int = Field(
        CONV4_BLOCKS,
        ge=2,
        le=CONV4_BLOCKS,
        description="first blocks of conv4, which halve height and width",
    )
    groups: int = Field(4, ge=1, description="groups of every GroupNorm")

    @model_validator(mode="after")
    def _what_is_of_conv4_is_not_asked_of_another(self) -> "ModelSettings":
        fields = type(self).model_fields
        for key in ("downsample", "downsampled_blocks"):
            if self.name != "conv4" and getattr(self, key) != fields[key].default:
                raise ValueError(f"{key} is for conv4; {self.name} has none: leave it out")
        return self

    @model_validator(mode="after")
    def _norms_have_something_to_norm(self) -> "ModelSettings":
        if self.filters % self.groups:
            raise ValueError(
                f"filters ({self.filters}) must be a multiple of groups ({self.groups})"
            )
        values = self.filters // self.groups * self.last_norm_side() ** 2
        if values < MIN_NORM_VALUES:
            raise ValueError(
                f"each group of the last GroupNorm would hold {values} values, which it would "
                f"flatten to nothing; at least {MIN_NORM_VALUES} are needed: lower groups or "
                "downsampled_blocks, or raise image_size"
            )
        return self

    def last_norm_side(self) -> int:
        """Return the height (and width) in pixels of the map that the last norm sees."""
        if self.name == "resnet":
            return math.ceil(self.image_size / 8)
        if self.downsample == "pool":  # the last block's pool stands behind its norm
            return self.side_after(min(self.downsampled_blocks, CONV4_BLOCKS - 1))
        return self.side_after(self.downsampled_blocks)

    def side_after(self, halvings: int) -> int:
        """Return the height (and width) in pixels of what conv4 makes of an image so halved.

        >>> [ModelSettings(image_size=50, downsample=d).side_after(3) for d in ("pool", "stride")]
        [6, 7]
        """
        if self.downsample == "pool":
            return self.image_size >> halvings
        return math.ceil(self.image_size / (1 << halvings))


def suited_to(learner: LearnerSettings, model: ModelSettings) -> ModelSettings:
    """Return the body, with fewer halvings for whoever compares its maps, if it leaves them open.

    >>> from metaward.learner_settings import RelationSettings
    >>> [
    ...     suited_to(RelationSettings(), ModelSettings(image_size=size)).downsampled_blocks
    ...     for size in (28, 64, 128)
    ... ]
    [2, 3, 4]
    """
    said = "downsampled_blocks" in model.model_fields_set
    if learner.name != "relation" or model.name != "conv4" or said:
        return model
    blocks = CONV4_BLOCKS
    while blocks > 2 and model.side_after(blocks) < SIDE_TO_COMPARE:
        blocks -= 1
    return model.model_copy(update={"downsampled_blocks": blocks})
