import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from metaward_client.site_work import SiteAtWork
    from watched_hospital import Hospital

sys.path.append(str(Path(__file__).parents[1]))  # for dicom_factory


@pytest.fixture(autouse=True)
def _caches_stay_in_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))


@pytest.fixture
def hospital(
    one_thread: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> "Callable[[str], Hospital]":
    """Make hospitals whose every message and line is watched, with a quick accountant."""
    from private_site import TOY
    from watched_hospital import new_hospital

    monkeypatch.setattr("metaward_client.privacy.ledger.ledger.accountant_of_record", lambda: TOY)
    return partial(new_hospital, tmp_path)


@pytest.fixture
def site_of(one_thread: None, tmp_path: Path) -> "Callable[..., SiteAtWork]":
    """Make sites that answer orders, with a log in the test's own folder."""
    from site_orders import site_at_work

    return partial(site_at_work, tmp_path)


@pytest.fixture(scope="session")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital drawn with another seed and called another name than those of the tiny run."""
    from metaward_sim.demo_data import write_demo

    return write_demo(tmp_path_factory.mktemp("new"), hospitals=3, patients=4, seed=77)[2].path
