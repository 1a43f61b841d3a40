"""A hospital's disk runs full or turns read-only: a sentence, one charge, the same answer after."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import RecordDict

from dicom_factory import write_dicom
from metaward.errors import DataError
from metaward.wire import RoundOrder, SiteRefusal, decode_update, encode_order
from metaward.wire_arrays import spec_of
from metaward_client.dicom.header_index import index_headers
from metaward_client.node.disk_check import look_at_disks
from metaward_client.privacy.ledger import read_ledger
from metaward_client.privacy.ledger.snapshot import verify_ledger
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.policy import NoPrivacy, ProtectedSettings
from metaward_client.site_config import SiteConfig
from metaward_client.site_work import SiteAtWork, answer_order
from private_site import STUDY, THETA, TOY, create_ledger, dp_sgd, twelve_patients
from small_disk import PAGE, SmallDisk, needs_a_disk, small_disk

pytestmark = [needs_a_disk, pytest.mark.usefixtures("one_thread")]

Fault = Callable[[SmallDisk], None]
FAULTS: dict[str, tuple[Fault, Fault, str]] = {
    "full": (lambda disk: disk.fill(), lambda disk: disk.free(), "the disk is full"),
    "one page left": (lambda disk: disk.fill(1), lambda disk: disk.free(), "the disk is full"),
    "two pages left": (lambda disk: disk.fill(2), lambda disk: disk.free(), "the disk is full"),
    "read-only": (lambda disk: disk.mount("ro"), lambda disk: disk.mount("rw"), "read-only"),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


@pytest.fixture
def policy(tmp_path: Path, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> ProtectedSettings:
    monkeypatch.setattr("metaward_client.privacy.ledger.ledger.accountant_of_record", lambda: TOY)
    made = dp_sgd(disk.path, witness=tmp_path / "witness")
    create_ledger(made)
    return made


def site(log: Path, policy: NoPrivacy | ProtectedSettings) -> SiteAtWork:
    return SiteAtWork(
        load_task=lambda _: twelve_patients(),
        round_log=log,
        name="north",
        policy=policy,
        source=os_noise(),
        consent=lambda _: None,
    )


def ask(at: SiteAtWork, round_index: int) -> RecordDict | SiteRefusal:
    return answer_order(encode_order(RoundOrder(STUDY, round_index, THETA)), at)


def delta(answer: RecordDict | SiteRefusal) -> dict[str, bytes]:
    assert isinstance(answer, RecordDict), answer
    update = decode_update(answer, spec_of(THETA))
    return {name: leaf.tobytes() for name, leaf in update.delta.items()}


def lines(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_round_that_the_ledgers_disk_cannot_take_is_refused_and_charged_once(
    tmp_path: Path, disk: SmallDisk, policy: ProtectedSettings, kind: str
) -> None:
    begin, end, said = FAULTS[kind]
    at = site(tmp_path / "rounds.jsonl", policy)
    first = delta(ask(at, 0))
    begin(disk)
    assert ask(at, 1) is SiteRefusal.PRIVACY
    assert said in str(lines(at.round_log)[-1]["reason"])
    assert len(read_ledger(policy.ledger, policy.witness).releases) in (1, 2)
    end(disk)
    second = delta(ask(at, 1))
    assert delta(ask(at, 1)) == second  # the very bytes, at no cost
    assert delta(ask(at, 0)) == first
    state = verify_ledger(policy.ledger, policy.witness)
    assert [release.round.round_index for release in state.releases] == [0, 1]
    assert sum(state.spent.values()) == 2 * 2  # two rounds of two steps


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_an_answer_leaves_though_the_sites_own_log_cannot_be_written(
    disk: SmallDisk, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    begin, end, _ = FAULTS[kind]
    at = site(disk.path / "rounds.jsonl", NoPrivacy())
    # some bytes are left of the last page: the next line fits in part
    at.round_log.write_text(json.dumps({"round_index": 0, "padding": "x" * (PAGE - 100)}) + "\n")
    begin(disk)
    assert isinstance(ask(at, 1), RecordDict)
    assert "no line in rounds.jsonl" in caplog.text
    end(disk)
    assert isinstance(ask(at, 2), RecordDict)
    assert [line["round_index"] for line in lines(at.round_log)] == [0, 2]


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_the_pre_flight_says_it(tmp_path: Path, disk: SmallDisk, kind: str) -> None:
    begin, _, said = FAULTS[kind]
    begin(disk)
    config = SiteConfig.model_validate({"name": "north", "data": {"root": Path("x")}})
    [found] = look_at_disks(config, disk.path)
    assert (found.name, found.state) == ("node disk", "wrong")
    assert said in found.said


@pytest.mark.parametrize("pages_left", [0, 1, 2, 4])
def test_a_scan_without_room_for_its_index_says_so_and_keeps_what_it_has(
    tmp_path: Path, disk: SmallDisk, pages_left: int
) -> None:
    tree, cache = tmp_path / "tree", disk.path / "cache"
    cache.mkdir()
    for number in range(30):
        write_dicom(path=tree / f"{number}.dcm")
    disk.fill(pages_left)
    with pytest.raises(DataError, match=r"could not be written .*set `cache:` in site.yaml"):
        index_headers(tree, cache)
    disk.free()
    assert index_headers(tree, cache).n_read == 30
    for number in range(30, 90):
        write_dicom(path=tree / f"{number}.dcm")
    disk.fill(pages_left)
    with pytest.raises(DataError, match="could not be written"):
        index_headers(tree, cache)
    disk.free()
    assert index_headers(tree, cache).n_read == 60  # those of the first scan are known
