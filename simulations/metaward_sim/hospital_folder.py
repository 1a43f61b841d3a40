"""Write a hospital: a tree of DICOM files, a label table and the site's own file.

Below ``<out>/<name>/`` stand:

- ``images/``: DICOM, nested as the scanner's exports come;
- ``labels.csv``: sop_instance_uid,label;
- ``site.yaml``: what `metaward site scan` and `metaward simulate --data` read;
- ``NOTICE``: where the images come from.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TextIO, TypeAlias

from metaward.errors import ConfigError
from metaward_sim.dicom_writer import DicomWriter, WrittenImage, patient_id_of
from metaward_sim.image_record import ImageRecord
from metaward_sim.scanner_style import Nesting, ScannerStyle
from metaward_sim.staged_folders import staged_folders

StyleChoice: TypeAlias = ScannerStyle | Callable[[ImageRecord], ScannerStyle]
OnProgress: TypeAlias = Callable[[int], None]
"""Called with the number of images written since the last call."""

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SITE_YAML = """\
name: {name}
data:
  root: images
  labels: labels.csv
  key: sop_instance_uid
  label: label
cache: cache
synthetic: {synthetic}
"""


@dataclass(frozen=True)
class HospitalSummary:
    """What was written.

    Attributes:
        name: Name of the hospital and of its folder.
        path: The folder.
        n_images: Number of images.
        n_patients: Number of different patients.
        labels: Label name -> number of images, in order of name.
    """

    name: str
    path: Path
    n_images: int
    n_patients: int
    labels: dict[str, int] = field(default_factory=dict)


def write_hospital(
    out: Path,
    *,
    name: str,
    records: Iterable[ImageRecord],
    style: StyleChoice,
    notice: str,
    synthetic: bool = False,
    uid_seed: str = "",
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> HospitalSummary:
    """Write one hospital to ``out/<name>``, whole or not at all.

    Images stream: what is kept of each is a count, and eight bytes per patient.

    Args:
        out: Parent folder; made if it is missing.
        name: Lower-case letters, digits and hyphens.
        records: The images. Errors that it raises pass through, and nothing is kept.
        style: The scanner, or a function that chooses one for each image.
        notice: Text of the NOTICE file.
        synthetic: A program drew the images; see `DicomWriter`.
        uid_seed: Parts the UIDs of two data sets; equal arguments give equal bytes.
        force: Replace a hospital of that name.
        on_progress: Called after every image.

    Raises:
        ConfigError: A bad name, or something is there already.
        DataError: The disk is full.
    """
    check_name(name)
    with staged_folders(out, [name], force=force, may_replace=is_hospital) as staged:
        with HospitalWriter(
            staged.path(name),
            name=name,
            style=style,
            notice=notice,
            synthetic=synthetic,
            uid_seed=uid_seed,
        ) as writer:
            for record in records:
                writer.add(record)
                if on_progress is not None:
                    on_progress(1)
        return writer.summary(out / name)


def is_hospital(folder: Path) -> bool:
    """Say whether ``folder`` looks like a hospital that was written here."""
    return (folder / "site.yaml").is_file() and (folder / "labels.csv").is_file()


def check_name(name: str) -> None:
    """Refuse a hospital's name that can't be a folder and a site name.

    Raises:
        ConfigError: Not 1 to 63 lower-case letters, digits and hyphens.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(
            f"'{name}' as the name of a hospital",
            expected="1 to 63 lower-case letters, digits and hyphens, a letter or digit first",
            next_step="Give such a name with --name.",
        )


class HospitalWriter:
    """Writes images into a hospital's folder as they come; `site.yaml` is written last."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        style: StyleChoice,
        notice: str,
        synthetic: bool,
        uid_seed: str,
    ) -> None:
        """Prepare an existing, empty folder; see `write_hospital`."""
        self._folder = folder
        self._name = name
        self._style = style
        self._notice = notice
        self._synthetic = synthetic
        self._prefix = "Synthetic hospital " if synthetic else ""
        self._dicom = DicomWriter(
            institution=(self._prefix + name)[:64], uid_seed=uid_seed, synthetic=synthetic
        )
        self._labels: Counter[str] = Counter()
        self._patients: set[int] = set()
        self._folders: set[Path] = set()
        self._table: TextIO | None = None

    def __enter__(self) -> "HospitalWriter":
        self._table = (self._folder / "labels.csv").open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._table, lineterminator="\n")
        self._rows.writerow(["sop_instance_uid", "label"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._table is not None
        self._table.close()
        if kind is not None:
            return
        (self._folder / "images").mkdir(exist_ok=True)
        (self._folder / "NOTICE").write_text(self._notice.rstrip("\n") + "\n", encoding="utf-8")
        site = _SITE_YAML.format(name=json.dumps(self._name), synthetic=json.dumps(self._synthetic))
        (self._folder / "site.yaml").write_text(site, encoding="utf-8")

    def add(self, record: ImageRecord) -> None:
        """Write one image and its row of the label table.

        Raises:
            ValueError: The pixels do not fit the style.
        """
        style = self._style if isinstance(self._style, ScannerStyle) else self._style(record)
        number = self._labels.total() + 1
        uids, content = self._dicom.encode(record, style, number=number)
        path = self._folder / "images" / _place(style.nesting, uids, number)
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders = {path.parent}
        path.write_bytes(content)
        label = " ".join(record.label.split())  # a site reads a row per line
        self._rows.writerow([uids.sop_instance_uid, label])
        self._labels[label] += 1
        self._patients.add(hash(patient_id_of(record.patient)))

    def summary(self, path: Path) -> HospitalSummary:
        """Return what was written so far, for a hospital that will stand at ``path``."""
        return HospitalSummary(
            name=self._name,
            path=path,
            n_images=self._labels.total(),
            n_patients=len(self._patients),
            labels=dict(sorted(self._labels.items())),
        )


def _place(nesting: Nesting, uids: WrittenImage, number: int) -> Path:
    """Return the path of an image below `images`, without any id of the patient."""
    study = uids.study_instance_uid.removeprefix("2.25.")
    series = uids.series_instance_uid.removeprefix("2.25.")
    match nesting:
        case "media":
            return Path(f"PA{study[:8]}", f"SE{series[:6]}", f"IM{number:06d}")
        case "uid":
            return Path(study, series, f"{uids.sop_instance_uid}.dcm")
        case "hashed":
            name = f"{int(uids.sop_instance_uid.removeprefix('2.25.')):032x}"
            return Path(name[:2], name[2:4], f"{name}.dcm")
