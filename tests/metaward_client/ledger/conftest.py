import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for ledger_faults

from ledger_faults import Place, new_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A ledger without rounds, and its witness in another folder."""
    return new_place(tmp_path)


@pytest.fixture(autouse=True)
def _state_stays_in_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))
