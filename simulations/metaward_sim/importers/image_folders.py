"""Import folders of PNG and JPEG pictures: CLASS/picture.png, or SITE/CLASS/picture.png."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaward.errors import ConfigError, DataError
from metaward_sim.image_record import Pixels
from metaward_sim.importers.column_names import listed
from metaward_sim.importers.image_source import ColumnChoice, ImageSource
from metaward_sim.importers.picture import SUFFIXES, read_picture

SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Folders of these names part a data set for machine learning; they are no hospitals."""


def read_image_folders(root: Path, choice: ColumnChoice) -> ImageSource:
    """Find pictures one or two levels below ``root``.

    Raises:
        ConfigError: A column was named: folders have none.
        DataError: No pictures, pictures at mixed depths, or a folder that can't be read.
    """
    _refuse_columns(choice, root)
    found = _Pictures.below(root)
    two_levels = found.by_depth.get(2, ())
    pictures = list(two_levels or found.by_depth.get(1, ()))
    _check_depths(found, root)
    tops = sorted({picture[0] for picture in two_levels})
    split = bool(two_levels) and {top.lower() for top in tops} <= SPLIT_NAMES
    if split:
        taken = [f"splits joined: folders {listed(tops, 12)}"]
    else:
        taken = [f"sites: folders {listed(tops, 12)}"] if two_levels else []
    labels = [picture[-2] for picture in pictures]
    taken.insert(0, f"images: {len(pictures)} PNG or JPEG pictures")
    taken.append(f"labels: folders {listed(sorted(set(labels)), 12)}")
    if found.other_files:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(found.other_files.items()))
        taken.append(f"left out: files of other kinds ({kinds})")

    def read_pixels(rows: Sequence[int]) -> Iterator[Pixels]:
        for row in rows:
            *_, label, name = pictures[row]
            where = f"{root}, label '{label}', picture {row + 1} of {len(pictures)}"
            yield read_picture(root.joinpath(*pictures[row][:-1], name), where=where)

    return ImageSource(
        labels=labels,
        patients=None,
        sites=[picture[0] for picture in two_levels] if two_levels and not split else None,
        read_pixels=read_pixels,
        taken=tuple(taken),
        row_noun="picture",
    )


@dataclass(frozen=True)
class _Pictures:
    """Pictures as their path's parts below the root, in order, by number of folders above."""

    by_depth: dict[int, list[tuple[str, ...]]]
    other_files: Counter[str]

    @classmethod
    def below(cls, root: Path) -> "_Pictures":
        by_depth: dict[int, list[tuple[str, ...]]] = {}
        others: Counter[str] = Counter()
        for folder, folders, files in os.walk(root, onerror=_refuse_folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            above = Path(folder).relative_to(root).parts
            for name in sorted(files):
                suffix = Path(name).suffix.lower()
                if name.startswith("."):
                    continue
                if suffix in SUFFIXES:
                    by_depth.setdefault(len(above), []).append((*above, name))
                else:
                    others[suffix or "without extension"] += 1
        return cls(by_depth, others)


def _check_depths(found: _Pictures, root: Path) -> None:
    depths = {depth: len(pictures) for depth, pictures in sorted(found.by_depth.items())}
    if len(depths) == 1 and (1 in depths or 2 in depths):
        return
    if depths:
        what = ", ".join(f"{n} pictures under {depth} folders" for depth, n in depths.items())
    else:
        what = "no PNG or JPEG pictures"
    raise DataError(
        what,
        expected="all pictures as CLASS/picture.png, or all as SITE/CLASS/picture.png",
        where=str(root),
        next_step="Move the pictures, or list them in a table: metaward data import TABLE.csv.",
    )


def _refuse_columns(choice: ColumnChoice, root: Path) -> None:
    if choice != ColumnChoice():
        raise ConfigError(
            "an option that names a column, an array or labels",
            expected="none: the folders name the labels and the sites",
            where=str(root),
            next_step="Leave it out, or list the pictures in a table with such columns.",
        )


def _refuse_folder(error: OSError) -> None:
    raise DataError(
        f"a folder in it can't be read ({error.strerror})",
        next_step="Check the permissions of the folders.",
    )
