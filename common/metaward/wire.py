"""What crosses the wire, and how it is read without trusting the sender.

Two things only: a :class:`RoundOrder` from the coordinator to a site, and an :class:`Update` from
a site to the coordinator. A site that cannot answer sends one number, a :class:`SiteRefusal`.

Their arrays travel as :mod:`metaward.wire_arrays` says.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import IntEnum

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, RecordDict
from pydantic import ValidationError

from metaward.arrays import Arrays
from metaward.errors import ProtocolError
from metaward.privacy_promise import NO_PROMISE, PrivacyPromise
from metaward.study import Study
from metaward.wire_arrays import ArraySpec, bytes_of, decode_arrays, encode_arrays

PROTOCOL_VERSION = 1

ORDER_RECORD = "order"
THETA_RECORD = "theta"
UPDATE_RECORD = "update"
DELTA_RECORD = "delta"
PROTOCOL_KEY = "protocol"
ROUND_KEY = "round"
STUDY_KEY = "study"
STUDY_DIGEST_KEY = "study-digest"
UPDATE_KEYS = frozenset({PROTOCOL_KEY, ROUND_KEY, STUDY_DIGEST_KEY})
"""Of an update's header; the keys of the site's privacy promise follow them."""

MAX_STUDY_BYTES = 65_536
"""Longest study description that a site reads; a full one has about 1,000 bytes."""

MAX_HEADER_BYTES = 4_096
"""Longest update without the elements of its delta: keys, names and numbers; a true one has about
400 bytes."""
NUMBER_BYTES = 8


class SiteRefusal(IntEnum):
    """Why a site sent no update. The number is all that leaves the site.

    The values stay clear of Flower's own error codes, which are below 100.
    """

    DATA = 101
    STUDY = 102
    PROTOCOL = 103
    PRIVACY = 104
    BUDGET = 105
    APPROVAL = 106
    INTERNAL = 199


class VersionError(ProtocolError):
    """The sender speaks another version of the wire format."""


class SizeError(ProtocolError):
    """The records hold more bytes than any message of this kind needs."""


class RecordsError(ProtocolError):
    """Records or keys are missing, unknown, or of the wrong type."""


@dataclass(frozen=True)
class RoundOrder:
    """What the coordinator asks of a site.

    Attributes:
        study: The study, whole: a site needs nothing else to know what to compute.
        round_index: From 0.
        theta: The meta-parameters of this round.
    """

    study: Study
    round_index: int
    theta: Arrays


@dataclass(frozen=True)
class Update:
    """What a site releases; on the site's side only ``metaward_client.privacy.release`` builds one.

    Attributes:
        study_digest: Digest of the study that the site worked for.
        round_index: From 0.
        delta: Direction to ADD to theta.
        promise: What the site's policy lets a patient lose; the site's own word.
    """

    study_digest: str
    round_index: int
    delta: Arrays
    promise: PrivacyPromise = NO_PROMISE


def encode_order(order: RoundOrder) -> RecordDict:
    """Return the records of an order."""
    config = ConfigRecord(
        {
            PROTOCOL_KEY: PROTOCOL_VERSION,
            ROUND_KEY: order.round_index,
            STUDY_KEY: order.study.model_dump_json(),
        }
    )
    return RecordDict({ORDER_RECORD: config, THETA_RECORD: encode_arrays(order.theta)})


def decode_order(content: RecordDict, model_spec: Callable[[Study], ArraySpec]) -> RoundOrder:
    """Read an order.

    Args:
        content: The message's content, as it came.
        model_spec: Gives the names and shapes of the study's meta-parameters.

    Raises:
        VersionError: The order is of another protocol version.
        RecordsError: A record or key is missing, unknown or of the wrong type, or the study's
            description is not valid.
        ArraysError: Theta does not fit the study's model.
    """
    config, theta = _two_records(content, ORDER_RECORD, THETA_RECORD)
    round_index = _read_header(config, {PROTOCOL_KEY, ROUND_KEY, STUDY_KEY})
    study = _read_study(config[STUDY_KEY])
    return RoundOrder(study, round_index, decode_arrays(theta, model_spec(study)))


def encode_update(update: Update) -> RecordDict:
    """Return the records of an update."""
    config = ConfigRecord(
        {
            PROTOCOL_KEY: PROTOCOL_VERSION,
            ROUND_KEY: update.round_index,
            STUDY_DIGEST_KEY: update.study_digest,
            **update.promise.to_settings(),
        }
    )
    return RecordDict({UPDATE_RECORD: config, DELTA_RECORD: encode_arrays(update.delta)})


def decode_update(content: RecordDict, spec: ArraySpec) -> Update:
    """Read an update whose delta must have the names and shapes of ``spec``.

    Its size is counted before anything else is looked at. Finite values, norm, round and study are
    the coordinator's to judge (admission).

    Raises:
        SizeError: The records hold more bytes than an update of ``spec`` can need.
        VersionError: The update is of another protocol version.
        RecordsError: A record or key is missing, unknown or of the wrong type.
        ArraysError: The delta does not fit ``spec``.
    """
    _check_size(content, largest_update(spec))
    config, delta = _two_records(content, UPDATE_RECORD, DELTA_RECORD)
    header = {key: config[key] for key in UPDATE_KEYS if key in config}
    round_index = _read_header(header, UPDATE_KEYS)
    digest = header[STUDY_DIGEST_KEY]
    if not isinstance(digest, str):
        raise _wrong_type(STUDY_DIGEST_KEY, digest, "a string")
    promise = _read_promise({key: config[key] for key in config if key not in UPDATE_KEYS})
    return Update(digest, round_index, decode_arrays(delta, spec), promise)


def largest_update(spec: ArraySpec) -> int:
    """Return the bytes that an update's records hold at most, names included."""
    return MAX_HEADER_BYTES + bytes_of(spec)


