"""One round at one site: read the order, compute, release, answer.

Nothing but the released update or a refusal's number leaves. What the site itself may want to know
(loss, norm, time, the reason of a refusal) goes to a log on the site's own disk.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Message, RecordDict

from metaward.arrays import l2_norm
from metaward.errors import ConfigError, DataError, MetawardError, PrivacyError, ProtocolError
from metaward.model_artefact import expected_shapes
from metaward.study import Study
from metaward.tasks import Task
from metaward.wire import RoundOrder, SiteRefusal, decode_order, encode_refusal, encode_update
from metaward.wire_arrays import ArraySpec
from metaward_client import round_log
from metaward_client.node.approval import ApprovalError, Consent
from metaward_client.privacy.ledger import BudgetExceeded
from metaward_client.privacy.noised_sum import Normals
from metaward_client.privacy.policy import NoPrivacy, ProtectedSettings
from metaward_client.privacy.release import AskedRound, release

logger = logging.getLogger(__name__)

TaskLoader = Callable[[Study], Task]
"""Gives the site's task with images of the size and channels that the study's model takes."""


@dataclass(frozen=True)
class SiteAtWork:
    """What a site brings to a round.

    Attributes:
        load_task: Called once per round; may keep the task between rounds.
        round_log: JSON lines, one per order; stays on the site's disk.
        name: The site's name in the federation.
        policy: What patients may lose. The hospital's choice, never the study's.
        source: Of noise and samples; in production the operating system's.
        consent: Raises for a study that nobody at the site agreed to.
    """

    load_task: TaskLoader
    round_log: Path
    name: str
    policy: NoPrivacy | ProtectedSettings
    source: Normals
    consent: Consent


def answer_message(message: Message, open_site: Callable[[], SiteAtWork]) -> Message:
    """Return the reply to an order: an update, or a refusal's number and no text.

    ``open_site`` runs inside the same guard: whatever goes wrong there or later, no exception text,
    path or value reaches the coordinator.
    """
    try:
        answer = answer_order(message.content, open_site())
    except Exception as error:  # noqa: BLE001 (no text of any exception may leave the site)
        logger.warning("order refused before the site was open: %s", _explain(error))
        answer = _refusal_of(error, private=True)
    if isinstance(answer, SiteRefusal):
        return Message(encode_refusal(answer), reply_to=message)
    return Message(answer, reply_to=message)


def answer_order(content: RecordDict, site: SiteAtWork) -> RecordDict | SiteRefusal:
    """Do the work of one round and return what leaves the site.

    The same order gives the same delta, to the bit. Without a mechanism because randomness comes
    from the study's seed, the site's name and the round; with one because the answer was stored.
    """
    started = time.perf_counter()
    entry = round_log.new_line()
    answer: RecordDict | SiteRefusal
    try:
        order = decode_order(content, lambda study: _consented_spec(study, site, entry))
        entry["round_index"] = order.round_index
        answer, outcome = _work(order, site)
    except Exception as error:  # noqa: BLE001 (no text of any exception may leave the site)
        answer = _refusal_of(error, private=not isinstance(site.policy, NoPrivacy))
        outcome = {"outcome": answer.name.lower(), "reason": _explain_work(error)}
    entry |= outcome | {"seconds": round(time.perf_counter() - started, 4)}
    round_log.append(site.round_log, entry)
    return answer


def site_seed(study_seed: int, site: str) -> tuple[int, int]:
    """Return the public seed of one site in one study; independent of grid, node and worker."""
    return study_seed, int.from_bytes(hashlib.sha256(site.encode()).digest()[:16], "big")


def model_spec(study: Study) -> ArraySpec:
    """Return the names and shapes of the study's meta-parameters."""
    return expected_shapes(study.model, study.learner)


def _consented_spec(study: Study, site: SiteAtWork, entry: dict[str, object]) -> ArraySpec:
    """Ask for consent before anything is built as a study says."""
    entry["study"] = study.digest()
    site.consent(study)
    return model_spec(study)


def _work(order: RoundOrder, site: SiteAtWork) -> tuple[RecordDict, dict[str, object]]:
    """Return what leaves the site, and what the site notes about it for itself."""
    _refuse_non_finite(order)
    seed = site_seed(order.study.seed, site.name)
    asked = AskedRound(
        study=order.study,
        round_index=order.round_index,
        theta=order.theta,
        seed=(*seed, order.round_index),
        site_seed=int(np.random.SeedSequence(seed).generate_state(1)[0]),
    )
    released = release(asked, lambda: site.load_task(order.study), site.policy, site.source)
    outcome: dict[str, object] = {
        "outcome": "sent again" if released.replayed else "sent",
        "loss": released.loss if np.isfinite(released.loss) else None,
        "delta_norm": l2_norm(released.update.delta),
        "mechanism": site.policy.label,
    }
    return encode_update(released.update), outcome


def _refuse_non_finite(order: RoundOrder) -> None:
    for name, array in order.theta.items():
        if not np.isfinite(array).all():
            raise ProtocolError(
                "meta-parameters that are not finite",
                expected="finite numbers",
                where=f"round {order.round_index}, array {name}",
            )


def _refusal_of(error: Exception, *, private: bool) -> SiteRefusal:
    """Return the number to send; under a mechanism none that speaks of the data."""
    match error:
        case ApprovalError():
            return SiteRefusal.APPROVAL
        case BudgetExceeded():
            return SiteRefusal.BUDGET
        case PrivacyError():
            return SiteRefusal.PRIVACY
        case DataError():
            return SiteRefusal.INTERNAL if private else SiteRefusal.DATA
        case ConfigError():
            return SiteRefusal.STUDY
        case ProtocolError():
            return SiteRefusal.PROTOCOL
        case _:
            return SiteRefusal.INTERNAL


def _explain(error: Exception) -> str:
    """Our own errors hold no patient data; of any other only the type's name is kept."""
    return str(error) if isinstance(error, MetawardError) else type(error).__name__


def _explain_work(error: Exception) -> str:
    """What a hospital's data and tables look like stays out of the log: labels, rows, counts.

    `metaward site scan` shows them to whom asks.
    """
    if isinstance(error, DataError | ConfigError):
        return f"{type(error).__name__}: {error.next_step}"
    return _explain(error)
