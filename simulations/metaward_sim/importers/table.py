"""Import a table (CSV) that lists pictures: path, label and, if there are any, site and patient."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaward.errors import ConfigError, DataError
from metaward_sim.image_record import Pixels
from metaward_sim.importers.column_names import (
    LABEL_NAMES,
    PATH_NAMES,
    PATIENT_NAMES,
    SITE_NAMES,
    find_column,
)
from metaward_sim.importers.image_source import ColumnChoice, ImageSource
from metaward_sim.importers.picture import SUFFIXES, read_picture


def read_table(path: Path, choice: ColumnChoice, *, image_root: Path | None) -> ImageSource:
    """Find the columns of a table, and check that every picture that it lists is there.

    Args:
        path: A CSV file: UTF-8, with a header; comma, semicolon or tab.
        choice: Columns by name; ``images`` names the column of paths.
        image_root: Folder that the paths start from; None for the table's own folder. A path
            may leave its extension (.png, .jpg, .jpeg) out.

    Raises:
        ConfigError: A column that was named is not there, or no column has a usual name.
        DataError: The table is malformed, a picture is missing or outside ``image_root``, or
            one picture has two labels.
    """
    if choice.label_names:
        raise ConfigError(
            "--label-names for a table",
            expected="label names in the table's own column",
            where=str(path),
            next_step="Leave --label-names out; it names the numbers of an .npz.",
        )
    table = _Table.read(path)
    where = str(path)
    paths = find_column(
        table.header, choice.images, PATH_NAMES, option="--path-column", where=where,
        required=True,
    )  # fmt: skip
    label = find_column(
        table.header, choice.label, LABEL_NAMES, option="--label-column", where=where,
        required=True,
    )  # fmt: skip
    patient = find_column(
        table.header, choice.patient, PATIENT_NAMES, option="--patient-column", where=where
    )
    site = find_column(table.header, choice.site, SITE_NAMES, option="--site-column", where=where)
    assert paths is not None
    assert label is not None
    labels = table.column(label)
    root = (image_root or path.parent).resolve()
    pictures = [
        _picture_path(root, name, f"{path}, row {row}")
        for row, name in zip(table.numbers, table.column(paths), strict=True)
    ]
    _refuse_twice(pictures, table.numbers, path)

    def read_pixels(rows: Sequence[int]) -> Iterator[Pixels]:
        for row in rows:
            yield read_picture(pictures[row], where=f"{path}, row {table.numbers[row]}")

    taken = [f"images: column '{paths}', {len(pictures)} pictures", f"labels: column '{label}'"]
    taken += [f"patients: column '{patient}'"] if patient else []
    taken += [f"sites: column '{site}'"] if site else []
    return ImageSource(
        labels=labels,
        patients=table.column(patient) if patient else None,
        sites=table.column(site) if site else None,
        read_pixels=read_pixels,
        taken=tuple(taken),
        row_noun="row",
    )


@dataclass(frozen=True)
class _Table:
    """Rows of equal length, with the number that each has in the file; the header is row 1."""

    header: list[str]
    rows: list[list[str]]
    numbers: list[int]

    @classmethod
    def read(cls, path: Path) -> "_Table":
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                delimiter = _delimiter(stream.readline())
                stream.seek(0)
                lines = list(csv.reader(stream, delimiter=delimiter, strict=True))
        except (UnicodeDecodeError, csv.Error):
            raise _malformed("not a UTF-8 CSV table", str(path)) from None
        except OSError as error:
            raise _malformed(f"the file can't be read ({error.strerror})", str(path)) from None
        filled = [(number, line) for number, line in enumerate(lines, start=1) if line]
        if len(filled) < 2 or not lines[0]:
            raise _malformed("no rows below a header", str(path))
        header = [name.strip() for name in lines[0]]
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise _malformed(f"the column '{twice[0]}' stands twice", str(path))
        for number, line in filled:
            if len(line) != len(header):
                raise _malformed(
                    f"{len(line)} cells, but {len(header)} columns", f"{path}, row {number}"
                )
        return cls(header, [line for _, line in filled[1:]], [n for n, _ in filled[1:]])

    def column(self, name: str) -> list[str]:
        index = self.header.index(name)
        return [row[index].strip() for row in self.rows]


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _picture_path(root: Path, name: str, where: str) -> Path:
    """Return the file of a picture, which must stand below ``root``."""
    if not name or "\0" in name:
        raise _missing("no path", where)
    for suffix in ("", *SUFFIXES):
        path = Path(f"{root / name}{suffix}")
        try:
            there = path.is_file()
        except OSError:  # Longer than a name can be, or in a folder that can't be read.
            raise _missing("a path that can't be read", where) from None
        if there and not path.resolve().is_relative_to(root):
            raise _missing("a path that leaves the folder of the pictures", where)
        if there:
            return path
    raise _missing("a picture that is not there", where)


def _refuse_twice(pictures: Sequence[Path], rows: Sequence[int], path: Path) -> None:
    first: dict[Path, int] = {}
    for row, picture in zip(rows, pictures, strict=True):
        if first.setdefault(picture, row) != row:
            raise DataError(
                f"the same picture in rows {first[picture]} and {row}",
                expected="one row, and one label, for each picture",
                where=str(path),
                next_step="Remove one of the rows.",
            )


def _missing(found: str, where: str) -> DataError:
    return DataError(
        found,
        expected="the path of a picture below the table's folder, or below --image-root",
        where=where,
        next_step="Correct the row, or name the folder with --image-root.",
    )


def _malformed(found: str, where: str) -> DataError:
    return DataError(
        found,
        expected="a CSV table: UTF-8, one header row, cells parted by comma, semicolon or tab",
        where=where,
        next_step="Save the table again as CSV (UTF-8).",
    )
