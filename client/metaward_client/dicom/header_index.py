"""The headers of a tree of files, kept in SQLite so that a second scan reads changed files only."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from metaward.errors import DataError
from metaward_client.dicom.cache_folder import locked, readers_digest
from metaward_client.dicom.file_worker import WorkerLost
from metaward_client.dicom.file_workers import FileWorkers, usable_cpus
from metaward_client.dicom.header import Header, HeaderOutcome
from metaward_client.dicom.progress import OnProgress, no_progress
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.dicom.silence import quiet_pydicom
from metaward_client.dicom.walk import FoundFile, walk_files

WORTH_A_POOL = 4000
"""Files from which worker processes are started: two of them need about a second to import
pydicom, in which one process reads some 1,500 headers."""

FILES_PER_COMMIT = 2000
"""An interrupted scan loses at most this many headers."""

QUIET_BATCH = 50
"""Headers read at once with warnings off; switching per file costs as much as some headers do."""

DATABASE = "headers.sqlite"


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """One file of the tree and its header, or why there is none."""

    file: FoundFile
    outcome: HeaderOutcome


@dataclass(frozen=True)
class HeaderIndex:
    """The headers of a tree.

    Attributes:
        files: Sorted by path.
        unreadable: Files and folders that could not even be looked at.
        n_read: Files that were opened; the others were known from an earlier scan.
    """

    files: tuple[IndexedFile, ...]
    unreadable: int
    n_read: int


def index_headers(
    root: Path,
    cache_dir: Path,
    *,
    workers: int | None = None,
    leave_out: frozenset[Path] = frozenset(),
    on_progress: OnProgress = no_progress,
) -> HeaderIndex:
    """Read the headers of all files under ``root``.

    Args:
        root: Any folder tree; files are told by content.
        cache_dir: Where the index is kept. It holds patient identifiers and file paths.
        workers: Processes for a large tree; by default one per usable core.
        leave_out: See :func:`~metaward_client.dicom.walk.walk_files`.
        on_progress: Told the stage ``"headers"``.

    Raises:
        DataError: The index cannot be written: the disk is full, or fails.
    """
    walk = walk_files(root, leave_out=leave_out)
    with (
        locked(cache_dir),
        _disk_errors(cache_dir),
        contextlib.closing(_open_database(cache_dir / DATABASE)) as database,
    ):
        known = _known_outcomes(database)
        outcomes: dict[str, HeaderOutcome] = {}
        unread: list[FoundFile] = []
        for file in walk.files:
            entry = known.pop(file.path, None)
            if entry is not None and entry[0] == (file.size, file.mtime_ns):
                outcomes[file.path] = entry[1]
            else:
                unread.append(file)
        _forget(database, list(known))
        total, done = len(walk.files), len(outcomes)
        on_progress("headers", done, total)
        batch: list[tuple[FoundFile, HeaderOutcome]] = []
        for file, outcome in _read(root, unread, usable_cpus() if workers is None else workers):
            outcomes[file.path] = outcome
            batch.append((file, outcome))
            if len(batch) >= FILES_PER_COMMIT:
                _remember(database, batch)
                batch = []
            done += 1
            if done % 50 == 0 or done == total:
                on_progress("headers", done, total)
        _remember(database, batch)
    files = tuple(IndexedFile(file, outcomes[file.path]) for file in walk.files)
    return HeaderIndex(files, walk.unreadable, len(unread))


def _read(
    root: Path, files: Sequence[FoundFile], workers: int
) -> Iterator[tuple[FoundFile, HeaderOutcome]]:
    if not files:
        return
    from metaward_client.dicom.header_reading import read_header

    paths = [os.path.join(root, file.path) for file in files]  # noqa: PTH118 (speed)
    if workers < 2 or len(files) < WORTH_A_POOL:
        for start in range(0, len(paths), QUIET_BATCH):
            with quiet_pydicom():
                outcomes = [read_header(path) for path in paths[start : start + QUIET_BATCH]]
            yield from zip(files[start : start + QUIET_BATCH], outcomes, strict=True)
        return
    with FileWorkers(workers) as pool:
        for index, result in pool.run(read_header, paths, chunk_size=64):
            if isinstance(result, WorkerLost):
                yield files[index], RefusalReason.UNREADABLE_HEADER
            else:
                yield files[index], result


_HEADER_COLUMNS = tuple(field.name for field in fields(Header))


OF_THE_DISK = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
)
"""What SQLite says when the disk is at fault, not the file."""


def _is_of_the_disk(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in OF_THE_DISK  # the rest says which kind


@contextlib.contextmanager
def _disk_errors(cache_dir: Path) -> Iterator[None]:
    """Say that the disk is at fault, in place of SQLite."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not _is_of_the_disk(error):
            raise
        raise DataError(
            f"the index of headers could not be written ({error})",
            expected="space for about a kilobyte per file",
            where=f"cache folder {cache_dir}",
            next_step="Free space on that disk, or set `cache:` in site.yaml to another one. "
            "Headers that were written are kept.",
        ) from None


