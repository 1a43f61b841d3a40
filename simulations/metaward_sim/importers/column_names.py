"""Find a column by the name that the user gave, or by the names that people use."""

import difflib
from collections.abc import Collection, Sequence

from metaward.errors import ConfigError

LABEL_NAMES = ("label", "labels", "y", "target", "targets", "class", "diagnosis", "dx", "finding")
PATIENT_NAMES = (
    "patient", "patients", "patient_id", "patientid", "subject", "subjects", "subject_id",
    "person_id", "case_id", "lesion_id",
)  # fmt: skip
SITE_NAMES = ("site", "hospital", "center", "centre", "institution", "site_id", "hospital_id")
IMAGE_ARRAY_NAMES = ("images", "image", "x", "data", "imgs", "pixels")
PATH_NAMES = (
    "path", "file", "filename", "file_name", "filepath", "image_path", "image", "img", "image_id",
)  # fmt: skip


def find_column(
    columns: Collection[str],
    wanted: str | None,
    usual: Sequence[str],
    *,
    option: str,
    where: str,
    required: bool = False,
) -> str | None:
    """Return the column called ``wanted``, or else the first that has a usual name.

    Args:
        columns: Names that there are.
        wanted: What the user asked for; None to go by the usual names, in any letter case.
        usual: Names that people use for it, best first, in lower case.
        option: The option that names it, for the message.
        where: The file, for the message.
        required: Refuse to go on without it.

    Raises:
        ConfigError: ``wanted`` is not there; or nothing fits and it is required.
    """
    if wanted is not None:
        if wanted in columns:
            return wanted
        near = difflib.get_close_matches(wanted, list(columns), n=1)
        raise ConfigError(
            f"no column '{wanted}'" + (f" (did you mean '{near[0]}'?)" if near else ""),
            expected=f"one of {listed(columns)}",
            where=where,
            next_step=f"Correct {option}.",
        )
    by_lower_name = {name.lower(): name for name in reversed(list(columns))}
    for name in usual:
        if name in by_lower_name:
            return by_lower_name[name]
    if not required:
        return None
    raise ConfigError(
        f"no column with a usual name ({', '.join(usual[:5])}, ...)",
        expected=f"one of {listed(columns)}" if columns else "a column or array beside the images",
        where=where,
        next_step=f"Name it with {option}." if columns else "Save it in the same file.",
    )


def listed(names: Collection[str], limit: int = 20) -> str:
    """Join names for a message: quoted, with commas, cut after ``limit``."""
    shown = ", ".join(f"'{name}'" for name in list(names)[:limit]) or "(none)"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
