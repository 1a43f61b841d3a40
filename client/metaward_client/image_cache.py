"""Decoded images on disk: one memory-mapped float16 array, so a second epoch reads no DICOM.

Two files per kind of preprocessing: ``images-<kind>-<generation>.npy`` and ``images-<kind>.json``,
which says which generation counts and what each row is. The index is replaced by a rename after
the array is safely on disk, so a process killed at any moment leaves the old state or the new one.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from metaward.errors import DataError
from metaward_client.dicom.cache_folder import locked, readers_digest
from metaward_client.dicom.file_worker import WorkerLost
from metaward_client.dicom.file_workers import FileWorkers, usable_cpus
from metaward_client.dicom.progress import OnProgress
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.dicom.transfer_syntaxes import NATIVE
from metaward_client.dicom.walk import FoundFile

FEW_IMAGES = 200
"""Uncompressed images up to this number are decoded in this process: that takes as long as a
worker needs to start. Compressed ones never are, since codecs crash and write to the terminal."""

SMALL_FILE = 4 * 2**20
"""Bytes up to which a file may be decoded in this process: its header cannot hold it up for more
than a few seconds."""


@dataclass(frozen=True)
class ImageSettings:
    """What decides how an image looks.

    Attributes:
        size: Pixels, height and width.
        channels: 1 or 3.
        window: Centre and width, or None for the file's own.
        selection: Distinguishes tables of the same images (say, two label columns).
    """

    size: int
    channels: int
    window: tuple[float, float] | None
    selection: str

    def kind(self) -> str:
        """Return a name for these settings and the versions of everything that reads files."""
        parts = [self.size, self.channels, self.window, self.selection, readers_digest()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SourceFile:
    """A file to decode.

    Attributes:
        file: Where it is below the root, its size and age.
        transfer_syntax: UID.
    """

    file: FoundFile
    transfer_syntax: str

    def is_harmless(self) -> bool:
        """Say whether decoding needs no codec and can take neither long nor much memory."""
        return self.transfer_syntax in NATIVE and self.file.size <= SMALL_FILE

    def key(self) -> str:
        """Return a digest that changes with path, size or time of change."""
        text = f"{self.file.path}\0{self.file.size}\0{self.file.mtime_ns}"
        return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


@dataclass(frozen=True)
class DecodedImages:
    """What became of a list of files.

    Attributes:
        images: (n_decoded, channels, size, size) float16 in [0, 1], memory-mapped, read-only; in
            the order of the files, those refused left out.
        refused: Index in the list of files -> why.
        n_decoded_now: Files whose pixels were read; the others came from the cache.
    """

    images: NDArray[np.float16]
    refused: dict[int, RefusalReason]
    n_decoded_now: int


@dataclass(frozen=True)
class _Index:
    generation: str
    keys: tuple[str, ...]
    refused: dict[str, RefusalReason]


def load_images(
    root: Path,
    cache_dir: Path,
    files: Sequence[SourceFile],
    settings: ImageSettings,
    *,
    on_progress: OnProgress,
    workers: int | None = None,
    pool: FileWorkers | None = None,
) -> DecodedImages:
    """Return the images of some files, decoding those that are not in the cache.

    Args:
        root: Folder that paths are relative to.
        cache_dir: From :func:`~metaward_client.dicom.cache_folder.cache_folder`.
        files: In the order in which images are wanted.
        settings: How images are to look.
        on_progress: Told the stage ``"pixels"``.
        workers: Processes; by default one per usable core.
        pool: Workers that are running already, to be used instead of new ones.

    Raises:
        DataError: The cache cannot be written: the disk is full, or read-only.
    """
    keys = [file.key() for file in files]
    with locked(cache_dir):
        store = _Store(cache_dir, settings)
        index, images = store.read()
        row_of = {key: row for row, key in enumerate(index.keys)}
        missing = [
            i for i, key in enumerate(keys) if key not in row_of and key not in index.refused
        ]
        refused = {i: index.refused[key] for i, key in enumerate(keys) if key in index.refused}
        wanted = [key for i, key in enumerate(keys) if i not in refused]
        if not missing and tuple(wanted) == index.keys and images is not None:
            return DecodedImages(images, refused, 0)
        try:
            with tempfile.TemporaryFile(dir=cache_dir) as scratch:
                fresh = _Scratch(scratch, settings, len(missing))
                reasons = _decode_into(
                    fresh, root, [files[i] for i in missing], settings, on_progress, workers, pool
                )
                refused |= {missing[slot]: reason for slot, reason in reasons.items()}
                slot_of = {keys[i]: slot for slot, i in enumerate(missing)}
                kept = [key for i, key in enumerate(keys) if i not in refused]
                rows = [
                    (images, row_of[key]) if key in row_of else (fresh.images, slot_of[key])
                    for key in kept
                ]
                images = store.write(rows, kept, {keys[i]: why for i, why in refused.items()})
        except OSError as error:
            raise DataError(
                f"the decoded images could not be written ({os.strerror(error.errno or 0)})",
                expected=f"space for {len(files)} images of {_image_bytes(settings)} bytes",
                where=f"cache folder {cache_dir}",
                next_step="Free space on that disk, or set `cache:` in site.yaml to another one.",
            ) from None
    return DecodedImages(images, refused, len(missing))


def _image_bytes(settings: ImageSettings) -> int:
    return 2 * settings.channels * settings.size**2


class _Scratch:
    """Images in the order in which they were asked for, in a file without a name."""

    def __init__(self, stream: BinaryIO, settings: ImageSettings, n_images: int) -> None:
        shape = (n_images, settings.channels, settings.size, settings.size)
        self.images: NDArray[np.float16]
        if n_images:
            stream.truncate(n_images * _image_bytes(settings))
            self.images = np.memmap(stream, dtype=np.float16, mode="r+", shape=shape)
        else:
            self.images = np.zeros(shape, dtype=np.float16)


def _decode_into(
    scratch: _Scratch,
    root: Path,
    files: Sequence[SourceFile],
    settings: ImageSettings,
    on_progress: OnProgress,
    workers: int | None,
    pool: FileWorkers | None,
) -> dict[int, RefusalReason]:
    """Decode files into their slots; return slot -> reason for those that are refused."""
    if not files:
        return {}
    from metaward_client.dicom.pixels import DecodeOutcome, DecodeRequest, decode_outcome

    refused: dict[int, RefusalReason] = {}

    def keep(slot: int, outcome: DecodeOutcome | WorkerLost) -> None:
        if isinstance(outcome, WorkerLost):
            refused[slot] = RefusalReason.DECODER_DIED
        elif isinstance(outcome, RefusalReason):
            refused[slot] = outcome
        else:
            scratch.images[slot] = outcome

    requests = [
        DecodeRequest(
            os.path.join(root, file.file.path),  # noqa: PTH118 (speed)
            settings.size,
            settings.channels,
            settings.window,
        )
        for file in files
    ]
    on_progress("pixels", 0, len(files))
    if len(files) <= FEW_IMAGES and all(file.is_harmless() for file in files):
        for slot, request in enumerate(requests):
            keep(slot, decode_outcome(request))
            on_progress("pixels", slot + 1, len(files))
        return refused
    with contextlib.ExitStack() as stack:
        n_workers = usable_cpus() if workers is None else workers
        running = pool or stack.enter_context(FileWorkers(min(n_workers, len(files))))
        for done, (slot, result) in enumerate(running.run(decode_outcome, requests), start=1):
            keep(slot, result)
            on_progress("pixels", done, len(files))
    return refused


class _Store:
    """The two files of one kind of preprocessing."""

    def __init__(self, folder: Path, settings: ImageSettings) -> None:
        self._folder = folder
        self._name = f"images-{settings.kind()}"
        self._shape = (settings.channels, settings.size, settings.size)

    def read(self) -> tuple[_Index, NDArray[np.float16] | None]:
        """Return what is there; nothing where there is nothing, or where it is damaged."""
        try:
            content = json.loads((self._folder / f"{self._name}.json").read_text("utf-8"))
            refused = {key: RefusalReason(why) for key, why in content["refused"].items()}
            index = _Index(str(content["generation"]), tuple(content["keys"]), refused)
            images = np.load(self._array_path(index.generation), mmap_mode="r")
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
            return _Index("", (), {}), None
        if images.dtype != np.float16 or images.shape != (len(index.keys), *self._shape):
            return _Index("", (), {}), None
        return index, images

    def write(
        self,
        rows: Sequence[tuple[NDArray[np.float16] | None, int]],
        keys: Sequence[str],
        refused: dict[str, RefusalReason],
    ) -> NDArray[np.float16]:
        """Put the images of ``rows`` on disk as the new generation, and return them."""
        descriptor, name = tempfile.mkstemp(
            prefix=f"{self._name}-", suffix=".npy", dir=self._folder
        )
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                header = {
                    "descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)),
                    "fortran_order": False,
                    "shape": (len(rows), *self._shape),
                }
                np.lib.format.write_array_header_1_0(stream, header)
                for source, row in rows:
                    assert source is not None
                    stream.write(np.ascontiguousarray(source[row]).tobytes())
                stream.flush()
                os.fsync(stream.fileno())
            generation = path.name.removeprefix(f"{self._name}-").removesuffix(".npy")
            self._commit(_Index(generation, tuple(keys), refused))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._remove_other_generations(path)
        return np.asarray(np.load(path, mmap_mode="r"))

    def _commit(self, index: _Index) -> None:
        content = {
            "generation": index.generation,
            "keys": index.keys,
            # A decoder that died may have been short of memory: it gets another chance.
            "refused": {
                key: why
                for key, why in index.refused.items()
                if why is not RefusalReason.DECODER_DIED
            },
        }
        descriptor, name = tempfile.mkstemp(prefix="index-", suffix=".tmp", dir=self._folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(self._folder / f"{self._name}.json")
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _remove_other_generations(self, current: Path) -> None:
        leftovers = [*self._folder.glob(f"{self._name}-*.npy"), *self._folder.glob("index-*.tmp")]
        for path in leftovers:
            if path != current:
                path.unlink(missing_ok=True)

    def _array_path(self, generation: str) -> Path:
        return self._folder / f"{self._name}-{generation}.npy"
