import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # for dicom_factory


@pytest.fixture(autouse=True)
def _caches_stay_in_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
