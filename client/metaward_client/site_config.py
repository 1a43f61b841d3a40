"""`site.yaml`: where a hospital's images and labels are, and how images are prepared."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from metaward.config import Settings, load_settings
from metaward.device import ON_CPU, DeviceName, require_provable
from metaward.errors import ConfigError
from metaward.patterns import NAME
from metaward_client.named_paths import from_folder, real_path
from metaward_client.pacs import settings as pacs_settings
from metaward_client.pacs.settings import PacsSettings
from metaward_client.privacy.policy import (
    NoPrivacy,
    PrivacySettings,
    ProtectedSettings,
    with_absolute_paths,
)

LabelKey = Literal[
    "sop_instance_uid", "series_instance_uid", "study_instance_uid", "patient_id", "path"
]
"""What a row of the label table names: an image, a series, a study, a patient, or a file."""

SITE_FILE = "site.yaml"
LABEL_FILE = "labels.csv"


class DataSettings(Settings):
    """Where images and labels are."""

    root: Path = Field(description="folder with DICOM files, nested as it comes")
    labels: Path | None = Field(
        None, description="label table (CSV); without one, the folders under root are the labels"
    )
    key: LabelKey = Field("sop_instance_uid", description="what a row of the label table names")
    label: str = Field("label", min_length=1, description="column that holds the label")
    pacs: PacsSettings | None = Field(
        None, description="where `metaward site fetch` gets the images from"
    )

    @model_validator(mode="after")
    def _only_a_table_has_columns(self) -> "DataSettings":
        if self.labels is not None or self.pacs is not None:
            return self
        for name in ("key", "label"):
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(f"{name} ({value}) is a column of a table, and labels names none")
        return self


class WindowSettings(Settings):
    """A window for grey images, in modality units (HU for CT)."""

    center: float
    width: float = Field(gt=0)


class PreprocessSettings(Settings):
    """How an image becomes an array."""

    size: int = Field(32, ge=8, le=1024, description="pixels, height and width")
    channels: Literal[1, 3] = 1
    window: WindowSettings | None = Field(
        None, description="used for every grey image, instead of what the file says"
    )


class SiteConfig(Settings):
    """The content of `site.yaml`."""

    name: str = Field(pattern=NAME, description="name in the federation")
    data: DataSettings
    preprocess: PreprocessSettings = PreprocessSettings()
    synthetic: bool = Field(
        False, description="true where a program drew the images; every report says so"
    )
    cache: Path | None = Field(
        None, description="folder for the index and the decoded images; holds patient data"
    )
    privacy: PrivacySettings | None = Field(
        None, description="what patients may lose; without it the site answers no study"
    )
    device: DeviceName = Field(
        ON_CPU,
        description="where rounds are computed: cpu, cuda or cuda:1; never with dp-sgd on cuda",
    )
    health_port: int = Field(
        9097,
        ge=1024,
        le=65535,
        description="port of the node's health server, on loopback only",
    )

    @model_validator(mode="after")
    def _device_suits_privacy(self) -> "SiteConfig":
        if self.privacy is not None:
            require_provable(self.privacy.mechanism, self.device)
        return self


def read_site_config(path: Path, *, needs_root: bool = True) -> SiteConfig:
    """Return the settings of a site, with absolute paths.

    Args:
        path: A `site.yaml`; or a folder that holds one; or a folder with images and `labels.csv`,
            or with one sub-folder per label.
        needs_root: Whether the folder with the images has to be there already.

    Raises:
        ConfigError: The path, a file it names, or a key is wrong.
    """
    if not path.exists():
        raise ConfigError(
            "there is no such file or folder",
            expected="a site.yaml, or a site's folder",
            where=str(path),
            next_step="Correct the path.",
        )
    if path.is_dir():
        site_file = path / SITE_FILE
        if not site_file.exists():
            return _config_of_folder(path)
        path = site_file
    config = _with_absolute_paths(load_settings(path, SiteConfig), path.resolve().parent)
    if needs_root:
        correct = "Correct data.root; a relative path starts at the folder of site.yaml."
        step = correct if config.data.pacs is None else "Run `metaward site fetch` first."
        require_root(config, where=f"{path}, data.root", next_step=step)
    if config.data.pacs is not None and (config.data.labels is None or config.data.key == "path"):
        raise ConfigError(
            "images come from a PACS, but no table says what shows on them"
            if config.data.labels is None
            else "images come from a PACS, but the label table names files",
            expected="data.labels, with a data.key that is also in the PACS, such as "
            "study_instance_uid",
            where=str(path),
            next_step="Write the table and name its key.",
        )
    return config


def require_root(config: SiteConfig, *, where: str, next_step: str) -> None:
    """Check that the folder with the images is there.

    Raises:
        ConfigError: It is not.
    """
    if not config.data.root.is_dir():
        raise ConfigError(
            "there is no folder of that name",
            expected="the folder with the site's DICOM files",
            where=f"{where} ({config.data.root})",
            next_step=next_step,
        )


def _config_of_folder(folder: Path) -> SiteConfig:
    root = folder.resolve()
    labels = root / LABEL_FILE
    return SiteConfig(
        name=_slug(root.name),
        data=DataSettings(root=root, labels=labels if labels.is_file() else None),
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64] or "site"


def _with_absolute_paths(config: SiteConfig, folder: Path) -> SiteConfig:
    def absolute(path: Path | None) -> Path | None:
        return None if path is None else real_path(from_folder(folder, path))

    pacs = config.data.pacs
    data = config.data.model_copy(
        update={
            "root": absolute(config.data.root),
            "labels": absolute(config.data.labels),
            "pacs": None if pacs is None else pacs_settings.with_absolute_paths(pacs, folder),
        }
    )
    privacy = None if config.privacy is None else with_absolute_paths(config.privacy, folder)
    return config.model_copy(
        update={"data": data, "cache": absolute(config.cache), "privacy": privacy}
    )


def read_policy(path: Path) -> NoPrivacy | ProtectedSettings:
    """Return the privacy policy of a site, with absolute paths.

    Raises:
        ConfigError: See :func:`read_site_config`; or the site has no policy.
    """
    policy = read_site_config(path).privacy
    if policy is None:
        raise ConfigError(
            "no privacy policy",
            expected="a section `privacy` that names a mechanism: dp-sgd, block or none",
            where=str(path),
            next_step="Write one into site.yaml; `metaward site quote` says what it costs.",
        )
    return policy


def read_protected_policy(path: Path, *, without: str, next_step: str) -> ProtectedSettings:
    """Return the privacy policy of a site that has a mechanism.

    Args:
        path: As for :func:`read_policy`.
        without: What a site without a mechanism lacks, after "which".
        next_step: What to do then.

    Raises:
        ConfigError: See :func:`read_policy`; or the mechanism is none.
    """
    policy = read_policy(path)
    if isinstance(policy, NoPrivacy):
        raise ConfigError(
            f"the mechanism is {policy.label}, which {without}",
            expected="privacy.mechanism: dp-sgd or block",
            where=str(path),
            next_step=next_step,
        )
    return policy
