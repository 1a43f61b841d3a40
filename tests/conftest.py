"""What tests of several packages share: the tests' own modules, and one tiny simulated run."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from tiny_run import TinyRun, simulate_tiny


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Run the tiny scenario once, with ``--json``; tests read it and change nothing in it."""
    return simulate_tiny(tmp_path_factory.mktemp("tiny") / "run", "--json")
