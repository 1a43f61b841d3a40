"""The pre-flight of a node: one line for each thing that has to be right, with a next step.

Every check is a function that returns a finding and raises nothing; one that cannot be made because
an earlier thing is wrong is left out. Nothing is changed, nothing leaves but a TLS greeting and one
empty request.
"""

import http.client
import shutil
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from metaward.errors import ConfigError, MetawardError
from metaward_client.node.node_folder import NodeFolder, open_node, own_public_key, read_kit
from metaward_client.privacy.policy import NoPrivacy
from metaward_client.site_config import SiteConfig, read_site_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TIMEOUT_S = 10.0
CLOCK_OFF_S = 120.0
"""Flower's node signs the time, and the coordinator takes five minutes of difference."""
LEAST_FREE_BYTES = 2**30
SOON_DAYS = 30
FLEET_PATH = "/v1/fleet/pull-messages"
SHUT_PATH = "/v1/control/list-nodes"


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        name: What was looked at.
        state: ``ok``, ``warn`` (it works, but somebody should know), or ``wrong``.
        said: What was found.
        next_step: For ``warn`` and ``wrong``.
        exit_code: Of the command, where this is wrong.
    """

    name: str
    state: str
    said: str
    next_step: str = ""
    exit_code: int = 2


def check(site: Path, node_path: Path) -> Iterator[Finding]:
    """Look at settings, node, coordinator, disk, data and budget, one after the other."""
    try:
        config = read_site_config(site)
    except MetawardError as error:
        yield _wrong("settings", error)
        return
    yield Finding("settings", "ok", f"{config.name}, {site}")
    yield Finding("versions", "ok", _versions())
    yield _accelerator()
    yield from _node(node_path, config)
    yield from _disk(config, node_path)
    yield from _data(site)
    yield from _privacy(site, config)


def _node(path: Path, config: SiteConfig) -> Iterator[Finding]:
    try:
        node = open_node(path)
        key = own_public_key(node)
        yield Finding("key", "ok", "this user's own, closed to others")
        kit = read_kit(node)
    except MetawardError as error:
        yield _wrong("node", error)
        return
    if (kit.hospital, kit.public_key) != (config.name, key):
        said = "the kit is another hospital's, or for another key"
        yield Finding("kit", "wrong", said, "metaward site join, with the kit for this request")
        return
    yield Finding("kit", "ok", f"{kit.federation} at {kit.address}")
    yield from _coordinator(node, kit.address)
    approved = len(list(node.approvals.glob("*.yaml")))
    proposed = len(list(node.proposals.glob("*.yaml")))
    said = f"{approved} approved, {proposed} asked in vain"
    if approved:
        yield Finding("studies", "ok", said)
    else:
        yield Finding("studies", "warn", said, "metaward site approve, once there is a study")


def _coordinator(node: NodeFolder, address: str) -> Iterator[Finding]:
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=node.ca_certificate)
    connection = http.client.HTTPSConnection(
        host.strip("[]"), int(port), timeout=TIMEOUT_S, context=context
    )
    try:
        connection.connect()
        yield from _certificate(connection)
        status, date = _ask(connection, FLEET_PATH)
        shut, _ = _ask(connection, SHUT_PATH)
    except ssl.SSLCertVerificationError as error:
        said = f"the certificate is not accepted ({error.verify_message})"
        step = "Is the clock right? Does the coordinator have to renew? If not: a new kit."
        yield Finding("coordinator", "wrong", said, step, 5)
        return
    except (OSError, http.client.HTTPException) as error:
        said = f"{address} cannot be reached ({type(error).__name__})"
        step = "Is it started? Does the firewall let this machine out to that address and port?"
        yield Finding("coordinator", "wrong", said, step, 5)
        return
    finally:
        connection.close()
    yield _answer(status, shut)
    yield _clock(date)


def _certificate(connection: http.client.HTTPSConnection) -> Iterator[Finding]:
    assert isinstance(connection.sock, ssl.SSLSocket)
    certificate = connection.sock.getpeercert() or {}
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    days = (end - datetime.now(UTC)).days
    state, step = ("ok", "") if days >= SOON_DAYS else ("warn", "Tell the coordinator.")
    yield Finding("certificate", state, f"of the kit's authority, {days} days left", step, 5)


def _ask(connection: http.client.HTTPSConnection, path: str) -> tuple[int, str]:
    connection.request("POST", path, body=b"")
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.headers.get("Date", "")


def _answer(status: int, shut: int) -> Finding:
    if status in (404, 502, 503, 504):
        said = f"something answers, but no SuperLink behind it (HTTP {status})"
        return Finding("coordinator", "wrong", said, "Ask whether the coordinator is started.", 5)
    if shut != http.HTTPStatus.NOT_FOUND:
        said = "its control interface is open to the network: others could start code"
        return Finding("coordinator", "wrong", said, "Do not start. Tell the coordinator.", 5)
    return Finding("coordinator", "ok", "reached over TLS; its control interface is shut")


def _clock(date: str) -> Finding:
    try:
        off = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    except (TypeError, ValueError):
        return Finding("clock", "warn", "the coordinator did not say its time", "Check the clock.")
    if abs(off) > CLOCK_OFF_S:
        said = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the coordinator's"
        return Finding("clock", "wrong", said, "Set it (chrony or systemd-timesyncd).", 5)
    return Finding("clock", "ok", "that of the coordinator")


def _disk(config: SiteConfig, node: Path) -> Iterator[Finding]:
    places: dict[str, Path] = {"node": node}
    if config.cache is not None:
        places["cache"] = config.cache
    if config.privacy is not None and not isinstance(config.privacy, NoPrivacy):
        places["ledger"] = config.privacy.ledger
    for name, path in places.items():
        folder = next(parent for parent in (path, *path.parents) if parent.exists())
        free = shutil.disk_usage(folder).free
        said = f"{free / 2**30:.0f} GiB free for the {name}"
        if free < LEAST_FREE_BYTES:
            step = f"Make room, or move the {name} to another disk."
            yield Finding("disk", "wrong", said, step)
        else:
            yield Finding("disk", "ok", said)


def _data(site: Path) -> Iterator[Finding]:
    from metaward_client.scan_report import count_labels
    from metaward_client.site import load_site

    try:
        loaded = load_site(site)
        scan, images = loaded.decode(loaded.scan())
        scan.require_usable(where=loaded.where)
    except MetawardError as error:
        yield _wrong("data", error)
        return
    refused = sum(scan.refused.values())
    said = f"{len(scan.images)} images of {scan.n_patients} patients; {refused} files left out"
    yield Finding("data", "ok", said)
    thin = [count.name for count in count_labels(scan) if not count.supports(5)]
    said = f"{len(scan.label_names)} labels"
    if thin:
        said += f"; fewer than 5 images beside a patient to score on: {', '.join(thin)}"
        yield Finding("labels", "warn", said, "They take part in no episode with 5 shots.")
    else:
        yield Finding("labels", "ok", said)
    yield _leakage(images, [image.patient for image in scan.images])


def _leakage(images: "NDArray[np.float16]", patients: list[int]) -> Finding:
    """Find the same picture under two patients: a split by patient would not keep them apart."""
    from hashlib import blake2b

    owners: dict[bytes, set[int]] = {}
    for image, patient in zip(images, patients, strict=True):
        owners.setdefault(blake2b(image.tobytes(), digest_size=16).digest(), set()).add(patient)
    shared = sum(len(who) > 1 for who in owners.values())
    if not shared:
        return Finding("leakage", "ok", "no picture stands under two patients")
    said = f"{shared} pictures stand under more than one patient"
    step = "Does one patient have two IDs? A patient who counts twice loses twice."
    return Finding("leakage", "warn", said, step)


def _privacy(site: Path, config: SiteConfig) -> Iterator[Finding]:
    match config.privacy:
        case None:
            said = "no policy: the site answers no study"
            step = "Write `privacy` into site.yaml; docs/privacy.md says how to choose."
            yield Finding("privacy", "wrong", said, step, 4)
        case NoPrivacy():
            said = "mechanism none: NOT PRIVATE"
            yield Finding("privacy", "warn", said, "A delta can reveal single patients.")
        case _:
            yield _budget(site)


def _budget(site: Path) -> Finding:
    from metaward_client.ledger_command import ledger_of
    from metaward_client.privacy.ledger import summary as summaries
    from metaward_client.privacy.ledger.snapshot import verify_ledger

    try:
        place = ledger_of(site)
        state = verify_ledger(place.folder, place.witness)
    except MetawardError as error:
        return _wrong("privacy", error)
    accounting = summaries.accounting_of_record()
    found = summaries.summarise(state, place.budget, place.terms, accounting)
    said = (
        f"ledger as it was left; epsilon {found.epsilon:.2f} of {found.budget.target_epsilon:g} "
        f"spent, {found.rounds_remaining} rounds remain"
    )
    if not found.rounds_remaining:
        return Finding("privacy", "wrong", said, "metaward site budget", 4)
    return Finding("privacy", "ok", said)


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("metaward", "flwr", "torch"))


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("accelerator", "ok", torch.cuda.get_device_name())
    return Finding("accelerator", "ok", f"none; {torch.get_num_threads()} processor threads")


def _wrong(name: str, error: MetawardError) -> Finding:
    said = f"{error.found} ({error.where})" if error.where else error.found
    return Finding(name, "wrong", said, error.next_step, error.exit_code)


def require_all(findings: list[Finding]) -> None:
    """Raise for the first thing that is wrong, with its exit code.

    Raises:
        ConfigError: Or another of our errors, by the kind of what is wrong.
    """
    from metaward.errors import DataError, FederationError, PrivacyError

    kinds: dict[int, Callable[..., MetawardError]] = {
        2: ConfigError,
        3: DataError,
        4: PrivacyError,
        5: FederationError,
    }
    wrong = [finding for finding in findings if finding.state == "wrong"]
    if wrong:
        raise kinds[wrong[0].exit_code](
            f"{len(wrong)} of {len(findings)} checks failed",
            where=", ".join(dict.fromkeys(finding.name for finding in wrong)),
            next_step=wrong[0].next_step,
        )
