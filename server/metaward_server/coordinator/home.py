"""The coordinator's folder: everything that it must remember, in one place.

    coordinator.yaml        name, public address, ports
    authority/              certificate and key of the federation's own authority
    tls/                    certificate and key of this coordinator
    superexec.secret        shared by the SuperLink and the process that runs studies
    hospitals/NAME.yaml     one request for each hospital that is enrolled
    state/superlink.db      Flower's state
    studies/NAME/           one run directory for each study
    flower/, log/, proxy/   of the processes

Whoever has this folder is the coordinator. It holds no patient data, but the keys of its owner.
"""

import itertools
import secrets
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import Field, model_validator

from metaward.certificate_file import BRING_BACK, read_certificate
from metaward.config import Settings, load_settings
from metaward.errors import ConfigError
from metaward.health import LOOPBACK
from metaward.patterns import ADDRESS, ADDRESS_OR_NOTHING, NAME
from metaward.private_file import (
    make_private_folder,
    require_private,
    whole_or_empty,
    write_private,
)
from metaward.whole_file import write_atomically
from metaward_server.coordinator.certificates import (
    Issued,
    days_left,
    new_authority,
    new_server_certificate,
)

COORDINATOR_FILE = "coordinator.yaml"
SECRET_BYTES = 32
SUPERLINK_PORT = 9092
HEALTH_PORT = 9096
"""Flower's own ports end at 9095."""
METRICS_PORT = 9098
ANY_HOST = "0.0.0.0"  # noqa: S104 (nothing is bound here)


class Place(NamedTuple):
    """Where a process of this machine listens."""

    host: str
    port: int

    def meets(self, other: "Place") -> bool:
        """Return whether two processes cannot both listen there."""
        hosts = {LOOPBACK if place.host == "localhost" else place.host for place in (self, other)}
        return self.port == other.port and (len(hosts) == 1 or ANY_HOST in hosts)


class MetricsSettings(Settings):
    """Where Prometheus asks."""

    host: str = Field("127.0.0.1", min_length=1, description="address that is bound")
    port: int = Field(METRICS_PORT, ge=1024, le=65535, description="TCP port")


class CoordinatorSettings(Settings):
    """The content of `coordinator.yaml`."""

    name: str = Field("federation", pattern=NAME, description="name of the federation")
    address: str = Field(pattern=ADDRESS, description="host:port under which hospitals reach it")
    listen: str = Field(
        "",
        pattern=ADDRESS_OR_NOTHING,
        description="host:port that the proxy binds; empty: the address' port",
    )
    superlink_port: int = Field(
        SUPERLINK_PORT, ge=1024, le=65535, description="port of the SuperLink, on loopback only"
    )
    health_port: int = Field(
        HEALTH_PORT,
        ge=1024,
        le=65535,
        description="port of the SuperLink's health server, on loopback only",
    )
    metrics: MetricsSettings | None = Field(None, description="where Prometheus asks; off without")

    @model_validator(mode="after")
    def _ports_differ(self) -> "CoordinatorSettings":
        for (one, at), (other, also_at) in itertools.combinations(self.places(), 2):
            if at.meets(also_at):
                raise ValueError(f"{other} has the port of {one}, {at.port}: each needs its own")
        return self

    def places(self) -> list[tuple[str, Place]]:
        """Return everything that listens, by the key that says where."""
        places = [
            ("superlink_port", Place(LOOPBACK, self.superlink_port)),
            ("health_port", Place(LOOPBACK, self.health_port)),
            (self.bound_key, self.bound_place),
        ]
        if self.metrics is not None:
            places.append(("metrics.port", Place(self.metrics.host, self.metrics.port)))
        return places

    @property
    def host(self) -> str:
        """The address without its port."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def bound(self) -> str:
        """What the proxy binds."""
        return self.listen or f"0.0.0.0:{self.address.rpartition(':')[2]}"

    @property
    def bound_key(self) -> str:
        """The key that says it."""
        return "listen" if self.listen else "address"

    @property
    def bound_place(self) -> Place:
        """The same, in its two parts."""
        host, _, port = self.bound.rpartition(":")
        return Place(host.strip("[]"), int(port))


@dataclass(frozen=True)
class Coordinator:
    """A coordinator's folder that was read, and found whole."""

    folder: Path
    settings: CoordinatorSettings

    @property
    def ca_certificate(self) -> Path:
        """The authority's certificate, which hospitals trust."""
        return self.folder / "authority" / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The authority's key."""
        return self.folder / "authority" / "ca.key"

    @property
    def certificate(self) -> Path:
        """This coordinator's certificate."""
        return self.folder / "tls" / "server.crt"

    @property
    def key(self) -> Path:
        """The certificate's key."""
        return self.folder / "tls" / "server.key"

    def days_left(self, now: datetime) -> float:
        """Return for how many days the certificate is still valid; negative when it has expired.

        Raises:
            ConfigError: It is damaged or missing.
        """
        step = f"metaward server renew {self.folder}"
        return days_left(read_certificate(self.certificate, next_step=step), now)

    @property
    def secret(self) -> Path:
        """What the SuperLink asks of the process that runs studies."""
        return self.folder / "superexec.secret"

    @property
    def flower_home(self) -> Path:
        """Flower's own files."""
        return self.folder / "flower"

    @property
    def database(self) -> Path:
        """Flower's state."""
        return self.folder / "state" / "superlink.db"

    @property
    def hospitals(self) -> Path:
        """One file for each hospital."""
        return self.folder / "hospitals"

    @property
    def studies(self) -> Path:
        """One folder for each study."""
        return self.folder / "studies"

    @property
    def superlink(self) -> str:
        """host:port of the SuperLink."""
        return f"127.0.0.1:{self.settings.superlink_port}"


