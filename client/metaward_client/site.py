"""A site: a hospital's folder of DICOM files with labels, and the task that it makes."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metaward_client.dicom.cache_folder import cache_folder
from metaward_client.dicom.progress import OnProgress, no_progress
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.image_cache import DecodedImages, SourceFile, load_images
from metaward_client.image_store import ImageSettings
from metaward_client.label_join import Join, join_labels
from metaward_client.labels import read_label_table
from metaward_client.named_paths import real_path
from metaward_client.pacs.landing import incoming_folder
from metaward_client.patients import PatientKey, fingerprint, token
from metaward_client.site_config import SITE_FILE, SiteConfig, read_site_config
from metaward_client.site_scan import SiteScan, UsableImage

if TYPE_CHECKING:
    from metaward.tasks import Task
    from metaward_client.dicom.file_workers import FileWorkers
    from metaward_client.dicom.header_index import HeaderIndex

logger = logging.getLogger(__name__)

SHORTEST_SALT = 16
"""Bytes: as hard to guess as a key."""


@dataclass(frozen=True)
class Site:
    """A hospital's data, as its settings describe them.

    Attributes:
        config: With absolute paths.
        path: What the site was loaded from.
    """

    config: SiteConfig
    path: Path = field(compare=False)

    @property
    def name(self) -> str:
        """Name in the federation."""
        return self.config.name

    @property
    def where(self) -> str:
        """What to name in a message about labels: the label table, or the folder of labels."""
        return str(self.config.data.labels or self.config.data.root)

    def scan(
        self, on_progress: OnProgress | None = None, *, workers: int | None = None
    ) -> SiteScan:
        """Read all headers, join labels, group by patient. Decodes nothing.

        Args:
            on_progress: Told the stage ``"headers"``.
            workers: Processes for a large tree; by default one per usable core.

        Raises:
            ConfigError: The label table or one of its columns does not exist, or the cache folder
                cannot be written.
            DataError: The label table cannot be read.
        """
        join, index = self._join(on_progress or no_progress, workers)
        label_names = tuple(sorted({image.label for image in join.images}))
        label_index = {name: index for index, name in enumerate(label_names)}
        numbers: dict[PatientKey, int] = {}
        images = tuple(
            UsableImage(
                file=image.file,
                modality=image.header.modality,
                transfer_syntax=image.header.transfer_syntax,
                label=label_index[image.label],
                patient=numbers.setdefault(image.patient, len(numbers)),
            )
            for image in join.images
        )
        return SiteScan(
            self.name,
            len(index.files) + index.unreadable,
            index.n_read,
            len(index.files) - index.n_read,
            images,
            label_names,
            dict(join.refused),
            join.summary,
            patient_tokens=tuple(token(key) for key in numbers),
        )

    def decode(
        self,
        scan: SiteScan,
        *,
        image_size: int | None = None,
        channels: int | None = None,
        on_progress: OnProgress | None = None,
        workers: int | None = None,
        pool: "FileWorkers | None" = None,
    ) -> tuple[SiteScan, NDArray[np.float16]]:
        """Return the images of a scan, and the scan without those that cannot be decoded.

        Args:
            scan: From :meth:`scan`.
            image_size: Pixels; by default what site.yaml says. Likewise ``channels``.
            channels: 1 or 3.
            on_progress: Told the stage ``"pixels"``.
            workers: Processes; by default one per usable core.
            pool: Running workers to share between sites.

        Returns:
            The scan, and (n_images, channels, size, size) float16 in [0, 1], memory-mapped.
        """
        preprocess, data = self.config.preprocess, self.config.data
        window = preprocess.window
        settings = ImageSettings(
            size=preprocess.size if image_size is None else image_size,
            channels=preprocess.channels if channels is None else channels,
            window=None if window is None else (window.center, window.width),
            selection=f"{data.labels}|{data.key}|{data.label}",
        )
        decoded: DecodedImages = load_images(
            data.root,
            self._cache(),
            [SourceFile(image.file, image.transfer_syntax) for image in scan.images],
            settings,
            on_progress=on_progress or no_progress,
            workers=workers,
            pool=pool,
        )
        after = replace(scan.without(decoded.refused), n_pixels_read=decoded.n_decoded_now)
        return after, decoded.images

    def load_task(
        self,
        *,
        image_size: int | None = None,
        channels: int | None = None,
        on_progress: OnProgress | None = None,
        workers: int | None = None,
        pool: "FileWorkers | None" = None,
        may_be_empty: bool = False,
    ) -> "Task":
        """Return the site's task; only files that changed since the last call are read.

        What cannot be used is left out; :meth:`scan` counts it.

        Args:
            image_size: Pixels, height and width; by default what site.yaml says.
            channels: 1 or 3; by default what site.yaml says.
            on_progress: Told the stages ``"headers"`` and ``"pixels"``.
            workers: Processes; by default one per usable core.
            pool: Running workers to share between sites.
            may_be_empty: Whether a site without a usable image has a task too, an empty one. Under
                a privacy mechanism it must: a refusal would tell of the last patient.

        Raises:
            DataError: No image is usable; or the header of the label table cannot be read.
            ConfigError: See :meth:`scan`.
        """
        from metaward.tasks import Task

        scan = self.scan(on_progress, workers=workers)
        self._tell_left_out(scan)
        if not may_be_empty:
            scan.require_usable(where=self.where)
        scan, images = self.decode(
            scan,
            image_size=image_size,
            channels=channels,
            on_progress=on_progress,
            workers=workers,
            pool=pool,
        )
        if not may_be_empty:
            scan.require_usable(where=self.where)
        elif not scan.images:
            logger.warning("no usable image: run `metaward site scan`, which explains each reason")
        return Task(
            site=self.name,
            images=images,
            labels=np.array([image.label for image in scan.images], dtype=np.int64),
            patients=np.array([image.patient for image in scan.images], dtype=np.int64),
            label_names=scan.label_names,
            patient_tokens=scan.patient_tokens,
        )

    def _tell_left_out(self, scan: SiteScan) -> None:
        if scan.join.contradictions or scan.join.unreadable_rows:
            logger.warning(
                "images were left out for rows of the label table, or folders, that contradict one "
                "another or cannot be read: run `metaward site scan`, which names the rows"
            )

    def _join(self, on_progress: OnProgress, workers: int | None) -> "tuple[Join, HeaderIndex]":
        """Return the joined images, and the index that they come from."""
        from metaward_client.dicom.header_index import index_headers

        data = self.config.data
        table = (
            None
            if data.labels is None
            else read_label_table(data.labels, key=data.key, label=data.label)
        )
        cache = self._cache()
        index = index_headers(
            data.root,
            cache,
            workers=workers,
            leave_out=self._own_files(cache),
            on_progress=on_progress,
        )
        join = join_labels(index.files, table, key=data.key)
        if index.unreadable:
            join.refused[RefusalReason.UNREADABLE_FILE] += index.unreadable
        return join, index

    def _cache(self) -> Path:
        return cache_folder(self.config.data.root, self.config.cache)

    def _own_files(self, cache: Path) -> frozenset[Path]:
        """Return what may lie among the images and is none."""
        data = self.config.data
        own = [data.root / SITE_FILE, self.path, cache, cache.parent, incoming_folder(data.root)]
        if data.labels is not None:
            own.append(data.labels)
        return frozenset(map(real_path, own)) - {data.root}


def load_site(path: Path) -> Site:
    """Return the site that a `site.yaml`, or a folder, describes. Reads no image.

    Raises:
        ConfigError: See :func:`~metaward_client.site_config.read_site_config`.
    """
    return Site(read_site_config(path), path)


def patient_fingerprints(site: Site, salt: bytes) -> frozenset[bytes]:
    """Return a keyed hash per patient with a usable image, to find a patient in two sites.

    For comparisons inside one process, such as a simulation that reads several hospitals. It
    finds equal IDs of equal issuers; two hospitals that number their patients on their own do not
    share IDs, and a patient who is in both is then not found.

    Args:
        site: The site.
        salt: Random, the same for the sites compared, forgotten afterwards.
    """
    if len(salt) < SHORTEST_SALT:
        raise ValueError(f"the salt has {len(salt)} bytes; {SHORTEST_SALT} are needed")
    join, _ = site._join(no_progress, None)
    return frozenset(fingerprint(key, salt) for key in {image.patient for image in join.images})
