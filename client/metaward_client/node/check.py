"""The pre-flight of a node: one line for each thing that has to be right, with a next step.

Every check is a function that returns a finding and raises nothing; one that cannot be made because
an earlier thing is wrong is left out. Nothing is changed, nothing leaves but a TLS greeting and two
empty requests.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from metaward.errors import ConfigError, MetawardError
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.node.coordinator_check import look_at_coordinator
from metaward_client.node.disk_check import look_at_disks
from metaward_client.node.enrolment_check import look_at_enrolment
from metaward_client.node.finding import Finding
from metaward_client.node.node_folder import (
    NodeFolder,
    open_node,
    own_public_key,
    read_kit,
    require_own_kit,
)
from metaward_client.privacy.policy import DpSgdPolicy, NoPrivacy
from metaward_client.site_config import SiteConfig, read_site_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from metaward_client.site_scan import SiteScan


def check(site: Path, node_path: Path) -> Iterator[Finding]:
    """Look at settings, node, coordinator, disk, data and budget, one after the other."""
    try:
        config = read_site_config(site)
    except MetawardError as error:
        yield _wrong("settings", error)
        return
    yield Finding("settings", "ok", f"{config.name}, {site}")
    yield Finding("versions", "ok", _versions())
    yield _device(config.device)
    yield from _node(node_path, config)
    yield from look_at_disks(config, node_path)
    yield from _data(site, config)
    yield from _privacy(site, config)
    if _has_mechanism(config):
        yield from _before_the_mechanism(node_path)


def _node(path: Path, config: SiteConfig) -> Iterator[Finding]:
    try:
        node = open_node(path)
        key = own_public_key(node)
        yield Finding("key", "ok", "this user's own, closed to others")
        kit = read_kit(node)
        require_own_kit(kit, config.name, key)
    except MetawardError as error:
        yield _wrong("node", error)
        return
    yield Finding("kit", "ok", f"{kit.federation} at {kit.address}")
    yield from look_at_coordinator(kit.address, node.ca_certificate)
    yield from look_at_enrolment(node.log)
    approved = {path.name for path in node.approvals.glob("*.yaml")}
    in_vain = {path.name for path in node.proposals.glob("*.yaml")} - approved
    said = f"{len(approved)} approved, {len(in_vain)} asked in vain"
    if approved:
        yield Finding("studies", "ok", said)
    else:
        yield Finding("studies", "warn", said, "metaward site approve, once there is a study")


def _data(site: Path, config: SiteConfig) -> Iterator[Finding]:
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
    if _has_mechanism(config):
        yield from _shared_identifiers(scan)
    thin = [count.name for count in count_labels(scan) if not count.supports(5)]
    said = f"{len(scan.label_names)} labels"
    if thin:
        said += f"; fewer than 5 images beside a patient to score on: {', '.join(thin)}"
        yield Finding("labels", "warn", said, "They take part in no episode with 5 shots.")
    else:
        yield Finding("labels", "ok", said)
    if isinstance(config.privacy, DpSgdPolicy):
        yield from _public_list(config.privacy.labels, scan.label_names)
    yield _leakage(images, [image.patient for image in scan.images])


def _public_list(listed: Sequence[str], there: Sequence[str]) -> Iterator[Finding]:
    """Compare the policy's labels with those of the images: rounds are charged whether they fit."""
    missing = [name for name in listed if name not in there]
    if not missing:
        return
    step = "Is a label of privacy.labels spelt otherwise there? Each letter counts."
    if len(missing) == len(listed):
        said = f"no image has a label of privacy.labels; they have: {', '.join(there)}"
        yield Finding("public list", "wrong", said, step, 2)
    else:
        said = f"no image has one of these labels of privacy.labels: {', '.join(missing)}"
        yield Finding("public list", "warn", said, step)


def _shared_identifiers(scan: "SiteScan") -> Iterator[Finding]:
    """Say where one patient's files decide about the images of another."""
    if conflicting := scan.refused.get(RefusalReason.CONFLICTING_INSTANCE, 0):
        said = (
            f"{conflicting} files left out: their images' UIDs stand under more than one patient; "
            "the mechanism protects these patients as one group"
        )
        step = "Give each image a UID of its own; docs/threat-model.md says what a group is."
        yield Finding("identifiers", "warn", said, step)


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
            yield Finding("privacy", "wrong", said, step, 2)
        case NoPrivacy():
            said = "mechanism none: NOT PRIVATE"
            yield Finding("privacy", "warn", said, "A delta can reveal single patients.")
        case _:
            yield _budget(site)


def _has_mechanism(config: SiteConfig) -> bool:
    return config.privacy is not None and not isinstance(config.privacy, NoPrivacy)


def _before_the_mechanism(node_path: Path) -> Iterator[Finding]:
    """Say what the ledger does not count, where the node knows of it."""
    from metaward_client.node.site_log import sent_without_mechanism

    if sent := sent_without_mechanism(NodeFolder(node_path)):
        said = f"{sent} answers were sent under mechanism none; the ledger does not count them"
        step = "The budget's promise holds for patients who were in none of them."
        yield Finding("unprotected", "warn", said, step)


def _budget(site: Path) -> Finding:
    from metaward_client.ledger_command import ledger_of
    from metaward_client.privacy.ledger import summary as summaries
    from metaward_client.privacy.ledger.rules import require_recorded
    from metaward_client.privacy.ledger.snapshot import verify_ledger

    try:
        place = ledger_of(site)
        state = verify_ledger(place.folder, place.witness)
        require_recorded(state.budget, place.budget)
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


def _device(name: str) -> Finding:
    import torch

    from metaward.device import ON_CPU, device_of

    if name == ON_CPU:
        said = f"cpu, {torch.get_num_threads()} threads"
        if torch.cuda.is_available():
            said += f"; {torch.cuda.get_device_name()} is not used (`device: cuda` would)"
        return Finding("device", "ok", said)
    try:
        return Finding("device", "ok", f"{name}: {torch.cuda.get_device_name(device_of(name))}")
    except ConfigError as error:
        return _wrong("device", error)


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
