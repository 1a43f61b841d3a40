"""What the pages say of systemd, typed on a machine whose process 1 it is.

A coordinator and a hospital run as the hardened units of `deploy/systemd`; a study goes through,
past a kill -9 and a power cut; a folder that the unit may not write to is named.
"""

import csv
import json
import re
import shutil
import time
from collections.abc import Iterator

import pytest

from metaward_sim.demo_data import write_demo
from real_federation import PRIVATE
from systemd_machine import Machine, machine, what_is_missing

MISSING = what_is_missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

HOME = "/var/lib/metaward"
COORDINATOR, NODE = "metaward-coordinator", "metaward-node"
ROUNDS = 9
STUDY = f"""\
name: first
rounds: {ROUNDS}
model: {{filters: 8, image_size: 32, groups: 2}}
learner: {{name: prototypical, n_way: 2, n_shot: 1, n_query: 1, episodes: 2}}
round: {{quorum: 1, deadline_s: 120, max_void_rounds: 10}}
"""
WAIT_S = 300.0


def typed(on: Machine, *lines: str) -> str:
    """Type lines as the user metaward, as the pages do."""
    script = "; ".join(["set -e", "cd", "export PATH=/opt/metaward/bin:$PATH", "umask 077", *lines])
    return on.do(f"runuser -u metaward -- env HOME={HOME} bash -c '{script}'")


def until(on: Machine, script: str, what: str) -> None:
    end = time.monotonic() + WAIT_S
    while on.run(script)[0] != 0:
        assert time.monotonic() < end, f"{what}\n{on.run('journalctl | tail -50')[1]}"
        time.sleep(1)


def until_round(on: Machine, number: int) -> None:
    log = f"{HOME}/coordinator/studies/first/rounds.jsonl"
    until(on, f"[ $(wc -l < {log}) -ge {number} ]", f"round {number} of {ROUNDS}")


def enable(on: Machine, unit: str) -> None:
    on.do(f"cp /opt/checkout/deploy/systemd/{unit}.service /etc/systemd/system/")
    on.do("systemctl daemon-reload")
    on.do(f"systemctl enable --now {unit}")


def hospital_joins(on: Machine, labels: set[str]) -> None:
    typed(
        on, "metaward site init site --name north --images /data/images --labels /data/labels.csv"
    )
    policy = re.sub("labels: .*", f"labels: [{', '.join(sorted(labels))}]", PRIVATE)
    with (on.layer / HOME[1:] / "site" / "site.yaml").open("a") as settings:
        settings.write(policy)
    typed(on, "metaward site ledger create site")
    said = typed(on, "metaward server enrol coordinator site/node/enrolment.yaml --out kits")
    fingerprint = said.strip().splitlines()[-1]
    typed(on, f"metaward site join site kits/kit-north.yaml --fingerprint {fingerprint}")
    (on.layer / HOME[1:] / "study.yaml").write_text(STUDY)
    on.do(f"chown metaward {HOME}/study.yaml")
    typed(on, 'metaward site approve site study.yaml --by "A. Officer" --yes')


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A coordinator and a hospital that has approved a study, both started."""
    folder = tmp_path_factory.mktemp("systemd")
    write_demo(folder / "hospitals", hospitals=1, patients=8, seed=2, workers=2)
    (hospital,) = (folder / "hospitals").iterdir()
    with (hospital / "labels.csv").open() as table:
        labels = {row["label"] for row in csv.DictReader(table)}
    shutil.copytree(hospital, folder / "machine" / "upper" / "data")
    with machine(folder / "machine") as made:
        made.do(f"useradd --system --home-dir {HOME} --create-home metaward")
        typed(made, "metaward server init coordinator --name demo --address localhost:9443")
        enable(made, COORDINATOR)
        hospital_joins(made, labels)
        enable(made, NODE)
        yield made


def test_an_enabled_unit_serves_when_the_command_returns(running: Machine) -> None:
    typed(running, "metaward server health coordinator")
    typed(running, "metaward site health --wait 60 site")
    assert "active (running)" in running.do(f"systemctl status {COORDINATOR}")
    assert "SERVING" in running.do(f"journalctl -u {NODE}")
    typed(running, "metaward site check site")


def test_a_study_goes_through_past_a_kill_and_a_power_cut(running: Machine) -> None:
    typed(running, "metaward server run coordinator study.yaml --no-follow")
    until_round(running, 1)
    running.do(f"systemctl kill --signal=KILL {NODE}")
    until_round(running, 3)
    running.do(f"systemctl restart {COORDINATOR}")
    until_round(running, 5)
    running.cut_power()
    running.boot()
    state = f"grep -q finished {HOME}/coordinator/studies/first/state.yaml"
    until(running, state, "a finished study")
    lines = (running.layer / HOME[1:] / "coordinator/studies/first/rounds.jsonl").read_text()
    indices = [json.loads(line)["round_index"] for line in lines.splitlines()]
    assert indices == list(range(ROUNDS))
    typed(running, "metaward site ledger verify site")


def test_a_ledger_outside_the_unit_s_folder_needs_its_own_line(running: Machine) -> None:
    running.do("mkdir /srv/ledgers && chown metaward /srv/ledgers")
    running.do(f"systemctl stop {NODE}")
    running.do(f"mv {HOME}/site/ledger /srv/ledgers/north")
    running.do(f"sed -i s#ledger:.ledger#ledger:\\ /srv/ledgers/north# {HOME}/site/site.yaml")
    running.do(f"systemctl start {NODE}")
    trouble = "ledger disk: the disk is read-only"
    assert trouble in running.do(f"journalctl --since=-30s -u {NODE}")

    drop_in = running.layer / "etc/systemd/system" / f"{NODE}.service.d" / "override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nReadWritePaths=/srv/ledgers\n")
    running.do(f"systemctl daemon-reload && systemctl stop {NODE}")
    stopped = running.do("date +%s").strip()
    running.do(f"systemctl start {NODE}")
    said = running.do(f"journalctl --since=@{stopped} -u {NODE}")
    assert "SERVING" in said
    assert "read-only" not in said
