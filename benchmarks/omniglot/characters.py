"""Read Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn once by 20 people.

Lake, Salakhutdinov and Tenenbaum 2015, Science 350:1332; https://github.com/brendenlake/omniglot.
Two forms are read:

- the public archives `images_background.zip` (964 characters) and `images_evaluation.zip` (659), in
  one folder as they come: `images_background/ALPHABET/CHARACTER/NNNN_DRAWER.png`, ink black;
- one `.npz` of them at 28 pixels: `images` uint8 (n, 28, 28) with ink white, `character` (n,) an
  index into `character_names` (`ALPHABET/CHARACTER`), and `is_evaluation` (n,) bool.

Characters come in one order whatever the form: background before evaluation, each by name. The
split that Vinyals et al. 2016 used, as Snell et al. 2017 published it, is a cut in that order: the
first 1,200 characters are trained on (1,028 and 172 for validation, merged), the last 423 tested.
Alphabets are on both sides of it. The split of Lake et al., between background and evaluation,
tests on alphabets that nobody trained on, and is harder.
"""

import io
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaward.errors import DataError

SIZE = 28
"""Pixels, height and width, as in all the papers of the table."""
ARCHIVES = ("images_background.zip", "images_evaluation.zip")
FILE_28 = "omniglot_28.npz"
TRAINED_ON = 1200
"""Characters of the Vinyals split that are trained on; the rest is tested on."""

Split: TypeAlias = Literal["vinyals", "background"]


@dataclass(frozen=True)
class Characters:
    """Drawings of characters.

    Attributes:
        images: (n_characters, n_drawers, 28, 28) uint8, ink 255 and paper 0.
        names: `ALPHABET/CHARACTER` of each.
        n_background: Characters of the background set; they come first.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]
    n_background: int

    def cut(self, split: Split) -> int:
        """Return how many characters, from the first on, are trained on."""
        return TRAINED_ON if split == "vinyals" else self.n_background


def load_characters(path: Path) -> Characters:
    """Read a folder with the two archives, or with the `.npz`, or that file itself.

    Raises:
        DataError: Neither is there, or characters differ in the number of their drawings.
    """
    file = path / FILE_28 if path.is_dir() else path
    if file.suffix == ".npz" and file.is_file():
        return _from_npz(file)
    archives = [path / name for name in ARCHIVES]
    if all(archive.is_file() for archive in archives):
        return _in_order([_from_zip(archive) for archive in archives], path)
    raise DataError(
        f"no Omniglot at {path}",
        expected=f"a folder with {' and '.join(ARCHIVES)}, or {FILE_28}",
        where=str(path),
        next_step="See docs/paper-tables.md for where to get it.",
    )


Drawings: TypeAlias = dict[str, list[NDArray[np.uint8]]]
"""`ALPHABET/CHARACTER` -> its drawings, by drawer."""


def _from_npz(path: Path) -> Characters:
    with np.load(path, allow_pickle=False) as file:
        images, character, evaluation, names = (
            file[key] for key in ("images", "character", "is_evaluation", "character_names")
        )
    sets: list[Drawings] = []
    for of_evaluation in (False, True):
        found: Drawings = defaultdict(list)
        for row in np.flatnonzero(evaluation == of_evaluation):
            found[str(names[character[row]])].append(images[row])
        sets.append(found)
    return _in_order(sets, path)


def _from_zip(path: Path) -> Drawings:
    found: Drawings = defaultdict(list)
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            file = PurePosixPath(name)
            if file.suffix == ".png" and not file.name.startswith("."):
                drawing = shrunk(Image.open(io.BytesIO(archive.read(name))))
                found["/".join(file.parts[-3:-1])].append(drawing)
    return found


def shrunk(picture: Image.Image) -> NDArray[np.uint8]:
    """Return (28, 28) uint8 with ink 255, from a picture with black ink."""
    small = picture.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return 255 - np.asarray(small, dtype=np.uint8)


def _in_order(sets: list[Drawings], path: Path) -> Characters:
    names = [name for found in sets for name in sorted(found)]
    drawings = [found[name] for found in sets for name in sorted(found)]
    counts = {len(of_one) for of_one in drawings}
    if len(counts) != 1:
        raise DataError(
            f"characters with {', '.join(map(str, sorted(counts))) or 'no'} drawings",
            expected="as many drawings of each character",
            where=str(path),
            next_step="Get the archives again: one of them is not whole.",
        )
    return Characters(np.asarray(drawings), tuple(names), len(sets[0]))
