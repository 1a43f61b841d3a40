"""The rows of the federated table: how each learner is trained over clients.

All see the same clients and take part in as many rounds with as many clients each, so that all cost
the same transport. In a round a client looks at about as many drawings, whatever the learner: with
one shot in three episodes of all its characters, with five in two, and Reptile and FedAvg, which
have no episodes, in as many local steps as go once over an average client's drawings. Step sizes
were chosen at validation clients, on seed 0, after 60 rounds: of the coordinator's Adam 0.001 and
0.003 (relation networks: 0.002), and for FedAvg 0.01 too; of FOMAML's and MAML's inner step
0.1, 0.03 and 0.01, the library's default; of a matching network's temperature 0.1, 0.03 and 0.0125.
Reptile's and FedAvg's local steps were chosen before, with a plain average.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metaward.adapt_settings import AdaptSettings
from metaward.learner_settings import (
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    MamlSettings,
    MatchingSettings,
    PrototypicalSettings,
    RelationSettings,
    ReptileSettings,
)
from metaward.model_settings import ModelSettings
from metaward.study import OuterSettings, SgdSettings, Study
from omniglot.clients import MOST
from omniglot.recipe import ADAM, FAST_ADAM, SMALL, SMALL_LARGE_MAPS
from omniglot.training import Training

SHOTS = (1, 5)
"""Images per character at a new client: the columns of the table."""
ROUNDS, QUICK_ROUNDS = 200, 20
CLIENTS_PER_ROUND = 10


@dataclass(frozen=True)
class Answer:
    """A way to answer from one training: a row of the table."""

    title: str
    learner: LearnerSettings


@dataclass(frozen=True)
class FederatedPlan:
    """One training, the columns that it is scored in, and the rows that come of it."""

    name: str
    training: Training
    shots: Sequence[int]
    answers: Sequence[Answer]


def plan(
    name: str,
    learner: LearnerSettings,
    outer: OuterSettings,
    shots: Sequence[int],
    answers: Sequence[Answer] = (),
    *,
    model: ModelSettings = SMALL,
) -> FederatedPlan:
    """Return a plan from seed 0; what it answers with is the learner itself, if not said."""
    study = Study(name="omniglot", rounds=ROUNDS, model=model, learner=learner, outer=outer)
    training = Training(study=study, meta_batch=CLIENTS_PER_ROUND, anneal=True, budget_s=20_000)
    return FederatedPlan(name, training, shots, answers or (Answer(learner.TITLE, learner),))


def _episodes(n_shot: int) -> dict[str, Any]:
    """Return what all learners of episodes share: all characters, and 60 to 70 drawings."""
    episodes = {1: 3, 5: 2}[n_shot]
    return {"n_way": MOST, "n_shot": n_shot, "n_query": 5, "episodes": episodes, "augment": "none"}


def _for_shots(n_shot: int) -> tuple[FederatedPlan, ...]:
    """Return the plans of the learners that train on as many images as they shall answer from."""
    episodes, shots = _episodes(n_shot), (n_shot,)
    return (
        plan("prototypical", PrototypicalSettings(**episodes), ADAM, shots),
        plan("matching", MatchingSettings(temperature=0.0125, **episodes), ADAM, shots),
        plan("relation", RelationSettings(**episodes), ADAM, shots, model=SMALL_LARGE_MAPS),
        plan("fomaml", FomamlSettings(**episodes), FAST_ADAM, shots),
        plan("maml", MamlSettings(**episodes), FAST_ADAM, shots),
    )


FINE_TUNED = AdaptSettings(head="prototypes", steps=20, lr=0.01)
AS_IT_IS = AdaptSettings(head="prototypes", steps=0)
REPTILE = ReptileSettings(
    n_way=MOST, n_shot=10, inner_steps=7, inner_batch=10, inner_lr=0.01, episodes=1, augment="none",
    adapt=FINE_TUNED,
)  # fmt: skip
FEDAVG = FedAvgSettings(
    local_steps=7, batch_size=10, local_lr=0.01, augment="none", adapt=FINE_TUNED
)
BASELINE = "FedAdam + fine-tune"
"""What differences are taken to: of the two servers' steps the better one."""


def plans() -> list[FederatedPlan]:
    """Return all trainings, at their full length."""
    as_it_is = FEDAVG.model_copy(update={"adapt": AS_IT_IS})
    plain = [Answer("FedAvg", as_it_is), Answer("FedAvg + fine-tune", FEDAVG)]
    adaptive = [Answer("FedAdam", as_it_is), Answer(BASELINE, FEDAVG)]
    return [
        *(plan for n_shot in SHOTS for plan in _for_shots(n_shot)),
        plan("reptile", REPTILE, ADAM, SHOTS),
        plan("fedavg", FEDAVG, SgdSettings(step_size=1.0), SHOTS, plain),
        plan("fedadam", FEDAVG, ADAM, SHOTS, adaptive),
    ]
