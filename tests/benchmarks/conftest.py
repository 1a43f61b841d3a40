"""What the tests of the benchmarks share: their folders on the path, and a tiny Omniglot."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[2] / "scripts"))
sys.path.append(str(Path(__file__).parent))

from tiny_omniglot import write_archives

from omniglot.characters import load_characters
from omniglot.episodes import Classes, both_sides


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny Omniglot in the form of the public archives."""
    return write_archives(tmp_path_factory.mktemp("omniglot"))


@pytest.fixture(scope="session")
def sides(archives: Path) -> tuple[Classes, Classes]:
    """Return its classes to train on, and those to test on."""
    characters = load_characters(archives)
    return both_sides(characters, characters.cut("background"))
