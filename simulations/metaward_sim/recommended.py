"""What suits a learner where a scenario leaves it open: outer step, noised sums, blocks."""

from metaward.learner_settings import FedAvgSettings, LearnerSettings, ReptileSettings
from metaward.study import ADAM_FOR_SHORT, AdamSettings, OuterSettings, SgdSettings
from metaward_client.privacy.policy import MOST_BLOCKS

PATIENTS_FOR_AN_IMAGE = 5
"""Of a block, for each image that an episode has of a class: a block has no label in plenty. They
are counted in the population, which may be half as large again as the patients are many."""
IMAGES_WITHOUT_EPISODES = 4
"""As many patients to a learner that draws no episodes as to one with four images of a class."""


def recommended_outer(learner: LearnerSettings, *, clipped: bool = False) -> OuterSettings:
    """Return the outer optimiser that suits a learner's deltas.

    Deltas that are gradients, such as a prototypical network's and FOMAML's, are for Adam to
    scale. Reptile's and FedAvg's are differences of parameters, to be taken as they are; but for
    clipped ones, which are too short to get anywhere in the rounds that a budget allows. A relation
    network takes small steps always: larger ones can put its comparing part to silence for good
    where its maps are small, and its gradients are shorter than others (docs/algorithms.md).

    Args:
        learner: The learner.
        clipped: Whether deltas are means of many clipped vectors, patients' gradients or blocks'
            deltas. A coordinate of those is about a thousandth, so Adam's constant must be below
            that.
    """
    if learner.name == "relation":
        tau = ADAM_FOR_SHORT.tau if clipped else 1.0e-4
        return AdamSettings(step_size=1.0e-3, tau=tau)
    if learner.DELTA == "difference" and not clipped:
        return SgdSettings(step_size=1.0)
    return ADAM_FOR_SHORT if clipped else AdamSettings(step_size=5.0e-3)


def recommended_sums(learner: LearnerSettings) -> int:
    """Return the noised sums per round that suit a learner under dp-sgd.

    Prototypical networks' first one makes the prototypes, and is pooled over rounds: it can bear
    noise better than the gradient, of which two are averaged. FOMAML's first ones would be inner
    steps, and cost its gradient more noise than they are worth (docs/privacy-accuracy.md).
    """
    match learner.name:
        case "prototypical":
            return 3
        case "fomaml":
            return 1
        case _:
            return 2


def recommended_blocks(learner: LearnerSettings, population: int) -> int:
    """Return B: as many blocks as have patients for an episode of the learner each.

    More blocks share the noise, but one that cannot fill an episode adds nothing
    (docs/privacy-accuracy.md). A block for every `PATIENTS_FOR_AN_IMAGE` patients per image of a
    class: ten where an episode has one support and one query image of each class.

    >>> from metaward.learner_settings import PrototypicalSettings
    >>> recommended_blocks(PrototypicalSettings(n_shot=1, n_query=1), 2000)
    200
    """
    most = population // (PATIENTS_FOR_AN_IMAGE * _images_of_a_class(learner))
    return min(max(most, 2), MOST_BLOCKS)


def _images_of_a_class(learner: LearnerSettings) -> int:
    """Return how many images of a class an episode has, support and query."""
    match learner:
        case FedAvgSettings():
            return IMAGES_WITHOUT_EPISODES
        case ReptileSettings():
            return learner.n_shot
        case _:
            return learner.n_shot + learner.n_query