def encode_refusal(refusal: SiteRefusal) -> Error:
    """Return the error that a site sends instead of an update: a number, no text."""
    return Error(code=int(refusal))


def _check_size(content: RecordDict, limit: int) -> None:
    """Add up the records' bytes, without a copy, until there are more than ``limit``."""
    total = 0
    for length in _lengths(content):
        total += length
        if total > limit:
            raise SizeError(f"more than {limit} bytes", expected="the records of one update")


def _lengths(content: RecordDict) -> Iterator[int]:
    for name, record in content.items():
        yield len(name)
        for key, value in record.items():
            yield len(key)
            if isinstance(value, Array):
                yield len(value.data)
                yield _length(value.dtype) + _length(value.stype)
                yield from map(_length, value.shape)
            else:
                yield from map(_length, value if isinstance(value, list) else (value,))


def _length(value: object) -> int:
    """Return the bytes of a text; anything else counts as a number."""
    return len(value) if isinstance(value, str | bytes) else NUMBER_BYTES


def _two_records(
    content: RecordDict, config_name: str, arrays_name: str
) -> tuple[ConfigRecord, ArrayRecord]:
    if content.keys() != {config_name, arrays_name}:
        raise RecordsError(
            f"{len(content)} records that are not '{config_name}' and '{arrays_name}'",
            expected=f"the records '{config_name}' and '{arrays_name}' and no other",
        )
    config, arrays = content[config_name], content[arrays_name]
    if not isinstance(config, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        raise RecordsError(
            "records of the wrong kind",
            expected=f"'{config_name}' to be settings and '{arrays_name}' to be arrays",
        )
    return config, arrays


def _read_promise(settings: Mapping[str, object]) -> PrivacyPromise:
    try:
        return PrivacyPromise.from_settings(settings)
    except ProtocolError as error:
        raise RecordsError(error.found, where=error.where) from None


def _read_header(config: Mapping[str, object], keys: Set[str]) -> int:
    """Check the version first: a later one may well have other keys."""
    version = config.get(PROTOCOL_KEY)
    if not _is_int(version) or version != PROTOCOL_VERSION:
        raise VersionError(
            f"protocol version {version!r}" if _is_int(version) else "no protocol version",
            expected=f"version {PROTOCOL_VERSION}",
            next_step="Install the same release of metaward at both ends.",
        )
    if config.keys() != keys:
        raise RecordsError("unknown or missing keys", expected=f"the keys {sorted(keys)}")
    round_index = config[ROUND_KEY]
    if not isinstance(round_index, int) or not _is_int(round_index) or round_index < 0:
        raise _wrong_type(ROUND_KEY, round_index, "a whole number from 0")
    return round_index


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_study(text: object) -> Study:
    if not isinstance(text, str) or len(text) > MAX_STUDY_BYTES:
        raise _wrong_type(STUDY_KEY, text, f"a string of at most {MAX_STUDY_BYTES} characters")
    try:
        return Study.model_validate_json(text)
    except ValidationError as error:
        raise RecordsError(
            f"a study description with {error.error_count()} problems",
            expected="the settings that this release of metaward knows",
            next_step="Install the same release of metaward at both ends.",
        ) from None


def _wrong_type(key: str, value: object, expected: str) -> RecordsError:
    return RecordsError(f"a {type(value).__name__} that is not {expected}", where=f"key '{key}'")
