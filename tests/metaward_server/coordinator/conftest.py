from datetime import UTC, datetime
from pathlib import Path

import pytest

from fake_superlink import FakeSuperLink
from metaward_server.coordinator import hospitals, studies
from metaward_server.coordinator.home import Coordinator, CoordinatorSettings, create


@pytest.fixture
def superlink(monkeypatch: pytest.MonkeyPatch) -> FakeSuperLink:
    """Put a SuperLink that remembers in the place of Flower's command line."""
    fake = FakeSuperLink()
    monkeypatch.setattr(hospitals, "ask_flower", fake)
    monkeypatch.setattr(studies, "ask_flower", fake)
    return fake


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    """Make a coordinator's folder."""
    settings = CoordinatorSettings(name="demo", address="fed.example.org:9443")
    return create(tmp_path / "c", settings, datetime.now(UTC))
