"""A hospital whose ledger commands are asked, under a toy accountant."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from ledger_place import TOY, cost

from metaward import cli
from metaward_client.ledger_command import ledger_of
from metaward_client.privacy.ledger import Ledger, Replay, RoundId
from metaward_client.privacy.ledger import summary as summaries
from metaward_client.privacy.ledger.summary import Accounting

POLICY = """\
name: north
data: {root: images}
privacy:
  mechanism: dp-sgd
  target_epsilon: 8.0
  target_delta: 1.0e-5
  population: 1000
  noise_multiplier: 1.0
  sample_rate: 0.5
  steps_per_round: 5
  labels: [a, b]
  ledger: ledger
  witness: witness
"""
"""One round costs 1.25 of the toy's epsilon: six fit."""

Printed = pytest.CaptureFixture[str]


def only_these_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("site", "metaward_client.site_command:register", "metaward.commands")
    monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])
    monkeypatch.setenv("COLUMNS", "200")
    toy = Accounting("toy", lambda spent, _, relation: cost(spent, relation), TOY.rounds_within)
    monkeypatch.setattr(summaries, "accounting_of_record", lambda: toy)


def new_site(folder: Path) -> Path:
    """Return a hospital's folder without a ledger."""
    (folder / "images").mkdir(parents=True)
    (folder / "site.yaml").write_text(POLICY)
    return folder


def answer(site: Path, study: str, rounds: int) -> None:
    place = ledger_of(site)
    for index in range(rounds):
        with Ledger.open(place.folder, place.witness, accountant=TOY) as ledger:
            reservation = ledger.reserve(RoundId(study, index), place.terms, place.budget)
            assert not isinstance(reservation, Replay)
            ledger.commit(reservation, b"reply")
