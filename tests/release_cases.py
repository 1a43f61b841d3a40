"""What the tests of the door share: rounds that are asked for, and what became of them."""

from collections.abc import Callable
from typing import Any

import pytest

from metaward.config import Settings
from metaward.learner_settings import LearnerSettings
from metaward.tasks import Task
from metaward_client.privacy.ledger import read_ledger
from metaward_client.privacy.ledger.state import LedgerState
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.policy import ProtectedSettings
from metaward_client.privacy.release import Released, release
from private_site import STUDY, asked, block, dp_sgd, twelve_patients

Make = Callable[..., ProtectedSettings]
BOTH = pytest.mark.parametrize("make", [dp_sgd, block])


def state(policy: ProtectedSettings) -> LedgerState:
    return read_ledger(policy.ledger, policy.witness)


def answer(policy: ProtectedSettings, round_index: int = 0, **changes: Any) -> Released:
    return release(asked(round_index, **changes), twelve_patients, policy, os_noise())


def content(released: Released) -> bytes:
    return b"".join(leaf.tobytes() for leaf in released.update.delta.values())


def never() -> Task:
    raise AssertionError("data was read")


def failing(error: BaseException) -> Callable[[], Task]:
    def load() -> Task:
        raise error

    return load


def with_learner(learner: LearnerSettings, **model: Any) -> Any:
    changes: dict[str, Settings] = {"learner": learner}
    if model:
        changes["model"] = STUDY.model.model_copy(update=model)
    return STUDY.model_copy(update=changes)
