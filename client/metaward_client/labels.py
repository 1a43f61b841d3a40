"""The label table: read it, and answer which label an image has, and from which rows.

A row is a line, and rows are counted as a spreadsheet shows them: the header is row 1. Each is read
by itself, so that one that cannot be read costs itself alone: a quotation that went on over line
ends would let one patient's row swallow those of others.
"""

import csv
import difflib
import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from metaward.errors import ConfigError, DataError
from metaward_client.patients import comparable_id
from metaward_client.site_config import LabelKey
from metaward_client.unicode_form import one_form

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")
KNOWN_NAMES = (*get_args(LabelKey), "label")
"""Names of columns that may be shown: they are ours, not the table's."""
DELIMITERS = b",;\t"
"""Spreadsheets in much of Europe write semicolons into a CSV."""


@dataclass(frozen=True)
class LabelTable:
    """A label table, by key.

    Attributes:
        labels_of: key -> label -> rows that say so. More than one label is a contradiction.
        n_rows: Rows below the header, empty ones not counted.
        incomplete_rows: Rows without a key or without a label.
        unreadable_rows: Rows that are not UTF-8, or with a quotation that does not end.
        spellings: The keys of ``labels_of`` as the table writes them.
    """

    labels_of: dict[str, dict[str, list[int]]]
    n_rows: int
    incomplete_rows: tuple[int, ...]
    unreadable_rows: tuple[int, ...] = ()
    spellings: frozenset[str] = frozenset()


def read_label_table(path: Path, *, key: LabelKey, label: str) -> LabelTable:
    """Read a label table.

    Args:
        path: A CSV in UTF-8, with or without byte order mark; comma, semicolon or tab; a row per
            line.
        key: Column that names the image; ``SOPInstanceUID`` is accepted for ``sop_instance_uid``.
        label: Column that holds the label.

    Raises:
        ConfigError: There is no such file, or no such column.
        DataError: The header cannot be read. A row that cannot be is counted.
    """
    first, *lines = _LINE_END.split(_content(path).removeprefix(BYTE_ORDER_MARK))
    delimiter = _delimiter(first, key, label)
    header = _header(path, first, delimiter)
    key_column, label_column = _columns(path, header, key, label)
    labels_of: dict[str, dict[str, list[int]]] = {}
    incomplete: list[int] = []
    unreadable: list[int] = []
    spellings: set[str] = set()
    n_rows = 0
    for number, line in enumerate(lines, start=2):
        cells = _cells(line, delimiter)
        if cells is not None and not any(cell.strip() for cell in cells):
            continue
        n_rows += 1
        if cells is None:
            unreadable.append(number)
            continue
        name, value = _cell(cells, key_column), _cell(cells, label_column)
        if not name or not value:
            incomplete.append(number)
            continue
        spellings.add(name)
        labels = labels_of.setdefault(comparable_key(key, name), {})
        labels.setdefault(one_form(value), []).append(number)
    return LabelTable(labels_of, n_rows, tuple(incomplete), tuple(unreadable), frozenset(spellings))


def comparable_key(key: LabelKey, value: str) -> str:
    """Return a key as it is compared: blanks, case of patient IDs, slashes of paths."""
    value = value.strip("\0 \t")
    if key == "patient_id":
        return comparable_id(value)
    if key == "path":
        parts = one_form(value).replace("\\", "/").split("/")
        return "/".join(part for part in parts if part not in ("", "."))
    return value


def _cell(cells: Sequence[str], column: int) -> str:
    return cells[column].strip() if column < len(cells) else ""


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        raise ConfigError(
            "the label table may not be read by this user",
            where=f"data.labels ({path})",
            next_step="Give this user read permission.",
        ) from None
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise ConfigError(
            _NO_FILE[error.errno],
            expected="a label table (CSV)",
            where=f"data.labels ({path})",
            next_step="Correct data.labels; a relative path starts at the folder of site.yaml.",
        ) from None


