"""From settings to a learner: the one place that knows all learners by name."""

from typing import assert_never

from metaward.arrays import Tensors
from metaward.errors import ConfigError
from metaward.learner_settings import (
    AnilSettings,
    FedAvgSettings,
    FomamlSettings,
    HallucinationSettings,
    LearnerSettings,
    MamlSettings,
    MannSettings,
    MatchingSettings,
    MetaSgdSettings,
    PrototypicalSettings,
    RelationSettings,
    ReptileSettings,
    SiameseSettings,
)
from metaward.meta.anil import Anil
from metaward.meta.fedavg import FedAvg
from metaward.meta.fomaml import Fomaml
from metaward.meta.hallucination import Hallucination
from metaward.meta.learner import Learner
from metaward.meta.maml import Maml
from metaward.meta.mann import Mann
from metaward.meta.matching import Matching
from metaward.meta.meta_sgd import MetaSgd
from metaward.meta.noised import NoisedLearner
from metaward.meta.prototypical import Prototypical
from metaward.meta.relation import Relation
from metaward.meta.reptile import Reptile
from metaward.meta.siamese import Siamese
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body

LEAST_STEPS_OF_PROTOTYPICAL = 2


def build_learner(settings: LearnerSettings) -> Learner:
    """Return the learner that the settings describe."""
    match settings:
        case PrototypicalSettings():
            return Prototypical(settings)
        case MatchingSettings():
            return Matching(settings)
        case RelationSettings():
            return Relation(settings)
        case SiameseSettings():
            return Siamese(settings)
        case ReptileSettings():
            return Reptile(settings)
        case FomamlSettings():
            return Fomaml(settings)
        case MamlSettings():
            return Maml(settings)
        case AnilSettings():
            return Anil(settings)
        case MetaSgdSettings():
            return MetaSgd(settings)
        case FedAvgSettings():
            return FedAvg(settings)
        case MannSettings():
            return Mann(settings)
        case HallucinationSettings():
            return Hallucination(settings)
        case _:
            assert_never(settings)


def initial_parameters(model: ModelSettings, learner: LearnerSettings, seed: int) -> Tensors:
    """Return theta before round 0: the body's leaves, then the learner's own."""
    body = build_body(model, seed)
    return body.initial_parameters() | build_learner(learner).own_parameters(body, seed)


def build_noised_learner(settings: LearnerSettings, steps: int) -> NoisedLearner:
    """Return the learner in the form that works from noised answers, ``steps`` of them a round.

    Raises:
        ConfigError: The learner has no such form, or needs more answers than that.
    """
    match settings:
        case ReptileSettings(inner_optimizer="sgd"):
            return Reptile(settings)
        case FomamlSettings():
            return Fomaml(settings)
        case FedAvgSettings():
            return FedAvg(settings)
        case PrototypicalSettings():
            if (settings.distance, settings.loss) != ("squared-euclidean", "cross-entropy"):
                raise _no_noised_variant(settings)
            if steps < LEAST_STEPS_OF_PROTOTYPICAL:
                raise ConfigError(
                    f"learner {settings.name} with {steps} noised sum in a round",
                    expected="at least 2 noised sums: one for the prototypes, one for the gradient",
                    where="privacy.steps_per_round",
                    next_step="Raise it to 2, or choose another learner.",
                )
            return Prototypical(settings)
        case _:
            raise _no_noised_form(settings)


def _no_noised_variant(settings: PrototypicalSettings) -> ConfigError:
    return ConfigError(
        f"learner prototypical with distance {settings.distance}, loss {settings.loss} and "
        "mechanism dp-sgd",
        expected="distance squared-euclidean and loss cross-entropy, which noised sums suffice for",
        where="privacy.mechanism",
        next_step="Take these, or mechanism block, which is for any learner.",
    )


def _no_noised_form(settings: LearnerSettings) -> ConfigError:
    return ConfigError(
        f"learner {settings.name} with mechanism dp-sgd",
        expected="a learner that works from noised sums: prototypical, fomaml, reptile (with "
        "inner_optimizer sgd) or fedavg",
        where="privacy.mechanism",
        next_step="Take mechanism block, which is for any learner, or another learner.",
    )
