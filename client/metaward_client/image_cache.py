"""Decode images once: what the cache has is taken from it, the rest is decoded into it."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from metaward.errors import DataError
from metaward_client.dicom.cache_folder import locked
from metaward_client.dicom.file_worker import WorkerLost
from metaward_client.dicom.file_workers import FileWorkers, usable_cpus
from metaward_client.dicom.progress import OnProgress
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.dicom.transfer_syntaxes import AS_LARGE_AS_THE_FILE
from metaward_client.dicom.walk import FoundFile
from metaward_client.image_store import ImageSettings, ImageStore

FEW_IMAGES = 200
"""Uncompressed images up to this number are decoded in this process: that takes as long as a
worker needs to start. Compressed ones never are, since codecs crash and write to the terminal."""

SMALL_FILE = 4 * 2**20
"""Bytes up to which a file may be decoded in this process: its header cannot hold it up for more
than a few seconds."""


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
        return self.transfer_syntax in AS_LARGE_AS_THE_FILE and self.file.size <= SMALL_FILE

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
        store = ImageStore(cache_dir, settings)
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
                expected=f"space for {len(files)} images of {settings.image_bytes()} bytes",
                where=f"cache folder {cache_dir}",
                next_step="Free space on that disk, or set `cache:` in site.yaml to another one.",
            ) from None
    return DecodedImages(images, refused, len(missing))


class _Scratch:
    """Images in the order in which they were asked for, in a file without a name."""

    def __init__(self, stream: BinaryIO, settings: ImageSettings, n_images: int) -> None:
        shape = (n_images, settings.channels, settings.size, settings.size)
        self.images: NDArray[np.float16]
        if n_images:
            stream.truncate(n_images * settings.image_bytes())
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
