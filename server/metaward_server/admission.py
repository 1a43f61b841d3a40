"""Which replies of a round count. A bad reply is refused with a reason, and the round goes on.

Nothing that a reply holds is repeated in a log or a message: not the text of an error, not a name,
not a value. A reason of ours and the node's number say what there is to say.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from flwr.app import Message

from metaward.arrays import Arrays, l2_norm
from metaward.errors import ProtocolError
from metaward.privacy_promise import PrivacyPromise
from metaward.wire import SiteRefusal, SizeError, Update, VersionError, decode_update
from metaward.wire_arrays import ArraysError, ArraySpec

logger = logging.getLogger(__name__)


class Refusal(StrEnum):
    """Every reason for which an asked site's update does not count."""

    NO_REPLY = "no-reply"
    UNKNOWN_NODE = "unknown-node"
    DUPLICATE = "duplicate"
    UNREADABLE = "unreadable"
    NODE_ERROR = "node-error"
    SITE_DATA = "site-data"
    SITE_STUDY = "site-study"
    SITE_PROTOCOL = "site-protocol"
    SITE_PRIVACY = "site-privacy"
    SITE_BUDGET = "site-budget"
    SITE_APPROVAL = "site-approval"
    SITE_INTERNAL = "site-internal"
    SIZE = "size"
    VERSION = "version"
    RECORDS = "records"
    ARRAYS = "arrays"
    STUDY = "study"
    ROUND = "round"
    NOT_FINITE = "not-finite"
    NORM = "norm"


UNREADABLE_REPLY = 901
"""Code of the error that stands for a reply that Flower could not make a message of."""
TOO_LARGE_REPLY = 902
"""Code of the error that stands for a reply that was not pulled whole."""


@dataclass(frozen=True)
class Rules:
    """What an update must satisfy to count in one round.

    Attributes:
        spec: Names and shapes of theta.
        study_digest: Of the running study.
        round_index: Of the running round.
        max_delta_norm: Largest L2 norm over all leaves together.
    """

    spec: ArraySpec
    study_digest: str
    round_index: int
    max_delta_norm: float


@dataclass(frozen=True)
class Admission:
    """The outcome of one round's replies.

    Attributes:
        deltas: Node -> admitted delta.
        refused: Reason -> the nodes refused for it, ascending. An asked node stands in it once; an
            unknown one once for each reply, under the number that it gives itself.
        promises: Node -> what its hospital says of its policy, for the admitted.
    """

    deltas: dict[int, Arrays]
    refused: dict[str, list[int]]
    promises: dict[int, PrivacyPromise] = field(default_factory=dict)


def admit(replies: Iterable[Message], asked: Mapping[str, int], rules: Rules) -> Admission:
    """Sort the replies of a round into admitted deltas and refusals.

    The result does not depend on the order of the replies: when a node sends two, neither counts.

    Args:
        replies: As they came.
        asked: Message id -> node that was asked with it.
        rules: See :class:`Rules`.
    """
    by_node: dict[int, list[Message]] = {node: [] for node in asked.values()}
    refused: defaultdict[str, list[int]] = defaultdict(list)
    for reply in replies:
        node = asked.get(reply.metadata.reply_to_message_id)
        if node is None or not _is_from(reply, node):
            _refuse(refused, Refusal.UNKNOWN_NODE, reply.metadata.src_node_id, rules)
        else:
            by_node[node].append(reply)
    admitted: dict[int, Update] = {}
    for node in sorted(by_node):
        outcome = _judge_node(by_node[node], rules)
        if isinstance(outcome, Refusal):
            _refuse(refused, outcome, node, rules)
        else:
            admitted[node] = outcome
    return Admission(
        {node: update.delta for node, update in admitted.items()},
        {reason: sorted(refused[reason]) for reason in sorted(refused)},
        {node: update.promise for node, update in admitted.items()},
    )


def _is_from(reply: Message, node: int) -> bool:
    """An error may be reported by the SuperLink in the node's name; an update may not."""
    return reply.has_error() or reply.metadata.src_node_id == node


def _refuse(refused: dict[str, list[int]], reason: Refusal, node: int, rules: Rules) -> None:
    refused[reason.value].append(node)
    logger.warning("round %d, node %d: %s", rules.round_index, node, reason.value)


def _judge_node(replies: list[Message], rules: Rules) -> Update | Refusal:
    if not replies:
        return Refusal.NO_REPLY
    if len(replies) > 1:
        return Refusal.DUPLICATE
    reply = replies[0]
    if reply.has_error():
        return _refusal_of_code(reply.error.code)
    try:
        update = decode_update(reply.content, rules.spec)
    except SizeError:
        return Refusal.SIZE
    except VersionError:
        return Refusal.VERSION
    except ArraysError:
        return Refusal.ARRAYS
    except ProtocolError:
        return Refusal.RECORDS
    return _judge_update(update, rules)


def _judge_update(update: Update, rules: Rules) -> Update | Refusal:
    if update.study_digest != rules.study_digest:
        return Refusal.STUDY
    if update.round_index != rules.round_index:
        return Refusal.ROUND
    if not all(np.isfinite(leaf).all() for leaf in update.delta.values()):
        return Refusal.NOT_FINITE
    if l2_norm(update.delta) > rules.max_delta_norm:
        return Refusal.NORM
    return update


def _refusal_of_code(code: int) -> Refusal:
    match code:
        case SiteRefusal.DATA:
            return Refusal.SITE_DATA
        case SiteRefusal.STUDY:
            return Refusal.SITE_STUDY
        case SiteRefusal.PROTOCOL:
            return Refusal.SITE_PROTOCOL
        case SiteRefusal.PRIVACY:
            return Refusal.SITE_PRIVACY
        case SiteRefusal.BUDGET:
            return Refusal.SITE_BUDGET
        case SiteRefusal.APPROVAL:
            return Refusal.SITE_APPROVAL
        case SiteRefusal.INTERNAL:
            return Refusal.SITE_INTERNAL
        case _ if code == UNREADABLE_REPLY:
            return Refusal.UNREADABLE
        case _ if code == TOO_LARGE_REPLY:
            return Refusal.SIZE
        case _:  # Flower's own: node unavailable, app crashed, message expired, ...
            return Refusal.NODE_ERROR
