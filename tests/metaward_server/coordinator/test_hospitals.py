"""Who is enrolled stands in files; the SuperLink follows them, whoever is killed or refused."""

import threading
from typing import Any

import pytest

from fake_superlink import STUDY, FakeSuperLink, request
from metaward.errors import ConfigError, FederationError
from metaward_server.coordinator import hospitals, studies
from metaward_server.coordinator.home import Coordinator
from metaward_server.coordinator.keeper import keep_once


def names(coordinator: Coordinator) -> list[str]:
    return [one.hospital for one in hospitals.enrolled(coordinator)]


def test_a_key_that_was_taken_out_is_not_enrolled_again_under_any_name(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    north = request("north")
    hospitals.enrol(coordinator, north)
    keep_once(coordinator)
    hospitals.remove(coordinator, "north")
    for name in ("north", "south"):
        with pytest.raises(ConfigError, match=r"a key that was taken out.*site init"):
            hospitals.enrol(coordinator, north.model_copy(update={"hospital": name}))
    hospitals.enrol(coordinator, request("north"))
    keep_once(coordinator)
    assert list(superlink.nodes.values()) == ["north"]


def test_a_hospital_whom_the_superlink_refuses_stops_neither_another_nor_a_study(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    refused = request("a")
    hospitals.enrol(coordinator, refused)
    superlink.keys.add(refused.public_key)
    superlink.gone.add("99")
    hospitals.enrol(coordinator, request("b"))
    folder = studies.want(coordinator, STUDY, nodes=1)
    for _ in range(2):
        keep_once(coordinator)
    assert list(superlink.nodes.values()) == ["b"]
    assert folder.state.state == "running"
    status = {one.hospital: one.status for one in hospitals.presence(coordinator)}
    assert status == {"a": "not registered", "b": "online"}


def killed_when_the_superlink_has_answered(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enrol north; its node is made, and the keeper is killed before it writes down which."""
    hospitals.enrol(coordinator, request("north"))
    with monkeypatch.context() as killed:
        killed.setattr(hospitals, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            keep_once(coordinator)


def test_a_node_whose_number_was_not_written_down_is_found_again(
    coordinator: Coordinator, superlink: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_when_the_superlink_has_answered(coordinator, monkeypatch)
    hospitals.enrol(coordinator, request("south"))
    for _ in range(2):
        keep_once(coordinator)
    found = {one.hospital: superlink.nodes[one.node] for one in hospitals.enrolled(coordinator)}
    assert found == {"north": "north", "south": "south"}


def test_a_hospital_whose_nodes_number_was_not_written_down_is_refused_once_it_is_removed(
    coordinator: Coordinator, superlink: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_when_the_superlink_has_answered(coordinator, monkeypatch)
    hospitals.remove(coordinator, "north")
    assert (superlink.nodes, names(coordinator)) == ({}, [])


def test_a_new_hospital_gets_a_node_of_its_own_beside_one_that_is_in_no_file(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    superlink.nodes = {"7": "of nobody"}
    hospitals.enrol(coordinator, request("north"))
    keep_once(coordinator)
    [north] = hospitals.enrolled(coordinator)
    assert superlink.nodes[north.node] == "north"


def test_an_older_state_of_the_superlink_has_the_hospitals_node_of_then(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    hospitals.enrol(coordinator, request("north"))
    keep_once(coordinator)
    older = superlink.nodes, superlink.keys
    superlink.forget()
    superlink.nodes = {"7": "another federation's"}
    keep_once(coordinator)
    superlink.nodes, superlink.keys = older
    keep_once(coordinator)
    [north] = hospitals.enrolled(coordinator)
    assert superlink.nodes[north.node] == "north"


def test_a_removal_that_was_killed_half_way_is_done_by_another(
    coordinator: Coordinator, superlink: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospitals.enrol(coordinator, request("north"))
    keep_once(coordinator)

    def killed(*arguments: Any, **options: Any) -> Any:
        answer = superlink(*arguments, **options)
        if "unregister" in arguments:
            raise FederationError("no answer in 60 s")
        return answer

    with monkeypatch.context() as slow:
        slow.setattr(hospitals, "ask_flower", killed)
        with pytest.raises(FederationError, match="no answer"):
            hospitals.remove(coordinator, "north")
    keep_once(coordinator)
    hospitals.remove(coordinator, "north")
    assert (superlink.nodes, names(coordinator)) == ({}, [])


def test_a_hospital_that_is_removed_while_the_keeper_looks_stays_removed(
    coordinator: Coordinator, superlink: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospitals.enrol(coordinator, request("north"))

    removal = threading.Thread(target=hospitals.remove, args=(coordinator, "north"))

    def removed_meanwhile(*arguments: Any, **options: Any) -> Any:
        if "register" in arguments:
            removal.start()
            removal.join(0.3)
        return superlink(*arguments, **options)

    monkeypatch.setattr(hospitals, "ask_flower", removed_meanwhile)
    keep_once(coordinator)
    removal.join()
    assert (superlink.nodes, names(coordinator)) == ({}, [])


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt
