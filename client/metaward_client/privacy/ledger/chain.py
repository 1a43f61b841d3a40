"""The chain of entries: each holds the hash of the one before, and the witness counts them.

``head`` (how many entries, and the hash of the last) is kept in another place than the file with
the entries. With it, these are told apart:

- the file ends where the head says: nothing happened since;
- one whole entry more: the process ended between the entry and the head, which follows now;
- the beginning of a line more: the process ended while it wrote; no work had begun, it is cut off;
- anything else: somebody changed it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from metaward_client.privacy.ledger.refusals import tampered, written_by_another_version
from metaward_client.privacy.ledger.sealing import BrokenSealError, seal, unseal

FORMAT = 1
PURPOSE = b"metaward ledger entry"
BEFORE_ALL = "0" * 64


class Kind(StrEnum):
    """What an entry says."""

    OPEN = "open"
    STUDY = "study"
    RESERVE = "reserve"
    COMMIT = "commit"
    BUDGET = "budget"
    CLOCK = "clock"
    LIMIT = "limit"
    CUT = "cut"


KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger.

    Attributes:
        index: From 0.
        time: UTC, ISO 8601 to the second; never earlier than the entry before, but for ``clock``.
        previous: SHA-256 of the entry before.
        digest: SHA-256 of this one.
    """

    index: int
    time: str
    kind: Kind
    payload: Mapping[str, Any]  # Any: JSON holds any plain value; see state.py
    previous: str
    digest: str


@dataclass(frozen=True, slots=True)
class Head:
    """How far the ledger has come."""

    count: int
    digest: str


@dataclass(frozen=True)
class Chain:
    """What a ledger's file holds.

    Attributes:
        entries: All whole ones, verified.
        length: Their bytes.
        torn: Bytes after them that are no whole line.
    """

    entries: tuple[Entry, ...]
    length: int
    torn: int

    @property
    def head(self) -> Head:
        """The head that belongs to the entries."""
        return Head(len(self.entries), self.entries[-1].digest)


def seal_entry(
    head: Head, time: str, kind: Kind, payload: Mapping[str, Any], key: bytes
) -> tuple[bytes, Entry]:
    """Return the line that follows ``head``, with its line end, and the entry it holds."""
    body = {
        "format": FORMAT,
        "index": head.count,
        "time": time,
        "kind": kind.value,
        "payload": payload,
        "previous": head.digest,
    }
    line, digest = seal(body, key, PURPOSE)
    return line + b"\n", Entry(head.count, time, kind, payload, head.digest, digest)


def read_chain(content: bytes, head: Head, key: bytes, where: str) -> Chain:
    """Return all whole entries: those that the head counts, and the one that may be ahead of it.

    Raises:
        PrivacyError: The file is not what the head counts, nor what a crash can leave.
    """
    counted = _counted(content, head, key, where)
    lines = content[counted.length :].split(b"\n")
    torn = len(lines.pop())
    if not lines:
        return Chain(counted.entries, counted.length, torn)
    if len(lines) > 1 or torn:
        raise tampered(
            f"{head.count + len(lines)} entries",
            expected=f"{head.count}, as its witness has counted: the witness was copied back, or "
            "entries were added",
            where=where,
        )
    last = _entry(lines[0], counted.head, key, where)
    return Chain((*counted.entries, last), counted.length + len(lines[0]) + 1, 0)


def _counted(content: bytes, head: Head, key: bytes, where: str) -> Chain:
    lines = content.split(b"\n")
    whole = len(lines) - 1
    if whole < head.count:
        raise tampered(
            f"{whole} entries",
            expected=f"{head.count}, as its witness has counted: the ledger was shortened or "
            "copied back",
            where=where,
        )
    return _verified(lines[: head.count], head, key, where)


def _verified(lines: list[bytes], head: Head, key: bytes, where: str) -> Chain:
    entries: list[Entry] = []
    before = Head(0, BEFORE_ALL)
    for line in lines:
        entry = _entry(line, before, key, where)
        entries.append(entry)
        before = Head(entry.index + 1, entry.digest)
    if before != head:
        raise tampered(
            f"entry {head.count - 1} is not the one that its witness has counted",
            expected="the ledger that belongs to this witness",
            where=where,
        )
    return Chain(tuple(entries), sum(map(len, lines)) + len(lines), 0)


def _entry(line: bytes, before: Head, key: bytes, where: str) -> Entry:
    try:
        body, digest = unseal(line, key, PURPOSE)
    except BrokenSealError:
        raise tampered(
            f"entry {before.count} was altered, or was not written with this site's key",
            where=where,
        ) from None
    if body["format"] != FORMAT or body["kind"] not in KINDS:
        raise written_by_another_version(f"a kind of entry ({before.count})", where=where)
    if body["index"] != before.count or body["previous"] != before.digest:
        raise tampered(
            f"entry {before.count} does not follow the entry before it",
            expected="entries in the order in which they were written",
            where=where,
        )
    return Entry(
        body["index"], body["time"], KINDS[body["kind"]], body["payload"], body["previous"], digest
    )
