"""Columns as text: numbers through their names, text stripped, what is missing as ``""``."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metaward.errors import DataError
from metaward.report.wording import counted
from metaward_sim.importers.column_names import listed


def texts(values: NDArray[np.generic], names: Sequence[str], *, where: str) -> list[str]:
    """Return one text per value; a number is looked up in ``names`` if there are any.

    NaN and empty text give ``""``.

    Raises:
        DataError: Several values per image, text that is not UTF-8, a number that is not whole,
            or a number without a name.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(
            f"{values.shape[1]} values for each image",
            expected="one",
            where=where,
            next_step="Save the column that you want as an array of its own.",
        )
    match values.dtype.kind:
        case "U":
            return [str(value).strip() for value in values]
        case "S":
            return _decoded(values, where)
        case "b" | "i" | "u" | "f":
            return _numbers(values, names, where)
        case _:
            raise DataError(
                f"values of type {values.dtype}",
                expected="numbers or text",
                where=where,
                next_step="Save the array again with array.astype(str), or name another one.",
            )


def label_texts(
    values: NDArray[np.generic], names: Sequence[str], *, where: str
) -> tuple[list[str], str]:
    """Return the label of each image, and how it was read, as the end of a sentence.

    One-hot rows are read as the position of their one; see `texts` for the rest.

    Raises:
        DataError: As `texts`; or several findings for one image.
    """
    how = ""
    if values.ndim == 2 and values.shape[1] > 1:
        table = values.astype(np.float64) if values.dtype.kind in "biuf" else None
        one_hot = table is not None and np.isin(table, (0, 1)).all() and (table.sum(1) == 1).all()
        if not one_hot:
            raise DataError(
                f"{values.shape[1]} label values for each image (several findings at once)",
                expected="one label for each image",
                where=where,
                next_step="Save one finding as an array of its own, and import that.",
            )
        values, how = values.argmax(1), " (one-hot)"
    labels = texts(values, names, where=where)
    if values.dtype.kind in "US":
        return labels, how
    if names:
        return labels, f"{how}, named {listed(names, 12)}"
    return labels, f"{how}, numbers without names (give --label-names to name them)"


def columns_that_repeat(columns: Mapping[str, NDArray[np.generic]]) -> list[str]:
    """Return the columns that may tell patients apart, though their name does not say so.

    That is: fewer different values than images (one per image would be a file name), but more
    than 20 and more than one in a hundred images (few would be a site or a label).
    """
    found = []
    for name, values in columns.items():
        if values.ndim == 1 and values.dtype.kind in "USiu":
            n_different = len(np.unique(values))
            if max(20, len(values) / 100) < n_different < len(values):
                found.append(name)
    return found


def _decoded(values: NDArray[np.generic], where: str) -> list[str]:
    try:
        return [bytes(value).decode("utf-8").strip() for value in values.tolist()]
    except UnicodeDecodeError:
        raise DataError(
            "text that is not UTF-8",
            expected="UTF-8 text",
            where=where,
            next_step="Save the array again with array.astype(str).",
        ) from None


def _numbers(values: NDArray[np.generic], names: Sequence[str], where: str) -> list[str]:
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    whole = values[~missing]
    if not (np.isfinite(whole).all() and (whole == np.rint(whole)).all()):
        raise DataError(
            "numbers that are not whole",
            expected="whole numbers or text",
            where=where,
            next_step="Name the array that holds the labels, patients or sites.",
        )
    if names and len(whole) and not (whole.min() >= 0 and whole.max() < len(names)):
        raise DataError(
            f"numbers from {int(whole.min())} to {int(whole.max())}, but "
            f"{counted(len(names), 'name')}",
            expected="a name for each number from 0",
            where=where,
            next_step="Give all names with --label-names, in the order of the numbers.",
        )
    return [
        "" if gap else names[int(value)] if names else str(int(value))
        for value, gap in zip(values.tolist(), missing, strict=True)
    ]
