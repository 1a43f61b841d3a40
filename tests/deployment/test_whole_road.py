"""A coordinator and three hospitals as real processes: TLS, node keys, a proxy, and kills.

Everything that a hospital's engineer types is typed here, on the command line. Without a mechanism
a study is a function of its seed, so what comes out after a kill must be, bit for bit, what the
same study gives in one process.
"""

import json
import os
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread

from metaward.model_artefact import load_model
from metaward_client.privacy.ledger.snapshot import verify_ledger
from real_federation import COORDINATOR, NGINX, PRIVATE, STUDY, Federation, federation, typed

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def kill(process: psutil.Process | None) -> None:
    assert process is not None
    process.kill()


def test_a_study_over_tls_survives_a_killed_superlink_and_equals_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    with federation(tmp_path) as made:
        made.run()
        made.until_round(1)
        _only_the_fleet_is_reachable(made)
        _all_say_that_they_serve(made)
        kill(made.child("coordinator", "flower-superlink"))
        made.until_finished()
        status = json.loads(typed("server", "status", made.coordinator, "--json"))
    assert {one["hospital"] for one in status["hospitals"]} == set(made.sites)
    assert status["studies"][0]["rounds_done"] == 4
    log = (made.coordinator / "studies" / "first" / "rounds.jsonl").read_text()
    assert '"void": true' not in log, f"a hospital was late, so theta cannot be equal:\n{log}"
    _every_site_answered_every_round_once(made)
    made.require_undisturbed()
    _no_log_names_a_patient(made)
    _no_process_is_left(made)
    _nobody_says_that_it_serves(made)


@pytest.mark.slow
def test_a_study_of_24_rounds_with_a_kill_every_third_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    study = STUDY.replace("rounds: 4", "rounds: 24").replace("quorum: 3", "quorum: 2")
    study = study.replace("deadline_s: 240", "deadline_s: 60")
    with federation(tmp_path, study=study, privacy=dict.fromkeys(range(3), PRIVATE)) as made:
        first, second, third = made.sites
        victims = [
            (COORDINATOR, "flwr-serverapp"),
            (first, "metaward_client.node.supernode"),
            (COORDINATOR, "flower-superlink"),
            (second, "flower-superexec"),
            (COORDINATOR, "metaward_server.coordinator.keeper"),
            (third, "metaward_client.node.warm_start"),
            (COORDINATOR, "flower-superexec"),
        ]
        made.run()
        for number, (who, program) in enumerate(victims, start=1):
            made.until_round(3 * number)
            made.until(lambda w=who, p=program: made.child(w, p) is not None, program)
            kill(made.child(who, program))
        made.until_finished()
        rounds, status = made.rounds(), typed("server", "status", made.coordinator, "--json")
    assert [one["round_index"] for one in rounds] == list(range(24))
    said = json.loads(status)["hospitals"]
    assert {one["promises"]["first"] for one in said} == {"100 at delta 1.0e-03, dp-sgd"}
    answered = sum(_charged_once_for_what_it_answered(made, name) for name in made.sites)
    assert answered >= sum(one["admitted"] for one in rounds)
    card = load_model(made.coordinator / "studies" / "first" / "model").card
    assert card.privacy.epsilon == 100.0


def _charged_once_for_what_it_answered(made: Federation, name: str) -> int:
    """Return how many rounds a hospital has answered; its ledger has each of them once."""
    site = made.site(name)
    state = verify_ledger(site / "ledger", site / "witness")
    charged = [release.round.round_index for release in state.releases]
    assert len(charged) == len(set(charged))
    sent = {
        one["round_index"] for one in made.orders(name) if one["outcome"] in ("sent", "sent again")
    }
    assert sent <= {one.round.round_index for one in state.releases if one.commit is not None}
    return len(sent)


def _only_the_fleet_is_reachable(made: Federation) -> None:
    """What enrols nodes and starts code is not there for who comes from outside."""
    context = ssl.create_default_context(cafile=made.coordinator / "authority" / "ca.crt")
    for path in (
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/control/list-nodes",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/pull-messages/../../control/list-nodes",
        "/v1//control/list-nodes",
        "/docs",
        "/openapi.json",
        "/",
    ):
        request = urllib.request.Request(f"https://127.0.0.1:{made.port}{path}", data=b"")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, context=context, timeout=20)
        refused.value.close()
        assert refused.value.code == 404, path
    stranger = ssl.create_default_context()
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"https://127.0.0.1:{made.port}/", context=stranger, timeout=20)


def _all_say_that_they_serve(made: Federation) -> None:
    said = json.loads(typed("server", "health", made.coordinator, "--json"))
    assert [(one["name"], one["healthy"]) for one in said["answers"]] == [
        ("SuperLink", True),
        ("proxy", True),
    ]
    for name in made.sites:
        assert typed("site", "health", made.site(name)).startswith("SuperNode: SERVING at 127.0")


def _nobody_says_that_it_serves(made: Federation) -> None:
    first = made.sites[0]
    assert made.asked(COORDINATOR, "server", "health", made.coordinator).returncode == 5
    assert made.asked(first, "site", "health", made.site(first)).returncode == 5


def _every_site_answered_every_round_once(made: Federation) -> None:
    for name in made.sites:
        entries = made.orders(name)
        assert {entry["round_index"] for entry in entries} == {0, 1, 2, 3}
        assert {entry["outcome"] for entry in entries} == {"sent"}


def _no_log_names_a_patient(made: Federation) -> None:
    """What node, rounds, warm start, proxy, SuperLink, studies and keeper write is read."""
    files = [
        path
        for part in (*made.folder.glob("*.log"), made.coordinator, *map(made.site, made.sites))
        for path in ([part] if part.is_file() else [*part.rglob("*.log"), *part.rglob("*.jsonl")])
    ]
    assert {"supernode.log", "superlink.log", "keeper.log"} <= {path.name for path in files}
    names = set()
    for image in made.folder.glob("hospitals/*/images/**/*.dcm"):
        header = dcmread(image, stop_before_pixels=True)
        names |= {str(header.PatientID), str(header.SOPInstanceUID), str(header.StudyInstanceUID)}
    assert len(names) > 3 * 6
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not [name for name in names if name in text], path


def _no_process_is_left(made: Federation) -> None:
    mine = re.compile(re.escape(str(made.folder)))
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        assert process.pid == os.getpid() or not mine.search(command), command
