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

import numpy as np
import psutil
import pytest

from metaward.config import load_settings
from metaward.model_artefact import load_model
from metaward.study import Study
from metaward_sim.federation import run_federation
from real_federation import COORDINATOR, NGINX, STUDY, Federation, federation, typed

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def undisturbed(made: Federation) -> dict[str, np.ndarray]:
    """Return theta of the same study, run in this process."""
    study = load_settings(made.study, Study)
    sites = [made.site(name) for name in made.sites]
    return run_federation(study, sites, made.folder / "in-process", workers=2)


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
    artefact = load_model(made.coordinator / "studies" / "first" / "model")
    expected = undisturbed(made)
    assert artefact.theta.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(artefact.theta[name], leaf)
    _no_process_is_left(made)
    _nobody_says_that_it_serves(made)


@pytest.mark.slow
def test_a_study_survives_kills_of_a_node_a_round_and_its_own_process(tmp_path: Path) -> None:
    with federation(tmp_path) as made:
        made.study.write_text(STUDY.replace("rounds: 4", "rounds: 8").replace("first", "second"))
        for name in made.sites:
            officer = ("--by", "A. Officer", "--yes")
            typed("site", "approve", made.site(name), made.study, *officer)
        made.run()
        victims = [
            ("coordinator", "flwr-serverapp"),
            (made.sites[0], "flower-supernode"),
            ("coordinator", "flower-superlink"),
            (made.sites[1], "flower-superexec"),
        ]
        for number, (who, program) in enumerate(victims):
            made.until(lambda n=number: made.rounds_done("second") > n, f"round {number}")
            made.until(lambda w=who, p=program: made.child(w, p) is not None, program)
            kill(made.child(who, program))
        made.until(lambda: made.state("second") in ("finished", "failed"), "the end")
        assert made.state("second") == "finished", made.logs()
        lines = (made.coordinator / "studies" / "second" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round_index"] for line in lines] == list(range(8))


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


def _no_process_is_left(made: Federation) -> None:
    mine = re.compile(re.escape(str(made.folder)))
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        assert process.pid == os.getpid() or not mine.search(command), command