def create(folder: Path, settings: CoordinatorSettings, now: datetime) -> Coordinator:
    """Make a coordinator's folder: authority, certificate, secret, settings.

    Raises:
        ConfigError: The folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            "the folder is not empty",
            expected="a new folder, or an empty one",
            where=str(folder),
            next_step="Choose another one; an authority is never made twice in one place.",
        )
    coordinator = Coordinator(folder.resolve(), settings)
    authority = new_authority(settings.name, now)
    server = new_server_certificate(authority, settings.host, now)
    with whole_or_empty(folder):
        make_folders(folder)
        write_private(coordinator.ca_key, authority.key)
        coordinator.ca_certificate.write_bytes(authority.certificate)
        write_private(coordinator.key, server.key)
        coordinator.certificate.write_bytes(server.certificate)
        write_private(coordinator.secret, secrets.token_bytes(SECRET_BYTES))
        # last: a folder without it is none, so one that was left half-made is not taken for whole
        text = yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True), sort_keys=False)
        write_atomically(folder / COORDINATOR_FILE, text)
    return coordinator


def make_folders(folder: Path) -> None:
    """Make the folders that are not there; a backup may come without those of the processes."""
    for part in ("", "authority", "tls", "state", "hospitals", "studies", "flower", "log", "proxy"):
        make_private_folder(folder / part)


def read_coordinator(folder: Path) -> Coordinator:
    """Read a coordinator's folder and check its secrets and its authority.

    Raises:
        ConfigError: It is none, a secret is open to others, or the authority's certificate is
            damaged.
    """
    settings = load_settings(folder / COORDINATOR_FILE, CoordinatorSettings)
    coordinator = Coordinator(folder.resolve(), settings)
    for path in (coordinator.ca_key, coordinator.key, coordinator.secret):
        require_private(path)
    read_certificate(coordinator.ca_certificate)
    return coordinator


def open_coordinator(folder: Path) -> Coordinator:
    """Read a coordinator's folder for work; its certificate must be valid.

    Raises:
        ConfigError: See :func:`read_coordinator`; or the certificate has expired or is damaged.
    """
    coordinator = read_coordinator(folder)
    if coordinator.days_left(datetime.now(UTC)) <= 0:
        raise ConfigError(
            "the coordinator's certificate has expired",
            expected="one that is valid today (is the clock right?)",
            where=str(coordinator.certificate),
            next_step=f"metaward server renew {shlex.quote(str(folder))}",
        )
    return coordinator


def renew_certificate(coordinator: Coordinator, now: datetime) -> None:
    """Make a new certificate and key of the same authority; hospitals need no new kit.

    Raises:
        ConfigError: The authority has expired; or its key is damaged, or is not its certificate's.
    """
    if days_left(read_certificate(coordinator.ca_certificate), now) <= 0:
        raise ConfigError(
            "the federation's authority has expired",
            expected="one that is valid today (is the clock right?)",
            where=str(coordinator.ca_certificate),
            next_step="metaward server init, in a new folder; then enrol each hospital there: "
            "it needs a new kit.",
        )
    authority = Issued(coordinator.ca_certificate.read_bytes(), coordinator.ca_key.read_bytes())
    try:
        server = new_server_certificate(authority, coordinator.settings.host, now)
    except ValueError as error:
        raise ConfigError(
            f"no key that can sign ({error})",
            expected="the authority's key, as `metaward server init` wrote it",
            where=str(coordinator.ca_key),
            next_step=BRING_BACK,
        ) from None
    fresh = {path: path.with_suffix(path.suffix + ".new")
             for path in (coordinator.key, coordinator.certificate)}  # fmt: skip
    for path, content in zip(fresh, (server.key, server.certificate), strict=True):
        fresh[path].unlink(missing_ok=True)
        write_private(fresh[path], content)
    for path, new in fresh.items():  # only now, when both are on the disk
        new.replace(path)
