"""The witness: the site's key, and how far its ledger has come, kept in another place.

Its folder holds ``key`` (32 random bytes, made once) and ``head`` (the number of entries and the
hash of the last, sealed under the key). Whoever shortens the ledger, or puts an older copy of it in
place, does not have the head that would belong to it.

What it does not show: an older copy of ledger AND witness together, as a restored snapshot of the
whole machine is. Nothing on one machine can. So keep the witness on another disk or mount than the
ledger, and out of the backup that the ledger is in.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from metaward.errors import ConfigError
from metaward_client.named_paths import real_path
from metaward_client.privacy.ledger.chain import Head
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.own_folder import Folder, open_folder
from metaward_client.privacy.ledger.refusals import tampered
from metaward_client.privacy.ledger.sealing import BrokenSealError, seal, unseal

KEY, HEAD = "key", "head"
KEY_BYTES = 32
PURPOSE = b"metaward ledger head"
FORMAT = 1


@dataclass(frozen=True)
class Witness:
    """An open witness; see :func:`open_witness`."""

    folder: Folder
    key: bytes

    def head(self) -> Head:
        """Return how far the ledger has come.

        Raises:
            PrivacyError: The head is missing, or is not what this site wrote.
        """
        content = self.folder.read(HEAD)
        try:
            body, _ = unseal(content, self.key, PURPOSE)
        except BrokenSealError:
            raise tampered(
                "the head was altered, or was not written with this site's key",
                where=str(self.folder.path / HEAD),
            ) from None
        return Head(body["count"], body["digest"])

    def advance(self, head: Head) -> None:
        """Note a new head; on the disk when it returns."""
        body = {"format": FORMAT, "count": head.count, "digest": head.digest}
        self.folder.replace(HEAD, seal(body, self.key, PURPOSE)[0])


@contextlib.contextmanager
def open_witness(path: Path, disk: Disk) -> Iterator[Witness]:
    """Open the witness of a ledger.

    Raises:
        PrivacyError: A part of it is missing, damaged, or open to others.
    """
    with open_folder(path, disk) as folder:
        key = folder.read(KEY)
        if len(key) != KEY_BYTES:
            raise tampered(f"a key of {len(key)} bytes", expected="32 bytes", where=str(path / KEY))
        yield Witness(folder, key)


@contextlib.contextmanager
def making_witness(path: Path, disk: Disk) -> Iterator[Witness]:
    """Open a witness for a new ledger, alone; make its key where there is none.

    Raises:
        PrivacyError: The folder cannot be used, or another process uses it.
    """
    with (
        open_folder(path, disk) as folder,
        folder.open(KEY, os.O_RDWR | os.O_CREAT) as file,
    ):
        folder.lock(file, KEY, wait_s=0)
        key = folder.read_all(file, KEY)
        if not folder.has(HEAD):  # nothing is sealed under it yet
            unwritten = b""
            if len(key) != KEY_BYTES:  # new, or a crash left half a key
                folder.truncate(file, KEY, 0)
                os.lseek(file, 0, os.SEEK_SET)
                key = unwritten = secrets.token_bytes(KEY_BYTES)
            folder.append(file, KEY, unwritten)  # a whole key may not be on the disk either
            folder.sync()
        yield Witness(folder, key)


def default_witness(ledger: Path) -> Path:
    """Return where the witness of a ledger is kept unless a person names another place.

    It is named after the ledger's path, so that a ledger that is deleted and made anew in the same
    place meets the witness of the first.

    Raises:
        ConfigError: This user has no home folder.
    """
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    except RuntimeError:  # a service account without a home
        raise ConfigError(
            "this user has no home folder to keep the ledger's witness in",
            expected="a folder that this user may write, on another disk than the ledger",
            next_step="Set `privacy.witness:` in site.yaml to such a folder.",
        ) from None
    name = hashlib.sha256(os.fsencode(plain_path(ledger))).hexdigest()[:16]
    return home / "metaward" / "ledgers" / name


def plain_path(folder: Path) -> Path:
    """Return an absolute path whose last part is not followed where it is a link."""
    return real_path(folder.parent) / folder.name
