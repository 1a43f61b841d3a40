"""What was charged, noised and released agrees, and an account that forgets is caught."""

from pathlib import Path

import numpy as np
import pytest
from mutants import MODEL, PaperSite

from metaward.errors import PrivacyError
from metaward.privacy_promise import BLOCK, DP_SGD
from metaward_client.privacy.noise import NoiseSource
from metaward_client.privacy.policy import NoPrivacy, ProtectedSettings
from metaward_client.privacy_audit import product_site as product_site_module
from metaward_client.privacy_audit.findings import Verdict
from metaward_client.privacy_audit.product_site import product_site
from metaward_client.privacy_audit.self_audit import Counts, counts_of, self_audit_finding
from metaward_client.privacy_audit.worlds import synthetic_task

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("mechanism", "steps"), [(DP_SGD, 12), (BLOCK, 4)])
def test_the_products_ledger_holds_all_that_was_released(mechanism: str, steps: int) -> None:
    task = synthetic_task(np.random.default_rng(0), n_patients=8)
    with product_site(mechanism, MODEL, task, NoiseSource(bytes(32))) as site:
        assert counts_of(site) == Counts(steps, steps, steps, same_answer=True)


def test_an_honest_account_passes() -> None:
    assert counts_of(PaperSite().audited()).agree


@pytest.mark.parametrize(
    "mutant",
    [
        PaperSite(reset_each_round=True),
        PaperSite(lost_at_restart=True),
        PaperSite(charge=1),
        PaperSite(answers_anew=True),
    ],
    ids=["reset each round", "lost at restart", "inner steps forgotten", "new noise when repeated"],
)
def test_an_account_that_forgets_is_caught(mutant: PaperSite) -> None:
    counts = counts_of(mutant.audited())
    assert not counts.agree
    assert self_audit_finding("mutant", counts).verdict is Verdict.FAIL


def test_a_restart_reads_the_policy_from_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    task = synthetic_task(np.random.default_rng(0), n_patients=8)
    read = product_site_module.read_policy_file
    files: list[Path] = []

    def of_another_place(file: Path) -> ProtectedSettings:
        files.append(file)
        policy = read(file)
        assert not isinstance(policy, NoPrivacy)
        return policy.model_copy(update={"ledger": policy.ledger / "nowhere"})

    monkeypatch.setattr(product_site_module, "read_policy_file", of_another_place)
    with product_site(BLOCK, MODEL, task, NoiseSource(bytes(32))) as site:
        site.answer(0)
        site.restart()
        assert [file.name for file in files] == ["policy.yaml"]
        with pytest.raises(PrivacyError):
            site.answer(1)
