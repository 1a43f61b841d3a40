"""What an operator does while a study runs, with real processes: renew, start anew, remove."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metaward_server.coordinator.certificates import BACKDATED, CERTIFICATE_LASTS
from metaward_server.coordinator.home import read_coordinator, renew_certificate
from real_federation import COORDINATOR, NGINX, STUDY, Federation, federation, typed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]
EXPIRED = "the certificate is not accepted (certificate has expired)"


def let_it_expire(made: Federation, after: timedelta) -> None:
    """Give the coordinator a certificate that ends soon."""
    renew_certificate(
        read_coordinator(made.coordinator),
        datetime.now(UTC) + BACKDATED + after - CERTIFICATE_LASTS,
    )


def test_a_certificate_that_expires_in_a_study_is_renewed_and_a_lost_database_costs_nothing(
    tmp_path: Path,
) -> None:
    study = STUDY.replace("rounds: 4", "rounds: 40").replace("240", "900")
    soon = timedelta(seconds=120)
    with federation(
        tmp_path, study=study, before_start=lambda made: let_it_expire(made, soon)
    ) as made:
        made.run()
        for name in made.sites:
            made.until(lambda n=name: EXPIRED in made.said(n), f"{name} says that it has expired")
        assert made.rounds_done() < 40
        made.end(COORDINATOR)
        typed("server", "renew", made.coordinator)
        for file in (made.coordinator / "state").glob("superlink.db*"):
            file.unlink()
        made.start(COORDINATOR)
        made.until_finished()
        for name in made.sites:
            assert "in order again" in made.said(name)
    rounds = made.rounds()
    assert [one["round_index"] for one in rounds] == list(range(40))
    assert not any(one["void"] for one in rounds)
    made.require_undisturbed()


def test_a_removed_hospital_is_not_let_in_and_the_study_goes_on_without_it(tmp_path: Path) -> None:
    study = STUDY.replace("rounds: 4", "rounds: 12").replace("quorum: 3", "quorum: 2")
    with federation(tmp_path, study=study.replace("240", "60")) as made:
        gone = made.sites[-1]
        made.run()
        made.until_round(2)
        typed("server", "remove", made.coordinator, gone)
        made.until_finished()
        said = "the coordinator does not let this node in"
        made.until(lambda: said in made.said(gone), "the removed hospital says so")
        checked = made.asked(gone, "site", "check", made.site(gone), "--json")
        status = json.loads(typed("server", "status", made.coordinator, "--json"))
    rounds = made.rounds()
    assert [one["round_index"] for one in rounds] == list(range(12))
    assert rounds[0]["admitted"] == 3
    assert all(one["admitted"] == 2 for one in rounds[-3:])
    assert gone not in {one["hospital"] for one in status["hospitals"]}
    assert checked.returncode == 5, checked.stdout
    assert said in checked.stdout
