"""From settings to a learner: the one place that knows all learners by name."""

from metaward.errors import ConfigError
from metaward.meta.fedavg import FedAvg
from metaward.meta.fomaml import Fomaml
from metaward.meta.learner import Learner
from metaward.meta.noised import NoisedLearner
from metaward.meta.prototypical import Prototypical
from metaward.meta.reptile import Reptile
from metaward.study import (
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    PrototypicalSettings,
    ReptileSettings,
)


def build_learner(settings: LearnerSettings) -> Learner:
    """Return the learner that the settings describe."""
    match settings:
        case PrototypicalSettings():
            return Prototypical(settings)
        case ReptileSettings():
            return Reptile(settings)
        case FomamlSettings():
            return Fomaml(settings)
        case FedAvgSettings():
            return FedAvg(settings)


def build_noised_learner(settings: LearnerSettings) -> NoisedLearner:
    """Return the learner in the form that works from noised gradients.

    Raises:
        ConfigError: The learner's loss ties patients together, so that it has no such form.
    """
    match settings:
        case ReptileSettings():
            return Reptile(settings)
        case FomamlSettings():
            return Fomaml(settings)
        case FedAvgSettings():
            return FedAvg(settings)
        case PrototypicalSettings():
            raise ConfigError(
                f"learner {settings.name} under dp-sgd",
                expected="a learner whose gradient is a sum over patients: fedavg, reptile, fomaml",
                where="learner",
                next_step="Choose one of these; the mechanism `block` serves any learner.",
            )
