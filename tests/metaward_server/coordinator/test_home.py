"""The coordinator's folder: whole or none, its secrets closed, its certificate valid."""

import socket
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from metaward.cli import run
from metaward.enrolment import new_request, write_yaml
from metaward.errors import ConfigError
from metaward_server.coordinator.home import (
    Coordinator,
    CoordinatorSettings,
    MetricsSettings,
    create,
    open_coordinator,
    read_coordinator,
    renew_certificate,
)
from metaward_server.coordinator.hospitals import enrolled
from metaward_server.coordinator.processes import require_startable
from metaward_server.coordinator.proxy import FLEET_PATHS, proxy_config
from metaward_server.coordinator.troubles import troubles
from real_federation import METAWARD, NGINX, free_ports

NOW = datetime.now(UTC)


def new(folder: Path, address: str = "fed.example.org:9443", at: datetime = NOW) -> Coordinator:
    return create(folder, CoordinatorSettings(name="demo", address=address), at)


def test_what_was_made_can_be_opened(tmp_path: Path) -> None:
    made = new(tmp_path / "c")
    assert open_coordinator(tmp_path / "c") == made
    assert made.settings.host == "fed.example.org"
    assert made.settings.bound == "0.0.0.0:9443"


def test_the_settings_that_were_written_take_a_key_that_was_left_out(tmp_path: Path) -> None:
    new(tmp_path / "c")
    with (tmp_path / "c" / "coordinator.yaml").open("a") as file:
        file.write("metrics: {}\n")
    assert open_coordinator(tmp_path / "c").settings.metrics == MetricsSettings()


def test_every_secret_is_closed_and_nothing_else_of_the_folder_is_open_to_others(
    tmp_path: Path,
) -> None:
    made = new(tmp_path / "c")
    for path in (made.ca_key, made.key, made.secret):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in made.folder.rglob("*"):
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


