"""From settings to a learner: the one place that knows all learners by name."""

from metaward.meta.fedavg import FedAvg
from metaward.meta.fomaml import Fomaml
from metaward.meta.learner import Learner
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
