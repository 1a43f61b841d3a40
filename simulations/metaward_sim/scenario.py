"""A scenario: which hospitals, which method against which baselines, what is measured."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from metaward.adapt_settings import TRAINING_ALONE, AloneSettings, changing
from metaward.config import Settings
from metaward.device import ON_CPU, DeviceName, require_provable
from metaward.errors import ConfigError
from metaward.evaluation_design import EvaluationPlan
from metaward.learner_settings import (
    FedAvgSettings,
    LearnerSettings,
    MannSettings,
    PrototypicalSettings,
)
from metaward.meta.compose import build_noised_learner
from metaward.model_settings import ModelSettings, suited_to
from metaward.patterns import NAME, SHA256_OR_NOTHING
from metaward.study import (
    ADAM_FOR_SHORT,
    AdamSettings,
    AggregationSettings,
    MeanSettings,
    OuterSettings,
    RoundSettings,
    SeedInt,
    SgdSettings,
    Study,
    check_enough_updates,
)
from metaward_sim.privacy_choice import PrivacyChoice
from metaward_sim.recommended import recommended_outer

BaselineName: TypeAlias = Literal[
    "fedavg", "fedadam", "local", "random", "pooled", "noise-only", "start"
]
BASELINES_OF_A_PRIVATE_RUN: tuple[BaselineName, ...] = ("noise-only", "local", "random")
FILTERS_OF_A_PRIVATE_RUN = 16
"""Noise grows with the number of parameters, so a private model is small unless a file says so."""
SiteName = Annotated[str, Field(pattern=NAME)]
MOST_SYNTHETIC = 10_000


class HospitalChoice(Settings):
    """Where the hospitals come from, and which of them take no part."""

    root: Path | None = Field(
        None, description="folder with one site folder per hospital; without it they are synthetic"
    )
    synthetic: int = Field(
        8, ge=1, le=MOST_SYNTHETIC, description="synthetic hospitals that take part"
    )
    patients: int = Field(24, ge=4, description="mean patients per finding, when synthetic")
    held_out: int | tuple[SiteName, ...] = Field(
        2, description="hospitals that take no part: how many, or their names"
    )

    @field_validator("held_out")
    @classmethod
    def _somebody_is_held_out(cls, value: int | tuple[SiteName, ...]) -> int | tuple[SiteName, ...]:
        if value == ():
            raise ValueError("nobody is held out, so that nothing could be measured")
        if isinstance(value, int) and not 1 <= value <= MOST_SYNTHETIC:
            raise ValueError(f"{value} hospitals to hold out; it can be 1 to {MOST_SYNTHETIC}")
        return value


class EvaluationSettings(Settings):
    """What is measured at the hospitals that took no part."""

    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 5, 10, 20), min_length=1)
    n_way: int = Field(5, ge=2, description="classes per episode; all labels where fewer")
    n_query: int = Field(8, ge=1, description="query images per class")
    episodes: int = Field(200, ge=2)

    def plan(self, seed: int) -> EvaluationPlan:
        """Return the plan that the evaluation follows."""
        return EvaluationPlan(self.shots, self.n_way, self.n_query, self.episodes, seed)


class FedAvgBaseline(Settings):
    """Federated averaging over the same hospitals, then fine-tuning at the new one."""

    rounds: int | None = Field(
        None, ge=1, description="left out: as many as the method, which is about as much work"
    )
    learner: FedAvgSettings = FedAvgSettings()


class FedAdamBaseline(Settings):
    """The same with the server's Adam in the place of the plain average (Reddi et al. 2021)."""

    outer: Annotated[AdamSettings, changing(ADAM_FOR_SHORT)] = Field(
        ADAM_FOR_SHORT, description="the server's step"
    )


