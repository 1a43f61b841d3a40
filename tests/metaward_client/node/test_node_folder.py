"""A hospital's node: its key stays, its kit is its own, and other code than its own is refused."""

import stat
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from metaward.bundle import bundle
from metaward.enrolment import Kit, new_request, public_text, read_request
from metaward.errors import ConfigError, FederationError
from metaward_client.node import vetted_app
from metaward_client.node.node_folder import (
    NodeFolder,
    create_node,
    join,
    open_node,
    own_public_key,
    read_kit,
)
from metaward_client.node.processes import services_of
from metaward_client.node.site_log import node_events
from metaward_client.node.vetted_app import install_bundle, refuse_other_code, write_command
from metaward_server.coordinator import hospitals
from metaward_server.coordinator.home import Coordinator, CoordinatorSettings, create


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    return create_node(tmp_path / "node", "north")


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    settings = CoordinatorSettings(name="demo", address="fed.example.org:9443")
    return create(tmp_path / "coordinator", settings, datetime.now(UTC))


def kit_for(node: NodeFolder, coordinator: Coordinator) -> Kit:
    return hospitals.enrol(coordinator, read_request(node.request))


def test_the_private_key_is_closed_and_in_no_file_that_is_sent(
    node: NodeFolder, coordinator: Coordinator
) -> None:
    join(node, kit_for(node, coordinator), "north")
    for path in (node.key, node.secret):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = node.key.read_text().splitlines()[2]
    sent = [node.request, node.kit, *coordinator.folder.rglob("*.yaml")]
    assert all(secret not in path.read_text() for path in sent)


def test_a_hospital_joins_with_its_own_kit(node: NodeFolder, coordinator: Coordinator) -> None:
    kit = kit_for(node, coordinator)
    join(node, kit, "north")
    assert read_kit(open_node(node.path)) == kit
    assert node.ca_certificate.read_bytes() == coordinator.ca_certificate.read_bytes()


def test_a_kit_for_another_hospital_or_key_is_refused(
    node: NodeFolder, coordinator: Coordinator
) -> None:
    kit = kit_for(node, coordinator)
    other = public_text(ec.generate_private_key(ec.SECP384R1()).public_key())
    for wrong in ({"hospital": "south"}, {"public_key": other}):
        with pytest.raises(ConfigError, match="a kit for"):
            join(node, kit.model_copy(update=wrong), "north")
    assert not node.kit.exists()


def test_without_a_kit_the_next_step_is_named(node: NodeFolder) -> None:
    with pytest.raises(ConfigError, match=r"no kit.*metaward site join"):
        read_kit(node)


def test_a_key_is_never_made_twice(node: NodeFolder) -> None:
    key = node.key.read_bytes()
    with pytest.raises(ConfigError, match="has a node already"):
        create_node(node.path, "north")
    assert node.key.read_bytes() == key


def test_a_node_whose_key_is_open_or_damaged_does_not_start(node: NodeFolder) -> None:
    node.key.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read it"):
        open_node(node.path)
    node.key.chmod(0o600)
    node.key.write_text("damaged")
    with pytest.raises(ConfigError, match="no private key"):
        own_public_key(node)


def test_the_same_request_gives_the_same_kit_and_another_key_of_that_name_is_refused(
    node: NodeFolder, coordinator: Coordinator
) -> None:
    first = kit_for(node, coordinator)
    assert kit_for(node, coordinator) == first
    with pytest.raises(ConfigError, match="with another key"):
        hospitals.enrol(coordinator, new_request("north", ec.generate_private_key(ec.SECP384R1())))
    assert [one.hospital for one in hospitals.enrolled(coordinator)] == ["north"]


def test_one_key_is_one_hospital(node: NodeFolder, coordinator: Coordinator) -> None:
    kit_for(node, coordinator)
    twin = read_request(node.request).model_copy(update={"hospital": "south"})
    with pytest.raises(ConfigError, match="with this very key"):
        hospitals.enrol(coordinator, twin)


def test_only_the_bundle_of_this_release_is_run() -> None:
    refuse_other_code(bundle())
    for other in (b"", bundle()[:-1], bundle() + b"\n"):
        with pytest.raises(FederationError, match="other code"):
            refuse_other_code(other)


def test_what_flower_starts_installs_this_releases_bundle_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the names that this Flower has; nothing of another bundle is written."""
    runtime = import_module("flwr.supernode.runtime.run_clientapp")
    command = import_module("flwr.supernode.cli.flwr_clientapp")
    written: list[bytes] = []

    def install(content: bytes, **_: object) -> Path:
        written.append(content)
        return tmp_path

    def flower_runs() -> None:
        assert runtime.install_from_fab(bundle(), skip_prompt=True) == tmp_path
        with pytest.raises(FederationError, match="other code"):
            runtime.install_from_fab(bundle() + b"x", skip_prompt=True)

    monkeypatch.setattr(runtime, "install_from_fab", install)
    monkeypatch.setattr(command, "flwr_clientapp", flower_runs)
    vetted_app.main()
    assert written == [bundle()]


def test_an_order_of_another_release_has_its_line_in_the_sites_log(
    node: NodeFolder, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It ends before the site's own code is asked, which notes every other order."""
    join(node, kit_for(node, coordinator), "north")
    for service in services_of(node, tmp_path, tmp_path, health_port=1):
        assert service.environment[vetted_app.ROUND_LOG] == str(node.round_log)
    monkeypatch.setenv(vetted_app.ROUND_LOG, str(node.round_log))
    with pytest.raises(FederationError, match="other code"):
        install_bundle(lambda _: tmp_path, bundle() + b"x")
    [event] = node_events(node)
    assert event.what == "other release"
    assert "Run the study with the same release." in event.detail


def test_of_a_failed_installation_no_path_leaves() -> None:
    def full(_: bytes) -> Path:
        raise OSError(28, "No space left on device", "/home/dr.doe/node/apps")

    with pytest.raises(FederationError) as raised:
        install_bundle(full, bundle())
    assert "doe" not in str(raised.value)
    assert raised.value.__context__ is None


def test_the_program_that_flower_starts_is_ours_and_only_for_us(tmp_path: Path) -> None:
    write_command(tmp_path, tmp_path / "warm")
    program = tmp_path / "flwr-clientapp"
    assert stat.S_IMODE(program.stat().st_mode) == 0o700
    assert "metaward_client.node.vetted_app" in program.read_text()
