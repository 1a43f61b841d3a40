"""What a study is: the settings that every site and the coordinator must agree on.

The digest of a :class:`Study` travels with every message, so a site and the coordinator notice
when they speak of different studies. Nothing here is about one site's data or privacy policy:
those belong to the site's own file.
"""

import itertools
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, assert_never

from pydantic import Field, model_validator

from metaward.config import Settings, load_settings
from metaward.learner_settings import LearnerSettings, PrototypicalSettings
from metaward.model_settings import ModelSettings, suited_to
from metaward.patterns import NAME, SHA256_OR_NOTHING

SeedInt = Annotated[int, Field(ge=0, lt=2**63)]


class SgdSettings(Settings):
    """theta <- theta + step_size * mean delta."""

    name: Literal["sgd"] = "sgd"
    step_size: float = Field(1.0, gt=0)


class MomentumSettings(Settings):
    """Heavy-ball momentum on the mean delta."""

    name: Literal["momentum"] = "momentum"
    step_size: float = Field(1.0, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)


class AdamSettings(Settings):
    """Adam on the mean delta (FedAdam, Reddi et al. 2021)."""

    name: Literal["adam"] = "adam"
    step_size: float = Field(1.0e-3, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1.0e-3, gt=0, description="added to the root of the second moment")


class YogiSettings(Settings):
    """Yogi on the mean delta (FedYogi, Reddi et al. 2021)."""

    name: Literal["yogi"] = "yogi"
    step_size: float = Field(1.0e-3, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1.0e-3, gt=0, description="added to the root of the second moment")


ADAM_FOR_SHORT = AdamSettings(step_size=1.0e-2, tau=1.0e-5)
"""For deltas whose coordinates are about a thousandth, as those of clipped gradients are. Of steps
0.005 and 0.01 the better one at epsilon 8, on real and on synthetic hospitals."""

OuterSettings: TypeAlias = Annotated[
    SgdSettings | MomentumSettings | AdamSettings | YogiSettings, Field(discriminator="name")
]


SHORT_COORDINATE = 1.0e-3
"""Of a mean of clipped gradients."""
LEAST_GAIN = 2.0
"""Between what was tried on clipped gradients: plain steps of 1 (a gain of 1) were too slow, Adam's
of 0.005 and 0.01 (5 and 10) were not."""


def suits_short(outer: OuterSettings) -> bool:
    """Say whether an outer step gets anywhere with deltas as short as clipped gradients.

    Asked is its gain: by how much it multiplies a coordinate of a thousandth that comes again and
    again.

    >>> suits_short(ADAM_FOR_SHORT), suits_short(AdamSettings()), suits_short(SgdSettings())
    (True, False, False)
    """
    match outer:
        case SgdSettings():
            gain = outer.step_size
        case MomentumSettings():
            gain = outer.step_size / (1 - outer.momentum)
        case AdamSettings() | YogiSettings():
            gain = outer.step_size / (SHORT_COORDINATE + outer.tau)
        case _:
            assert_never(outer)
    return gain >= LEAST_GAIN


class MeanSettings(Settings):
    """The mean of the admitted deltas: one hostile site can move it anywhere."""

    name: Literal["mean"] = "mean"

    def least_updates(self) -> int:
        """Return 1: a mean of one update is that update."""
        return 1


LEAST_MAJORITY = 3
"""Of fewer updates, no honest ones outvote a hostile one."""


class MedianSettings(Settings):
    """Coordinate-wise median (Yin et al. 2018)."""

    name: Literal["median"] = "median"

    def least_updates(self) -> int:
        """Return how many updates it takes to withstand one hostile site."""
        return LEAST_MAJORITY


class TrimmedMeanSettings(Settings):
    """Coordinate-wise trimmed mean (Yin et al. 2018)."""

    name: Literal["trimmed-mean"] = "trimmed-mean"
    fraction: float = Field(
        0.2, ge=0.01, lt=0.5, description="share of the updates cut off at either end"
    )

    def cut(self, n_updates: int) -> int:
        """Return how many of ``n_updates`` values are cut off at either end, rounded down."""
        return int(self.fraction * n_updates)

    def least_updates(self) -> int:
        """Return the fewest updates of which any is cut off: else it would be the mean."""
        return next(n for n in itertools.count(LEAST_MAJORITY) if self.cut(n) > 0)


