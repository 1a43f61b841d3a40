import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for ledger_place

from ledger_faults import CountingDisk
from ledger_place import Place, new_place
from ledger_scenario import ANSWERS_KEPT, Seen, scenario
from ledger_site import new_site, only_these_commands

from metaward import cli
from metaward_client.privacy.ledger import state as state_module


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A ledger without rounds, and its witness in another folder."""
    return new_place(tmp_path)


@pytest.fixture(autouse=True)
def _state_stays_in_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))


@pytest.fixture
def two_answers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "REPLIES_KEPT", ANSWERS_KEPT)


@pytest.fixture(scope="session")
def effects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The effects of the scenario, in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_module, "REPLIES_KEPT", ANSWERS_KEPT)
        disk = CountingDisk()
        scenario(new_place(tmp_path_factory.mktemp("count"), made=False), Seen().told, disk)
    return disk.effects


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hospital that has no ledger yet, and whose commands are the site's alone."""
    only_these_commands(monkeypatch)
    return new_site(tmp_path / "north")


@pytest.fixture
def ready(site: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A hospital with an empty ledger."""
    assert cli.run(["site", "ledger", "create", str(site)]) == 0
    capsys.readouterr()
    return site
