"""What the tests of the private mechanisms share: small tasks, policies, ledgers, known noise."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from metaward.arrays import to_arrays
from metaward.learner_settings import FomamlSettings
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.study import Study
from metaward.tasks import Task
from metaward_client.privacy.ledger import Ledger
from metaward_client.privacy.ledger.limits import Accountant
from metaward_client.privacy.policy import BlockPolicy, DpSgdPolicy, ProtectedSettings
from metaward_client.privacy.release import AskedRound
from metaward_client.privacy.terms import Budget, Composition, Relation

SIDE = 16
STUDY = Study(
    seed=5,
    model=ModelSettings(filters=8, image_size=SIDE, groups=2),
    learner=FomamlSettings(n_way=2, n_shot=1, n_query=1, inner_steps=1, episodes=1),
)
BODY = build_body(STUDY.model, STUDY.seed)
THETA = to_arrays(BODY.initial_parameters())
ROUNDS_THAT_FIT = 3
POLICY_YAML = """\
privacy:
  mechanism: dp-sgd
  target_epsilon: 8.0
  target_delta: 1.0e-4
  population: 1000
  labels: [a, b]
  ledger: ledger
  witness: witness
"""


@dataclass
class KnownSource:
    """Noise of a known size, and everybody in every sample unless a test says otherwise.

    ``uniforms`` gives ``uniform`` for all; ``normals`` gives ``scale`` times numbers from a seed.
    """

    scale: float = 0.0
    uniform: float = 1e-9
    asked: list[int] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def normals(self, n: int) -> NDArray[np.float64]:
        self.asked.append(n)
        return self.scale * self.rng.standard_normal(n)

    def uniforms(self, n: int) -> NDArray[np.float64]:
        return np.full(n, self.uniform)


def task_of(
    patients: Mapping[str, list[int]], label_names: tuple[str, ...] = ("a", "b"), seed: int = 0
) -> Task:
    """Return a task in which each named patient has images of these labels, of its own making."""
    images, labels, numbers = [], [], []
    for number, (name, own) in enumerate(patients.items()):
        rng = np.random.default_rng([seed, *name.encode()])
        for label in own:
            image = rng.uniform(0, 0.6, (1, SIDE, SIDE))
            image[0, 3 * label : 3 * label + 3] += 0.4
            images.append(image)
            labels.append(label)
            numbers.append(number)
    return Task(
        "north",
        np.asarray(images, dtype=np.float32).reshape(-1, 1, SIDE, SIDE),
        np.asarray(labels, dtype=np.int64),
        np.asarray(numbers, dtype=np.int64),
        label_names,
        tuple(name.encode() for name in patients),
    )


def twelve_patients() -> Task:
    """Two images each: six patients of label a, six of label b."""
    return task_of({f"p{i}": [i % 2, i % 2] for i in range(12)})


NUMBERS = st.sampled_from([0.0, 1e-3, 1.0, 1e4, 1e19, 3e38, np.inf, np.nan])


@st.composite
def one_patient_more(draw: st.DrawFn) -> tuple[Task, Task]:
    """Return a task of two patients, and the same with a third, last.

    The third one's images are any in number, label and value; no test lists labels c and d.
    """
    names, two = ("a", "b", "c", "d"), {"p": [0, 0, 1], "q": [1]}
    three = two | {"x": draw(st.lists(st.integers(0, 3), max_size=9))}
    before, after = task_of(two, names), task_of(three, names, draw(st.integers(0, 5)))
    images = after.images.copy()
    with np.errstate(over="ignore"):
        images[4:] *= np.float32(draw(NUMBERS))
    images[:4] = before.images
    return before, replace(after, images=images)


def private(folder: Path) -> dict[str, Any]:  # Any: keys of two policies
    return {
        "target_epsilon": 3.0,
        "target_delta": 1e-3,
        "population": 100,
        "noise_multiplier": 1.0,
        "sample_rate": 0.5,
        "ledger": folder / "ledger",
        "witness": folder / "witness",
    }


def dp_sgd(folder: Path, **changes: object) -> DpSgdPolicy:
    return DpSgdPolicy(**{**private(folder), "steps_per_round": 2, "labels": ("a", "b"), **changes})


def block(folder: Path, **changes: object) -> BlockPolicy:
    return BlockPolicy(**{**private(folder), "blocks": 4, **changes})


def create_ledger(policy: ProtectedSettings) -> None:
    Ledger.create(policy.ledger, policy.witness, policy.budget)


def _a_few(spent: Composition, per_round: Composition, budget: Budget, relation: Relation) -> int:
    """A toy epsilon of 1 per round at any terms: ``ROUNDS_THAT_FIT`` fit into a budget of 3."""
    steps = next(iter(per_round.values()))
    return max(0, int(budget.target_epsilon) - sum(spent.values()) // steps)


TOY = Accountant("toy", _a_few)


def asked(round_index: int = 0, study: Study = STUDY, **changes: Any) -> AskedRound:
    values: dict[str, Any] = {"theta": THETA, "seed": (study.seed, 1, round_index), "site_seed": 11}
    return AskedRound(study=study, round_index=round_index, **(values | changes))