_NO_FILE = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EISDIR: "a folder, not a file",
    errno.ELOOP: "links that lead to one another",
}
"""What the operating system's errors say of a path that is no label table."""


def _cells(line: bytes, delimiter: str) -> list[str] | None:
    """Return the cells of a line; None where it is not text, or a quotation does not end in it."""
    try:
        text = line.decode("utf-8")
        cells = next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except (UnicodeDecodeError, csv.Error):  # their texts may quote the line
        return None
    return None if "\0" in text else cells


def _delimiter(line: bytes, key: LabelKey, label: str) -> str:
    """Return what parts a header row into columns that hold key and label.

    The most frequent sign may be inside a name: `patient_id;Finding (yes, no, unclear);label`.
    Where none gives both columns, it is the most frequent one.
    """
    by_number = sorted(map(chr, DELIMITERS), key=lambda sign: -line.count(sign.encode()))
    for delimiter in by_number:
        if all(_places([cell.strip() for cell in _cells(line, delimiter) or ()], key, label)):
            return delimiter
    return by_number[0]


def _header(path: Path, line: bytes, delimiter: str) -> list[str]:
    cells = _cells(line, delimiter)
    if cells is None:
        raise DataError(
            "a header row that is not UTF-8, or with a quotation that does not end",
            expected="a CSV in UTF-8, a row per line",
            where=f"{path}, row 1",
            next_step='Save the table as "CSV UTF-8" and scan again.',
        )
    return [cell.strip() for cell in cells]


def _columns(path: Path, header: list[str], key: LabelKey, label: str) -> tuple[int, int]:
    """Return the indices of key and label, or say what is wrong with the header."""
    of_key, of_label = _places(header, key, label)
    for setting, wanted, there, other in (
        ("data.key", key, of_key, label if of_label else None),
        ("data.label", label, of_label, key if of_key else None),
    ):
        if len(there) != 1:
            raise _wrong_columns(path, header, setting, wanted, len(there), other)
    return of_key[0], of_label[0]


def _places(header: list[str], key: LabelKey, label: str) -> tuple[list[int], list[int]]:
    """Return the indices of the columns that have the key's name, and the label's."""
    of_key = [i for i, name in enumerate(header) if name == key]
    if not of_key:
        of_key = [i for i, name in enumerate(header) if _letters(name) == _letters(key)]
    return of_key, [i for i, name in enumerate(header) if name == label]


def _wrong_columns(
    path: Path, header: list[str], setting: str, wanted: str, n_there: int, other: str | None
) -> ConfigError:
    """Say which columns are missing or double, and quote no cell but what site.yaml asks for.

    Where the header row is missing, row 1 is a patient's.

    Args:
        path: The table.
        header: Cells of row 1.
        setting: Where the name comes from.
        wanted: The name.
        n_there: How many columns have it.
        other: The other name that site.yaml gives, if it is there.
    """
    found = f"{n_there or 'no'} column{'s' if n_there else ''} named '{wanted}'"
    if not header:
        found += "; row 1 is empty"
    elif not n_there:
        like = _like(wanted, header)
        found += f" among {len(header)}" + (f" (did you mean column {like}?)" if like else "")
        found += f"; '{other}' is there" if other else "; the key and the label are both missing"
    return ConfigError(
        found,
        expected=f"a header row with one column of the name that {setting} gives",
        where=f"{path}, row 1",
        next_step=f"Correct {setting} in site.yaml, or the header of the table"
        + ("." if other or n_there else "; if the table has no header row, give it one."),
    )


def _like(wanted: str, header: list[str]) -> str:
    """Return the number of the column with the most similar name, and the name if it is known."""
    same = [name for name in header if _letters(name) == _letters(wanted)]
    near = (same or difflib.get_close_matches(wanted, header, n=1))[:1]
    if not near:
        return ""
    known = near[0] in KNOWN_NAMES
    return f"{header.index(near[0]) + 1}" + (f", '{near[0]}'" if known else "")


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
