"""Put a fetch together from a site's settings."""

from typing import TYPE_CHECKING

from metaward.errors import ConfigError
from metaward_client.dicom.progress import OnProgress, no_progress
from metaward_client.dicom.silence import quiet_pydicom, quiet_threads
from metaward_client.labels import read_label_table
from metaward_client.pacs.archive import Archive
from metaward_client.pacs.credentials import read_credentials
from metaward_client.pacs.landing import open_landing
from metaward_client.pacs.pace import Clock, Pace
from metaward_client.pacs.settings import DicomwebSettings, DimseSettings, PacsSettings
from metaward_client.pacs.wanted import wanted_of
from metaward_client.site_config import SiteConfig

if TYPE_CHECKING:
    from metaward_client.pacs.fetch import FetchReport

LOGGERS = ("dicomweb_client", "pynetdicom", "requests", "tenacity", "urllib3")
"""Of libraries that log identifiers, URLs or answers."""


def fetch_site(
    config: SiteConfig, *, clock: Clock | None = None, on_progress: OnProgress = no_progress
) -> "FetchReport":
    """Bring the images that a site wants from its PACS into its folder.

    Args:
        config: Of the site, with absolute paths.
        clock: For the pace and the pauses; by default the real one.
        on_progress: Told the stages ``"studies"`` and ``"images"``.

    Raises:
        ConfigError: A setting or the credentials are wrong, or the extra is not installed.
        DataError: The PACS stayed away, the disk is full, or nothing that is wanted is there.
    """
    data = config.data
    if data.pacs is None or data.labels is None:
        raise ConfigError(
            "the site has no PACS",
            expected="a section data.pacs",
            where=f"site.yaml of {config.name}",
            next_step="See docs/pacs.md; images that are in a folder already need no fetch.",
        )
    _require_extra()
    from metaward_client.pacs.fetch import Fetch

    clock = clock or Clock()
    pace = Pace(data.pacs.requests_per_second, clock)
    table = read_label_table(data.labels, key=data.key, label=data.label)
    wanted = wanted_of(data.pacs.select, table, data.key)
    with (
        quiet_pydicom(also=LOGGERS),
        quiet_threads(of="pynetdicom"),
        open_landing(data.root) as landing,
    ):
        archive = open_archive(data.pacs, pace)
        try:
            report = Fetch(archive, landing, wanted, clock, on_progress).run()
        finally:
            archive.close()
    report.n_requests = pace.requests
    return report


def open_archive(settings: PacsSettings, pace: Pace) -> Archive:
    """Return the PACS that settings describe; nothing is sent yet."""
    path = settings.credentials
    credentials = None if path is None else read_credentials(path)
    match settings:
        case DicomwebSettings():
            from metaward_client.pacs.dicomweb import DicomwebArchive

            return DicomwebArchive(settings, credentials, pace)
        case DimseSettings():
            from metaward_client.pacs.dimse import DimseArchive

            return DimseArchive(settings, credentials, pace)


def _require_extra() -> None:
    """Refuse with one sentence where the libraries for a PACS are not installed."""
    from importlib.util import find_spec

    if all(find_spec(name) for name in ("dicomweb_client", "pynetdicom", "tenacity")):
        return
    raise ConfigError(
        "data.pacs needs libraries that are not installed",
        expected="metaward with the extra `pacs`",
        where="this installation of metaward",
        next_step="Run: pip install 'metaward[pacs]'",
    )