HOSTILE = "hostile sites to withstand, f; a round needs 2 f + 3 admitted updates"


class KrumSettings(Settings):
    """The one update that is closest to its neighbours (Blanchard et al. 2017)."""

    name: Literal["krum"] = "krum"
    hostile: int = Field(1, ge=1, description=HOSTILE)

    def least_updates(self) -> int:
        """Return the least n with 2 f + 2 < n."""
        return 2 * self.hostile + 3


class MultiKrumSettings(Settings):
    """The mean of the n - f - 2 updates that are closest to their neighbours."""

    name: Literal["multi-krum"] = "multi-krum"
    hostile: int = Field(1, ge=1, description=HOSTILE)

    def least_updates(self) -> int:
        """Return the least n with 2 f + 2 < n."""
        return 2 * self.hostile + 3


class GeometricMedianSettings(Settings):
    """The point with the least sum of distances to the updates (Pillutla et al. 2022)."""

    name: Literal["geometric-median"] = "geometric-median"

    def least_updates(self) -> int:
        """Return how many updates it takes to withstand one hostile site."""
        return LEAST_MAJORITY


AggregationSettings: TypeAlias = Annotated[
    MeanSettings
    | MedianSettings
    | TrimmedMeanSettings
    | KrumSettings
    | MultiKrumSettings
    | GeometricMedianSettings,
    Field(discriminator="name"),
]


class RoundSettings(Settings):
    """Who takes part in a round, how long it may last, and what is refused."""

    sites_per_round: int = Field(0, ge=0, description="sites asked in each round; 0 asks all")
    quorum: int = Field(1, ge=1, description="admitted updates that a round needs to count")
    deadline_s: float = Field(
        600.0, gt=0, le=10_000_000, description="seconds until a round closes"
    )
    max_delta_norm: float = Field(1.0e3, gt=0, description="L2 norm above which a delta is refused")
    max_void_rounds: int = Field(3, ge=1, description="void rounds in a row that end the study")

    @model_validator(mode="after")
    def _quorum_can_be_reached(self) -> "RoundSettings":
        if self.sites_per_round and self.quorum > self.sites_per_round:
            raise ValueError(
                f"quorum ({self.quorum}) is more than sites_per_round ({self.sites_per_round}): "
                "no round would ever count"
            )
        return self


class Study(Settings):
    """Everything that the coordinator and all sites must agree on."""

    name: str = Field("study", pattern=NAME)
    seed: SeedInt = 0
    rounds: int = Field(50, ge=1)
    model: ModelSettings = ModelSettings()
    learner: LearnerSettings = PrototypicalSettings()
    aggregation: AggregationSettings = MeanSettings()
    outer: OuterSettings = AdamSettings()
    round: RoundSettings = RoundSettings()
    start_sha256: str = Field(
        "",
        pattern=SHA256_OR_NOTHING,
        description="parameters of the model that training begins from; left out: an untrained one",
    )

    @model_validator(mode="after")
    def _aggregation_can_work(self) -> "Study":
        check_enough_updates(self.aggregation, self.round.sites_per_round, "round.sites_per_round")
        return self

    def least_updates(self) -> int:
        """Return the admitted updates that a round needs to count."""
        return max(self.round.quorum, self.aggregation.least_updates())


def read_study(path: Path) -> Study:
    """Read the study that somebody wants to run or to take part in.

    Where the file leaves open how often the body halves an image, it does as suits the learner.

    Raises:
        ConfigError: The file is missing or wrong; or it is empty, as a pipe is whose other end
            failed: nobody asks for all defaults in that way.
    """
    study = load_settings(path, Study, may_be_empty=False)
    return study.model_copy(update={"model": suited_to(study.learner, study.model)})


def check_enough_updates(aggregation: AggregationSettings, sites: int, key: str) -> None:
    """Refuse a number of sites with which no round would ever count; 0 says nothing.

    Raises:
        ValueError: As pydantic's validators do.
    """
    needed = aggregation.least_updates()
    if 0 < sites < needed:
        raise ValueError(
            f"aggregation {aggregation.name} needs {needed} admitted updates in a round, but "
            f"{key} is {sites}: no round would ever count"
        )
