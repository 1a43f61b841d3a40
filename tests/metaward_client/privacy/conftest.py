from collections.abc import Callable
from pathlib import Path

import pytest

from metaward_client.privacy.policy import ProtectedSettings
from private_site import TOY, create_ledger
from release_cases import Make


@pytest.fixture
def quick_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ledger count rounds, of which a known number fits."""
    monkeypatch.setattr("metaward_client.privacy.ledger.ledger.accountant_of_record", lambda: TOY)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., ProtectedSettings]:
    """Make a policy with a fresh ledger."""

    def make(which: Make, **changes: object) -> ProtectedSettings:
        policy = which(tmp_path, **changes)
        create_ledger(policy)
        return policy

    return make
