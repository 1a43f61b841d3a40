"""The bytes of answered rounds, kept so that the same round gets the same answer again.

``STUDY.ROUND.reply`` is what was sent; ``STUDY.ROUND.memory`` is local state for the study's next
round. The ledger's commit entry holds the SHA-256 of both: the files need no MAC of their own.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger.own_folder import FRESH, Folder
from metaward_client.privacy.ledger.refusals import BRING_BACK
from metaward_client.privacy.ledger.rounds import RoundId
from metaward_client.privacy.ledger.state import StudyRecord

REPLY, MEMORY = "reply", "memory"
OURS = re.compile(rf"[0-9a-f]{{64}}\.\d+\.({REPLY}|{MEMORY})({re.escape(FRESH)})?")


def sha256(content: bytes) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Replies:
    """The folder of stored bytes."""

    folder: Folder

    def store(self, round_: RoundId, what: str, content: bytes) -> str:
        """Keep bytes; on the disk when it returns. Return their SHA-256."""
        self.folder.replace(file_name(round_, what), content)
        return sha256(content)

    def read(self, round_: RoundId, what: str, digest: str) -> bytes:
        """Return stored bytes.

        Raises:
            PrivacyError: They are missing, or are not those of the digest.
        """
        name = file_name(round_, what)
        content = self.folder.read(name)
        if sha256(content) != digest:
            raise PrivacyError(
                f"the stored {what} was altered",
                expected="the bytes that were committed",
                where=str(self.folder.path / name),
                next_step=BRING_BACK,
            )
        return content

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove stored bytes that are not named; files of other kinds are left alone."""
        unwanted = {name for name in self.folder.names() if OURS.fullmatch(name)} - set(names)
        for name in sorted(unwanted):
            self.folder.remove(name)


def file_name(round_: RoundId, what: str) -> str:
    """Return the name under which a round's bytes are kept."""
    return f"{round_.study}.{round_.round_index}.{what}"


def stored(study: StudyRecord) -> list[tuple[RoundId, str, str]]:
    """Return round, kind and SHA-256 of everything that is kept of a study."""
    found: list[tuple[RoundId, str, str]] = []
    for index in study.kept():
        release = study.releases[index]
        if release.commit is not None:
            found.append((release.round, REPLY, release.commit.reply))
    if study.committed:
        release = study.releases[study.committed[-1]]
        if release.commit is not None and release.commit.memory is not None:
            found.append((release.round, MEMORY, release.commit.memory))
    return found
