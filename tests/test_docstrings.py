"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("common/metaward", "client/metaward_client", "server/metaward_server",
            "simulations/metaward_sim")  # fmt: skip


def modules() -> list[str]:
    """Return the modules that hold an example."""
    return [
        ".".join(path.relative_to(ROOT / package.partition("/")[0]).with_suffix("").parts)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if ">>>" in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", modules())
def test_an_example_gives_what_it_says(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0
    assert done.failed == 0
