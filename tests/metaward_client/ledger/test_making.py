"""How a ledger is made: for this user alone, beside its witness and not in it, and never anew."""

import os
import shutil
from pathlib import Path

import pytest
from ledger_place import BUDGET, TERMS, TOY, A, Place, new_place
from ledger_refusals import refused

from metaward.errors import ConfigError, PrivacyError
from metaward_client.privacy.ledger import Ledger, RoundId, read_ledger
from metaward_client.privacy.ledger.by_a_person import raise_budget
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.witness import default_witness
from metaward_client.privacy.terms import Budget

FIRST = RoundId(A, 0)


def test_a_ledger_is_made_with_folders_for_this_user_alone(tmp_path: Path) -> None:
    place = Place(tmp_path / "a/b/ledger", tmp_path / "c/d/witness")
    old = os.umask(0)
    try:
        place.create(Disk())
    finally:
        os.umask(old)
    for path in (place.ledger, place.ledger / "replies", place.witness):
        assert path.stat().st_mode & 0o7777 == 0o700
    for path in (place.file, place.witness / "key", place.witness / "head"):
        assert path.stat().st_mode & 0o7777 == 0o600
    assert len((place.witness / "key").read_bytes()) == 32


def test_two_ledgers_have_different_keys_and_names(tmp_path: Path) -> None:
    places = [Place(tmp_path / n / "ledger", tmp_path / n / "witness") for n in "ab"]
    for place in places:
        place.create()
    assert len({(place.witness / "key").read_bytes() for place in places}) == 2
    states = [read_ledger(place.ledger, place.witness, clock=place.clock) for place in places]
    assert len({state.ledger for state in states}) == 2


def test_a_derived_key_is_of_one_ledger_and_purpose_and_stays(tmp_path: Path) -> None:
    """Which block a patient is in hangs on it."""
    keys = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        place = new_place(tmp_path / name)
        for _ in range(2):
            with place.open() as ledger:
                keys |= {ledger.derived_key(b"blocks"), ledger.derived_key(b"another")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}


def test_a_ledger_that_stands_is_not_made_anew(place: Place) -> None:
    place.play([FIRST])
    before = place.file.read_bytes()
    with pytest.raises(PrivacyError, match="a ledger stands here already"):
        place.create()
    assert place.file.read_bytes() == before


def test_a_ledger_that_was_deleted_is_not_made_anew(place: Place) -> None:
    place.play([FIRST])
    shutil.rmtree(place.ledger)
    with pytest.raises(PrivacyError, match="the witness of a ledger that is gone"):
        place.create()
    assert refused(place, match="it is missing").exit_code == 4


def test_a_ledger_that_was_deleted_is_not_made_anew_beside_the_default_witness(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "ledger"
    Ledger.create(folder, None, BUDGET)
    with Ledger.open(folder, accountant=TOY) as ledger:
        ledger.reserve(FIRST, TERMS, BUDGET)
    shutil.rmtree(folder)
    with pytest.raises(PrivacyError, match="the witness of a ledger that is gone"):
        Ledger.create(folder, None, BUDGET)


def test_a_ledger_of_which_only_the_budget_was_raised_is_not_made_anew_either(place: Place) -> None:
    more = Budget(9.0, BUDGET.target_delta)
    raise_budget(place.ledger, place.witness, more, "the board agreed", clock=place.clock)
    shutil.rmtree(place.ledger)
    with pytest.raises(PrivacyError, match="the witness of a ledger that is gone"):
        place.create()


@pytest.mark.parametrize("part", ["ledger", "witness"])
def test_a_ledger_is_not_made_in_a_folder_that_others_may_use(tmp_path: Path, part: str) -> None:
    (tmp_path / part).mkdir(mode=0o755)
    place = Place(tmp_path / "ledger", tmp_path / "witness")
    with pytest.raises(PrivacyError, match="open to other users"):
        place.create()
    assert not place.file.exists()


@pytest.mark.parametrize("part", ["ledger", "witness"])
def test_a_ledger_is_not_made_through_a_symbolic_link(tmp_path: Path, part: str) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / part).symlink_to(tmp_path / "real")
    with pytest.raises(PrivacyError, match="a symbolic link"):
        Place(tmp_path / "ledger", tmp_path / "witness").create()


@pytest.mark.parametrize("witness", ["ledger", "ledger/witness", ".", "ledger/../ledger/deep"])
def test_ledger_and_witness_are_not_in_one_folder(tmp_path: Path, witness: str) -> None:
    place = Place(tmp_path / "ledger", tmp_path / witness)
    with pytest.raises(ConfigError, match="are in one folder"):
        place.create()
    with pytest.raises(ConfigError, match="are in one folder"), place.open():
        pass


def test_the_default_witness_is_in_the_users_state_and_named_after_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    one, other = default_witness(tmp_path / "one"), default_witness(tmp_path / "other")
    assert one.parent == other.parent == tmp_path / "state/metaward/ledgers"
    assert one != other
    monkeypatch.chdir(tmp_path)
    assert default_witness(Path("one")) == one
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_witness(tmp_path / "one").is_relative_to(tmp_path / "home/.local/state")


def test_a_user_without_a_home_is_asked_to_name_a_witness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigError, match=r"privacy\.witness"):
        default_witness(tmp_path / "ledger")