class BaselineSettings(Settings):
    """What the method is compared with."""

    methods: tuple[BaselineName, ...] = ("fedavg", "fedadam", "local", "random")
    fedavg: FedAvgBaseline = FedAvgBaseline()
    fedadam: FedAdamBaseline = FedAdamBaseline()
    local: AloneSettings = Field(
        TRAINING_ALONE,
        description="training at the new hospital alone, from random weights",
    )

    @field_validator("methods")
    @classmethod
    def _each_method_once(cls, value: tuple[BaselineName, ...]) -> tuple[BaselineName, ...]:
        twice = sorted({name for name in value if value.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} more than once: each is measured once")
        return value


class Scenario(Settings):
    """Everything that `metaward simulate` needs; every key has a default."""

    name: str = Field("demo", pattern=NAME)
    seed: SeedInt = 0
    hospitals: HospitalChoice = HospitalChoice()
    rounds: int = Field(90, ge=1)
    start: Path | None = Field(
        None, description="model, or run, that training begins from; left out: an untrained one"
    )
    start_sha256: str = Field(
        "", pattern=SHA256_OR_NOTHING, description="its parameters; a run writes it down"
    )
    model: ModelSettings = ModelSettings()
    learner: LearnerSettings = PrototypicalSettings()
    aggregation: AggregationSettings = MeanSettings()
    outer: OuterSettings | None = Field(None, description="left out: what suits the learner")
    round: RoundSettings = RoundSettings()
    baselines: BaselineSettings = BaselineSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    privacy: PrivacyChoice | None = Field(None, description="left out: NOT PRIVATE")
    grid: Literal["in-process", "ray"] = "in-process"
    device: DeviceName = Field(
        ON_CPU, description="where hospitals train: cpu, cuda or cuda:1; scored on the CPU"
    )
    workers: int | None = Field(None, ge=1, description="worker processes; left out: one per core")

    @model_validator(mode="after")
    def _aggregation_can_work(self) -> "Scenario":
        asked = self.round.sites_per_round
        check_enough_updates(self.aggregation, asked, "round.sites_per_round")
        if self.hospitals.root is None:
            synthetic = self.hospitals.synthetic
            check_enough_updates(self.aggregation, synthetic, "hospitals.synthetic")
        return self

    @model_validator(mode="after")
    def _new_sites_classes_have_slots(self) -> "Scenario":
        if isinstance(self.learner, MannSettings) and self.evaluation.n_way > self.learner.n_way:
            raise ValueError(
                f"evaluation.n_way ({self.evaluation.n_way}) is more than the label slots of "
                f"learner mann, learner.n_way ({self.learner.n_way})"
            )
        return self

    @model_validator(mode="after")
    def _start_is_there(self) -> "Scenario":
        if self.start is None:
            if self.start_sha256:
                raise ValueError("start_sha256 without start, the model that it is about")
            if "start" in self.baselines.methods:
                raise ValueError("baselines.methods: start is for runs that begin from a `start`")
        return self

    @model_validator(mode="after")
    def _what_suits_privacy(self) -> "Scenario":
        """Fill in what a private run needs where the file leaves it open; refuse what cannot be."""
        if self.privacy is None:
            if "noise-only" in self.baselines.methods:
                raise ValueError(
                    "baselines.methods: noise-only is a control for runs with `privacy`"
                )
            return self
        if self.privacy.mechanism == "dp-sgd":
            try:
                build_noised_learner(self.learner, self.privacy.sums_for(self.learner))
            except ConfigError as error:
                raise ValueError(str(error)) from error
        if "filters" not in self.model.model_fields_set:
            self._fill("model", self.model.model_copy(update={"filters": FILTERS_OF_A_PRIVATE_RUN}))
        return self

    @model_validator(mode="after")
    def _what_suits_the_learner(self) -> "Scenario":
        """Fill in the outer step, and the size of maps, where the file leaves them open."""
        self._fill("model", suited_to(self.learner, self.model))
        if self.outer is None:
            clipped = self.privacy is not None
            self._fill("outer", recommended_outer(self.learner, clipped=clipped))
        return self

    @model_validator(mode="after")
    def _what_it_is_compared_with(self) -> "Scenario":
        """Fill in the baselines where the file leaves them open."""
        if "methods" in self.baselines.model_fields_set:
            return self
        private = self.privacy is not None
        methods = BASELINES_OF_A_PRIVATE_RUN if private else self.baselines.methods
        if self.start is not None:
            methods = (*methods, "start")
        self._fill("baselines", self.baselines.model_copy(update={"methods": methods}))
        return self

    @model_validator(mode="after")
    def _device_can_be_used(self) -> "Scenario":
        if self.device == ON_CPU:
            return self
        if self.privacy is not None:
            require_provable(self.privacy.mechanism, self.device)
        if self.grid == "ray":
            raise ValueError("grid ray computes on CPUs: leave out device, or take in-process")
        return self

    def _fill(self, key: str, value: Settings) -> None:
        object.__setattr__(self, key, value)  # before anybody has seen the frozen object

    def study(self) -> Study:
        """Return the study that the method is trained in."""
        assert self.outer is not None  # filled in
        return Study(
            name=self.name,
            seed=self.seed,
            rounds=self.rounds,
            model=self.model,
            learner=self.learner,
            aggregation=self.aggregation,
            outer=self.outer,
            round=self.round,
            start_sha256=self.start_sha256,
        )

    def fedavg_study(self) -> Study:
        """Return the study that the FedAvg baseline is trained in."""
        return Study(
            name=f"{self.name[:56]}-fedavg",
            seed=self.seed,
            rounds=self.baselines.fedavg.rounds or self.rounds,
            model=self.model,
            learner=self.baselines.fedavg.learner,
            aggregation=self.aggregation,
            outer=SgdSettings(step_size=1.0),
            round=self.round,
            start_sha256=self.start_sha256,
        )

    def fedadam_study(self) -> Study:
        """Return the study that the FedAdam baseline is trained in."""
        return self.fedavg_study().model_copy(
            update={"name": f"{self.name[:56]}-fedadam", "outer": self.baselines.fedadam.outer}
        )
