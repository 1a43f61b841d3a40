"""Decide which images go to which hospital, under which patient."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from metaward.errors import ConfigError, DataError
from metaward.report.wording import counted
from metaward_sim.dicom_writer import patient_id_of
from metaward_sim.hospital_folder import NAME_PATTERN
from metaward_sim.importers.image_source import ImageSource

SharedPatients: TypeAlias = Literal["one-site", "separate"]
"""A patient id at several sites: one person, kept at one site; or ids numbered anew per site."""

MAX_SITES = 200
MISSING = frozenset({"", "nan", "NaN", "<NA>"})
"""Texts of a missing value: the last three are what numpy, csv and pandas make of one."""
NO_PATIENT_COLUMN = (
    "no patient column: every image counts as one patient; if several images are of one patient, "
    "name the column, or scores will be too good"
)


@dataclass(frozen=True)
class Selection:
    """The images to write.

    Attributes:
        rows: Rows of the source, ascending.
        hospitals: For each row, the name of its hospital.
        patients: For each row, its patient's id.
        remarks: What was decided or left out, one sentence each, for the user.
    """

    rows: tuple[int, ...]
    hospitals: tuple[str, ...]
    patients: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    index: int
    hospital: str
    patient: str


def select(
    source: ImageSource,
    *,
    name: str | None,
    fallback_name: str,
    shared_patients: SharedPatients,
    max_images: int | None,
    seed: int,
) -> Selection:
    """Choose rows, hospitals and patients.

    Args:
        source: What the importer found.
        name: Name of the hospital; with several sites, the beginning of each name.
        fallback_name: Name where the source has no sites and ``name`` is None.
        shared_patients: What to do about a patient id that stands at several sites.
        max_images: Take at most so many images, whole patients in random order.
        seed: Seed of that order.

    Raises:
        ConfigError: ``max_images`` below 1.
        DataError: Nothing is left, too many sites, or two sites that would have one name.
    """
    rows, remarks = _complete_rows(source, name, fallback_name)
    if source.patients is None:
        remarks.append(NO_PATIENT_COLUMN)
    elif shared_patients == "separate":
        rows = [_Row(row.index, row.hospital, f"{row.hospital}-{row.patient}") for row in rows]
    else:
        rows, remark = _one_site_per_patient(rows)
        remarks += remark
    if max_images is not None and max_images < len(rows):
        n_all = len(rows)
        rows = _whole_patients(rows, max_images, seed)
        remarks.append(
            f"{len(rows)} of {n_all} images, a random subset by whole patients (seed {seed})"
        )
    if not rows:
        raise DataError(
            "no image is left",
            expected="images with a label, and with a site and a patient where those are named",
            next_step="Check the columns, or raise --max-images.",
        )
    return Selection(
        rows=tuple(row.index for row in rows),
        hospitals=tuple(row.hospital for row in rows),
        patients=tuple(row.patient for row in rows),
        remarks=tuple(remarks),
    )


def slug(text: str) -> str:
    """Return a text as the name of a hospital: lower case, hyphens for all else.

    >>> slug("vidir_modern")
    'vidir-modern'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].rstrip("-")


def _complete_rows(
    source: ImageSource, name: str | None, fallback_name: str
) -> tuple[list[_Row], list[str]]:
    """Return the rows that have all that is needed, and how many have not."""
    hospital_of = _hospital_names(source, name, fallback_name)
    missing: Counter[str] = Counter()
    rows: list[_Row] = []
    for index, label in enumerate(source.labels):
        site = source.sites[index] if source.sites is not None else ""
        hospital = hospital_of.get(site)
        patient = source.patients[index] if source.patients is not None else f"{index:07d}"
        if label in MISSING:
            missing["label"] += 1
        elif hospital is None:
            missing["site"] += 1
        elif patient in MISSING:
            missing["patient"] += 1
        else:
            alone = source.patients is None
            rows.append(_Row(index, hospital, f"{hospital}-{patient}" if alone else patient))
    remarks = [
        f"left out: {counted(n, 'image')} without a {what}" for what, n in sorted(missing.items())
    ]
    return rows, remarks


def _hospital_names(source: ImageSource, name: str | None, fallback_name: str) -> dict[str, str]:
    """Return site value -> name of its hospital; the empty value only where there are no sites."""
    if source.sites is None:
        return {"": name or slug(fallback_name) or "hospital"}
    sites = sorted(set(source.sites) - MISSING)
    if len(sites) > MAX_SITES:
        raise DataError(
            f"{len(sites)} different sites",
            expected=f"a site column with one value per hospital, at most {MAX_SITES}",
            next_step="Name another column with --site-column.",
        )
    names = {site: slug(f"{name}-{site}" if name else site) for site in sites}
    for site, hospital in names.items():
        if not NAME_PATTERN.fullmatch(hospital):
            raise DataError(
                f"a site called '{site}'",
                expected="names with at least one letter or digit",
                next_step="Give the site a name in plain letters.",
            )
    twice = [name for name, n in Counter(names.values()).items() if n > 1]
    if twice:
        same = sorted(site for site, hospital in names.items() if hospital == twice[0])
        raise DataError(
            f"the sites {', '.join(repr(site) for site in same)} would both be '{twice[0]}'",
            expected="names that differ in letters or digits",
            next_step="Give the sites names that differ.",
        )
    return names


def _one_site_per_patient(rows: Sequence[_Row]) -> tuple[list[_Row], list[str]]:
    """Keep a patient's images at the site that has most of them, so that no one is at two."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[_as_read(row.patient)][row.hospital] += 1
    home = {
        patient: min(sites, key=lambda site: (-sites[site], site))
        for patient, sites in counts.items()
    }
    kept = [row for row in rows if home[_as_read(row.patient)] == row.hospital]
    n_shared = sum(len(sites) > 1 for sites in counts.values())
    if not n_shared:
        return kept, []
    return kept, [
        f"{counted(n_shared, 'patient id')} at more than one site: each is kept where it has most "
        f"images, {counted(len(rows) - len(kept), 'image')} left out elsewhere; if every site "
        "numbers its patients anew, give --shared-patients separate"
    ]


def _as_read(patient: str) -> str:
    """Return an id as a site compares it: as DICOM holds it, without regard to letter case."""
    return patient_id_of(patient).upper()


def _whole_patients(rows: Sequence[_Row], max_images: int, seed: int) -> list[_Row]:
    """Take patients in random order as long as all of a patient's images still fit."""
    if max_images < 1:
        raise ConfigError(f"{max_images} images", expected="1 or more", where="--max-images")
    images_of: dict[tuple[str, str], list[_Row]] = defaultdict(list)
    for row in rows:
        images_of[row.hospital, row.patient].append(row)
    patients = list(images_of.values())
    chosen: list[_Row] = []
    for index in np.random.default_rng(seed).permutation(len(patients)):
        if len(chosen) + len(patients[index]) <= max_images:
            chosen += patients[index]
    return sorted(chosen, key=lambda row: row.index)
