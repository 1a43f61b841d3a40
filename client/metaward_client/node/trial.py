"""One round on this machine alone, and what it would send: the very road of a real round.

The site's own mechanism runs, with a ledger of its own that is thrown away: nothing is charged to
the site's ledger, and nothing leaves. What comes out could be sent, so it is not kept either.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from flwr.app import RecordDict

from metaward.arrays import to_arrays
from metaward.errors import PrivacyError
from metaward.meta.compose import initial_parameters
from metaward.study import Study
from metaward.wire import RoundOrder, SiteRefusal, encode_order
from metaward_client.app import POLICY_KEY, ROUND_LOG_KEY, SIMULATED_KEY, SITE_KEY, open_site
from metaward_client.privacy.ledger import Ledger
from metaward_client.privacy.policy import NoPrivacy
from metaward_client.site_config import read_policy
from metaward_client.site_work import answer_order


@dataclass(frozen=True)
class Field:
    """One thing that would leave."""

    record: str
    name: str
    what: str
    bytes: int


@dataclass(frozen=True)
class Trial:
    """What one round did.

    Attributes:
        mechanism: In words.
        leaves: Everything that would leave.
        stays: The line of the site's own log.
    """

    mechanism: str
    leaves: tuple[Field, ...]
    stays: dict[str, Any]


def try_round(site: Path, study: Study) -> Trial:
    """Do round 0 of a study.

    Raises:
        ConfigError: See :func:`~metaward_client.site_config.read_policy`.
        PrivacyError: The site would refuse; with the reason that its own log would have.
    """
    policy = read_policy(site)
    with TemporaryDirectory(prefix="metaward-") as name:
        folder = Path(name)
        if not isinstance(policy, NoPrivacy):
            policy = policy.model_copy(
                update={"ledger": folder / "ledger", "witness": folder / "witness"}
            )
            Ledger.create(policy.ledger, policy.witness, policy.budget)
        file = folder / "policy.yaml"
        file.write_text(yaml.safe_dump({"privacy": policy.model_dump(mode="json")}))
        log = folder / "rounds.jsonl"
        opened = open_site(
            {
                SITE_KEY: str(site),
                ROUND_LOG_KEY: str(log),
                SIMULATED_KEY: True,
                POLICY_KEY: str(file),
            }
        )
        theta = to_arrays(initial_parameters(study.model, study.learner, study.seed))
        answer = answer_order(encode_order(RoundOrder(study, 0, theta)), opened)
        stays = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
    if isinstance(answer, SiteRefusal):
        raise PrivacyError(
            f"this round would be refused with the number {answer.value}: {stays['reason']}",
            expected="an update",
            where=str(site),
            next_step="metaward site check",
        )
    return Trial(policy.label, tuple(_fields(answer)), stays)


def _fields(answer: RecordDict) -> list[Field]:
    found = []
    for record, settings in sorted(answer.config_records.items()):
        for key, value in sorted(settings.items()):
            text = str(value)
            found.append(Field(record, key, text, len(text.encode())))
    for record, arrays in sorted(answer.array_records.items()):
        for key, array in sorted(arrays.items()):
            shape = " x ".join(str(side) for side in array.shape)
            found.append(Field(record, key, f"{array.dtype}, {shape}", len(array.data)))
    return found
