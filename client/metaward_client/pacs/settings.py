"""The `data.pacs` section of `site.yaml`: which PACS to fetch from, and what."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from metaward.config import Settings


class SelectSettings(Settings):
    """Which images of the PACS are wanted; every condition has to hold."""

    labelled: bool = Field(True, description="only what the label table names")
    modalities: tuple[str, ...] = Field((), description="of series, as in DICOM: CT, MR, CR, DX")
    since: date | None = Field(None, description="first study date")
    until: date | None = Field(None, description="last study date")
    studies: tuple[str, ...] = Field((), description="Study Instance UIDs")


class _PacsSettings(Settings):
    """What both protocols have."""

    select: SelectSettings = SelectSettings()
    requests_per_second: float = Field(10.0, gt=0, le=1000)
    timeout_seconds: float = Field(60.0, gt=0, le=3600, description="without a sign of life")


class DicomwebSettings(_PacsSettings):
    """A PACS that speaks DICOMweb: QIDO-RS to search, WADO-RS to fetch."""

    protocol: Literal["dicomweb"]
    url: str = Field(min_length=1, description="root of the DICOMweb service")
    credentials: Path | None = Field(None, description="file of mode 0600 with user and password")
    ca: Path | None = Field(None, description="certificate of the authority that signed the PACS's")


class DimseSettings(_PacsSettings):
    """A PACS that speaks DIMSE: C-FIND to search, C-GET to fetch over the same connection."""

    protocol: Literal["dimse"]
    host: str = Field(min_length=1)
    port: int = Field(104, ge=1, le=65535)
    called_ae_title: str = Field(min_length=1, max_length=16, description="of the PACS")
    calling_ae_title: str = Field("METAWARD", min_length=1, max_length=16, description="ours")


PacsSettings = Annotated[DicomwebSettings | DimseSettings, Field(discriminator="protocol")]


def with_absolute_paths(settings: PacsSettings, folder: Path) -> PacsSettings:
    """Return the settings with paths relative to ``folder`` made absolute."""
    if isinstance(settings, DimseSettings):
        return settings

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else (folder / path.expanduser()).absolute()

    return settings.model_copy(
        update={"credentials": absolute(settings.credentials), "ca": absolute(settings.ca)}
    )
