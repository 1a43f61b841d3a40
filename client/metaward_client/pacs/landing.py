"""The folder that fetched files land in: each is there complete, or not there.

`data.root/pacs/3f/3f….dcm`, named by a hash of the SOP Instance UID, so that no name identifies
anybody and both protocols give the same names. What is not complete yet lies in a folder of its
own, which the scan leaves out; what a killed fetch left there, the next one removes.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from metaward.errors import ConfigError, DataError
from metaward_client.dicom.refusals import RefusalReason, RefusedImage
from metaward_client.pacs.archive import NotFetched
from metaward_client.pacs.failures import Failure

LARGEST_FILE = 4 * 2**30
"""Bytes."""


def fetched_folder(root: Path) -> Path:
    """Return the folder below ``data.root`` that belongs to the fetch."""
    return root / "pacs"


def incoming_folder(root: Path) -> Path:
    """Return the folder with files that are not complete."""
    return fetched_folder(root) / ".incoming"


def file_name(sop_uid: str) -> str:
    """Return the name of an instance's file: the same whoever fetches it, and nobody's name."""
    return f"{hashlib.sha256(sop_uid.encode()).hexdigest()}.dcm"


class Landing:
    """The files of one site that came from its PACS; made by :func:`open_landing`.

    Attributes:
        names: Of the files that are there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = incoming_folder(root)
        self.names = {path.name for path in fetched_folder(root).glob("??/*.dcm")}

    def has(self, sop_uid: str) -> bool:
        """Say whether an instance is there."""
        return file_name(sop_uid) in self.names

    @contextlib.contextmanager
    def receive(self, sop_uid: str) -> Iterator["BoundedWriter"]:
        """Give something to write an instance to; it is kept when the block ends without error.

        Raises:
            NotFetched: What was written is not that instance, or too large.
            DataError: The disk is full, or read-only.
        """
        name = file_name(sop_uid)
        part = self._incoming / f"{name}.part"
        try:
            with _disk_errors_told(self._root), _created(part) as stream:
                yield BoundedWriter(stream, self._root)
                stream.flush()
                os.fsync(stream.fileno())
            _require_instance(part, sop_uid)
            with _disk_errors_told(self._root):
                place = fetched_folder(self._root) / name[:2]
                place.mkdir(mode=0o700, exist_ok=True)
                part.replace(place / name)
        except BaseException:
            with contextlib.suppress(OSError):  # the next fetch removes it
                part.unlink()
            raise
        self.names.add(name)


@contextlib.contextmanager
def open_landing(root: Path) -> Iterator[Landing]:
    """Make the folders, keep other fetches out, and remove what a killed fetch left behind.

    Raises:
        ConfigError: The folder cannot be written.
        DataError: Another fetch is running, or the disk is full.
    """
    incoming = incoming_folder(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        fetched_folder(root).mkdir(mode=0o700, exist_ok=True)
        incoming.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(incoming / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _not_written(root, error) from None
        raise ConfigError(
            f"images cannot be written there ({os.strerror(error.errno or 0)})",
            expected="a folder that this user may write",
            where=f"data.root ({root})",
            next_step="Give this user write permission, or correct data.root.",
        ) from None
    try:
        _lock(lock, root)
        for leftover in incoming.glob("*.part"):
            leftover.unlink()
        yield Landing(root)
    finally:
        os.close(lock)


def _lock(lock: int, root: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DataError(
            "another fetch of this site is running",
            where=f"data.root ({root})",
            next_step="Wait for it to end.",
        ) from None


def _created(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


class BoundedWriter:
    """Takes so much and no more.

    Args:
        stream: Where to.
        root: The folder that an error of the disk is told about.

    Attributes:
        n_bytes: Taken so far.
    """

    def __init__(self, stream: BinaryIO, root: Path) -> None:
        self._stream = stream
        self._root = root
        self.n_bytes = 0

    def write(self, data: bytes, /) -> None:
        """Write the next bytes.

        Raises:
            NotFetched: They are too many.
            DataError: The disk is full, or read-only: said here, since whoever reads from a PACS
                takes any other error for one of the PACS.
        """
        self.n_bytes += len(data)
        if self.n_bytes > LARGEST_FILE:
            raise NotFetched(Failure.TOO_LARGE)
        with _disk_errors_told(self._root):
            self._stream.write(data)


@contextlib.contextmanager
def _disk_errors_told(root: Path) -> Iterator[None]:
    """Turn an error of the disk into a sentence."""
    try:
        yield
    except OSError as error:
        told = _not_written(root, error)
    else:
        return
    raise told


def _not_written(root: Path, error: OSError) -> DataError:
    return DataError(
        f"the images cannot be written ({os.strerror(error.errno or 0)})",
        expected="space for the images of the PACS",
        where=f"data.root ({root})",
        next_step="Free space on that disk and fetch again: what is there is not fetched twice.",
    )


def _require_instance(path: Path, sop_uid: str) -> None:
    """Refuse what is not DICOM, or not the instance that was asked for."""
    from metaward_client.dicom.dicom_file import header_tags, open_dicom

    tags = header_tags(["SOPInstanceUID"])
    try:
        with open_dicom(os.fspath(path), tags=tags) as opened:
            element = opened.dataset.get_item(tags[0])
            value = b"" if element is None else element.value
    except RefusedImage as refused:
        too_large = refused.reason is RefusalReason.TOO_LARGE
        failure = Failure.TOO_LARGE if too_large else Failure.NOT_DICOM
    except Exception:  # noqa: BLE001 (pydicom raises anything; its texts quote the file)
        failure = Failure.NOT_DICOM
    else:
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        if text.strip("\0 ") == sop_uid:
            return
        failure = Failure.OTHER_INSTANCE
    raise NotFetched(failure)