@pytest.mark.skipif(NGINX is None, reason="nginx not installed")
def test_a_backup_without_the_folders_of_the_processes_serves(tmp_path: Path) -> None:
    port, superlink, health = free_ports(3)
    settings = CoordinatorSettings(
        address=f"localhost:{port}", superlink_port=superlink, health_port=health
    )
    made = create(tmp_path / "c", settings, NOW)
    for name in ("state", "flower", "log", "proxy"):
        (made.folder / name).rmdir()
    command = [*METAWARD, "server", "start", str(made.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            assert run(["server", "health", "--wait", "60", str(made.folder)]) == 0
        finally:
            process.terminate()
    assert stat.S_IMODE((made.folder / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--address host:99999", "address: must be host:port, the port from 1 to 65535"),
        ("--address host:0", "address: must be host:port"),
        ("--address a..b:9443", "address: must be host:port"),
        (f"--address {64 * 'a'}.b:9443", "address: must be host:port"),
        ("--address -a.b:9443", "address: must be host:port"),
        ("--address a.b:9443 --listen garbage", "listen: must be host:port"),
        ("--address a.b:9443 --listen 0.0.0.0:65536", "listen: must be host:port"),
        ("--address a.b:9443 --superlink-port 9096", "health_port has the port of superlink_port"),
        ("--address a.b:9092", "address has the port of superlink_port, 9092"),
        ("--address a.b:9443 --listen localhost:9096", "listen has the port of health_port, 9096"),
    ],
)
def test_a_coordinator_that_could_never_work_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, said: str
) -> None:
    assert run(["server", "init", str(tmp_path / "c"), *options.split()]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "options",
    [
        "--address 192.0.2.7:65535",
        "--address [2001:db8::1]:443 --listen [::]:443",
        "--address xn--bcher-kva.example:1 --listen 192.0.2.7:9092",
    ],
)
def test_addresses_of_every_kind_are_taken(tmp_path: Path, options: str) -> None:
    assert run(["server", "init", str(tmp_path / "c"), *options.split()]) == 0
    assert open_coordinator(tmp_path / "c").settings.address == options.split()[1]


@pytest.mark.parametrize("key", ["superlink_port", "health_port", "listen", "address"])
def test_a_coordinator_whose_port_another_process_has_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    ports = dict(zip(("superlink_port", "health_port", "public"), free_ports(3), strict=True))
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ports["public" if key in ("listen", "address") else key] = taken
        public = ports.pop("public")
        listen = f"127.0.0.1:{public}" if key == "listen" else ""
        settings = CoordinatorSettings(address=f"a.b:{public}", listen=listen, **ports)
        create(tmp_path / "c", settings, NOW)
        assert run(["server", "start", str(tmp_path / "c")]) == 2
    assert f"{key} {taken}: another process has that port" in capsys.readouterr().err


@pytest.mark.parametrize("secret", ["ca_key", "key", "secret"])
def test_a_coordinator_with_an_open_secret_does_not_start(tmp_path: Path, secret: str) -> None:
    made = new(tmp_path / "c")
    getattr(made, secret).chmod(0o644)
    with pytest.raises(ConfigError, match="others may read it"):
        open_coordinator(tmp_path / "c")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        new(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_was_left_half_made_is_none(tmp_path: Path) -> None:
    made = new(tmp_path / "c")
    (made.folder / "coordinator.yaml").unlink()
    with pytest.raises(ConfigError, match=r"no such file"):
        open_coordinator(tmp_path / "c")


def test_an_expired_certificate_is_one_sentence_and_can_be_renewed(tmp_path: Path) -> None:
    home = tmp_path / "the coordinator"
    made = new(home, at=NOW - timedelta(days=800))
    authority = made.ca_certificate.read_bytes()
    with pytest.raises(ConfigError, match=f"has expired.*metaward server renew '{home}'"):
        open_coordinator(home)
    renew_certificate(read_coordinator(home), NOW)
    opened = open_coordinator(home)
    assert round(opened.days_left(NOW)) == 730
    assert opened.ca_certificate.read_bytes() == authority


@pytest.mark.parametrize(
    ("damaged", "commands", "step"),
    [
        ("certificate", ["status", "enrol"], "metaward server renew"),
        ("ca_certificate", ["status", "enrol", "renew", "health"], "Bring it back"),
        ("ca_key", ["renew"], "Bring it back"),
    ],
)
@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_certificate_or_key_is_one_sentence_with_its_file(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damaged: str,
    commands: list[str],
    step: str,
    content: str,
) -> None:
    made = new(tmp_path / "c")
    write_yaml(tmp_path / "r.yaml", new_request("north", ec.generate_private_key(ec.SECP384R1())))
    path: Path = getattr(made, damaged)
    path.write_text(content)
    for command in commands:
        request = [str(tmp_path / "r.yaml")] if command == "enrol" else []
        assert run(["server", command, str(made.folder), *request]) == 2
        said = capsys.readouterr().err
        assert str(path) in said
        assert step in said
    assert enrolled(made) == []


@pytest.mark.parametrize("content", ["", "another's"])
def test_a_coordinator_whose_key_is_not_its_certificates_is_told_before_it_starts(
    tmp_path: Path, content: str
) -> None:
    """As a renewal leaves it that was killed between the two files."""
    public, superlink, health = free_ports(3)
    settings = CoordinatorSettings(
        address=f"localhost:{public}", superlink_port=superlink, health_port=health
    )
    made, other = create(tmp_path / "c", settings, NOW), new(tmp_path / "other")
    made.key.write_bytes(other.key.read_bytes() if content else b"")
    with pytest.raises(ConfigError, match=r"no key of the certificate.*server renew"):
        require_startable(made)
    renew_certificate(made, NOW)
    require_startable(made)


def test_an_authority_that_has_expired_signs_no_certificate_that_nobody_would_accept(
    tmp_path: Path,
) -> None:
    made = new(tmp_path / "c", at=NOW - timedelta(days=3660))
    before = made.certificate.read_bytes()
    assert run(["server", "renew", str(tmp_path / "c")]) == 2
    with pytest.raises(ConfigError, match=r"authority has expired.*new kit"):
        renew_certificate(made, NOW)
    assert made.certificate.read_bytes() == before


def test_a_damaged_certificate_can_be_renewed(tmp_path: Path) -> None:
    made = new(tmp_path / "c")
    made.certificate.write_text("")
    assert "metaward server renew" in troubles(made, NOW)["certificate"]
    assert run(["server", "renew", str(made.folder)]) == 0
    assert troubles(open_coordinator(made.folder), NOW) == {}


def test_the_proxy_passes_what_nodes_need_and_neither_enrolment_nor_control(
    tmp_path: Path,
) -> None:
    text = proxy_config(new(tmp_path / "c"))
    assert "register-node" not in FLEET_PATHS
    assert text.count("proxy_pass ") == 1
    assert f"location ~ ^/v1/fleet/({'|'.join(FLEET_PATHS)})$ {{" in text
    assert "location / { return 404; }" in text
    assert "proxy_ssl_verify on;" in text
    assert "listen 0.0.0.0:9443 ssl;" in text


def a_request(folder: Path) -> Path:
    path = folder / "enrolment.yaml"
    write_yaml(path, new_request("north", ec.generate_private_key(ec.SECP384R1())))
    return path


def test_a_kit_goes_into_a_folder_that_is_made_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new(tmp_path / "c")
    request = a_request(tmp_path)
    kits = tmp_path / "kits" / "of-2026"
    assert run(["server", "enrol", str(tmp_path / "c"), str(request), "--out", str(kits)]) == 0
    assert f"{kits}/kit-north.yaml" in capsys.readouterr().out
    assert "hospital: north" in (kits / "kit-north.yaml").read_text()


def test_where_no_folder_can_be_made_for_the_kit_nobody_is_enrolled(tmp_path: Path) -> None:
    made = new(tmp_path / "c")
    request = a_request(tmp_path)
    taken = tmp_path / "kits"
    taken.write_text("a file")
    assert run(["server", "enrol", str(tmp_path / "c"), str(request), "--out", str(taken)]) == 2
    assert enrolled(made) == []
