"""The product as the self-audit sees it: a site with a ledger of its own in a temporary folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml

from metaward.arrays import to_arrays
from metaward.learner_settings import FedAvgSettings
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.privacy_promise import DP_SGD
from metaward.study import Study
from metaward.tasks import Task
from metaward_client.privacy.ledger import Ledger, read_ledger
from metaward_client.privacy.noised_sum import Normals
from metaward_client.privacy.policy import (
    BlockPolicy,
    DpSgdPolicy,
    NoPrivacy,
    ProtectedSettings,
    read_policy_file,
)
from metaward_client.privacy.release import AskedRound, release
from metaward_client.privacy.stored_reply import encode_reply
from metaward_client.privacy_audit.randomness import CountedSource
from metaward_client.privacy_audit.self_audit import AuditedSite

POPULATION = 100
STEPS = 3
EPSILON = 50.0


@contextmanager
def product_site(
    mechanism: str, model: ModelSettings, task: Task, source: Normals
) -> Iterator[AuditedSite]:
    """Give a site that answers through the product's one door, with counters beside it."""
    study = Study(model=model, learner=FedAvgSettings(local_steps=1, batch_size=8))
    body = build_body(model, study.seed)
    theta = to_arrays(body.initial_parameters())
    counted = CountedSource(source)
    with TemporaryDirectory(prefix="metaward-audit-") as folder:
        place = Path(folder).resolve()
        policy = _policy(mechanism, task, place)
        assert policy.witness is not None  # given in _policy
        file = place / "policy.yaml"
        file.write_text(yaml.safe_dump({"privacy": policy.model_dump(mode="json")}))
        Ledger.create(policy.ledger, policy.witness, policy.budget)

        def answer(round_index: int) -> bytes:
            asked = AskedRound(study, round_index, theta, (0, 0, round_index), site_seed=0)
            return encode_reply(release(asked, lambda: task, policy, counted).update.delta)

        def restart() -> None:
            nonlocal policy  # the ledger is opened anew by every round
            read = read_policy_file(file)
            assert not isinstance(read, NoPrivacy)  # it was written above
            policy = read

        def charged() -> int:
            return sum(read_ledger(policy.ledger, policy.witness).spent.values())

        yield AuditedSite(
            answer=answer,
            restart=restart,
            charged_steps=charged,
            noised_steps=lambda: counted.drawn // _numbers_in_one_sum(body),
            steps_per_round=policy.terms().steps,
        )


def _policy(mechanism: str, task: Task, folder: Path) -> ProtectedSettings:
    places = {"ledger": folder / "ledger", "witness": folder / "witness"}
    limits = {"target_epsilon": EPSILON, "target_delta": 1e-3, "population": POPULATION}
    if mechanism == DP_SGD:
        return DpSgdPolicy.model_validate(
            {**limits, **places, "steps_per_round": STEPS, "labels": task.label_names}
        )
    return BlockPolicy.model_validate({**limits, **places, "blocks": 2})


def _numbers_in_one_sum(body: Body) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in body.parameters())
