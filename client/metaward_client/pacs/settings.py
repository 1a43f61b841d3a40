"""The `data.pacs` section of `site.yaml`: which PACS to fetch from, and what."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from metaward.config import Settings
from metaward_client.named_paths import from_folder


def _ae_title(title: str) -> str:
    """Refuse what DICOM does not take for an AE title (PS3.5, 6.2), apart from its length."""
    if not (title.isascii() and title.isprintable()) or "\\" in title or not title.strip():
        raise ValueError("an AE title is printable ASCII without backslash, and not blanks only")
    return title


AeTitle = Annotated[str, Field(min_length=1, max_length=16), AfterValidator(_ae_title)]


class SelectSettings(Settings):
    """Which images of the PACS are wanted; every condition has to hold."""

    labelled: bool = Field(True, description="only what the label table names")
    modalities: tuple[str, ...] = Field((), description="of series, as in DICOM: CT, MR, CR, DX")
    since: date | None = Field(None, description="first study date")
    until: date | None = Field(None, description="last study date")
    studies: tuple[str, ...] = Field((), description="Study Instance UIDs")

    @model_validator(mode="after")
    def _days_are_in_order(self) -> "SelectSettings":
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError("`since` is after `until`, so no day is left")
        return self


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
    called_ae_title: AeTitle = Field(description="of the PACS")
    calling_ae_title: AeTitle = Field("METAWARD", description="ours")
    credentials: Path | None = Field(None, description="file of mode 0600 with user and password")
    tls: bool = Field(False, description="encrypt; often on port 2762")
    ca: Path | None = Field(None, description="certificate of the authority that signed the PACS's")
    certificate: Path | None = Field(None, description="ours, where the PACS wants one")
    key: Path | None = Field(None, description="of our certificate; mode 0600")

    @model_validator(mode="after")
    def _certificates_serve_tls(self) -> "DimseSettings":
        if not self.tls and (self.ca or self.certificate or self.key):
            raise ValueError("ca, certificate and key need `tls: true`")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key come together")
        return self


PacsSettings = Annotated[DicomwebSettings | DimseSettings, Field(discriminator="protocol")]


def with_absolute_paths(settings: PacsSettings, folder: Path) -> PacsSettings:
    """Return the settings with paths relative to ``folder`` made absolute."""
    paths = {name: value for name, value in settings if isinstance(value, Path)}
    absolute = {name: from_folder(folder, path).absolute() for name, path in paths.items()}
    return settings.model_copy(update=absolute)