def _open_database(path: Path) -> sqlite3.Connection:
    """Open the index; one that is damaged or of other versions is made anew."""
    try:
        return _prepared(path)
    except sqlite3.DatabaseError as error:
        if _is_of_the_disk(error):
            raise  # the file may be whole, and hours of reading
        path.unlink(missing_ok=True)
        path.with_name(path.name + "-journal").unlink(missing_ok=True)
        return _prepared(path)


def _prepared(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    database = sqlite3.connect(path)
    try:
        version = int(readers_digest()[:7], 16)
        if database.execute("PRAGMA user_version").fetchone()[0] != version:
            with database:
                database.execute("DROP TABLE IF EXISTS headers")
                columns = ", ".join(_HEADER_COLUMNS)
                database.execute(
                    "CREATE TABLE headers (path BLOB PRIMARY KEY, size, mtime_ns, reason, "
                    f"{columns})"
                )
                database.execute(f"PRAGMA user_version = {version}")
        database.execute("SELECT 1 FROM headers LIMIT 1")
    except BaseException:
        database.close()
        raise
    return database


def _known_outcomes(
    database: sqlite3.Connection,
) -> dict[str, tuple[tuple[int, int], HeaderOutcome]]:
    known: dict[str, tuple[tuple[int, int], HeaderOutcome]] = {}
    columns = ", ".join(_HEADER_COLUMNS)
    query = f"SELECT path, size, mtime_ns, reason, {columns} FROM headers"  # noqa: S608 (own names)
    for path, size, mtime_ns, reason, *values in database.execute(query):
        outcome = Header(*values) if reason is None else RefusalReason(reason)
        known[os.fsdecode(path)] = ((size, mtime_ns), outcome)
    return known


def _remember(database: sqlite3.Connection, batch: list[tuple[FoundFile, HeaderOutcome]]) -> None:
    rows = []
    for file, outcome in batch:
        if outcome is RefusalReason.UNREADABLE_FILE:
            continue  # permissions change without changing size or mtime
        header = isinstance(outcome, Header)
        values = astuple(outcome) if isinstance(outcome, Header) else (None,) * len(_HEADER_COLUMNS)
        reason = None if header else str(outcome)
        rows.append((os.fsencode(file.path), file.size, file.mtime_ns, reason, *values))
    marks = ", ".join("?" * (4 + len(_HEADER_COLUMNS)))
    with database:
        database.executemany(f"INSERT OR REPLACE INTO headers VALUES ({marks})", rows)  # noqa: S608


def _forget(database: sqlite3.Connection, paths: list[str]) -> None:
    with database:
        database.executemany(
            "DELETE FROM headers WHERE path = ?", [(os.fsencode(path),) for path in paths]
        )
