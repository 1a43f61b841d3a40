"""The node's folder: the hospital's key, the coordinator's kit, approvals, logs.

    node.key                the private key; made here, never leaves
    enrolment.yaml          the request: goes to the coordinator, is no secret
    kit.yaml, ca.crt        the coordinator's answer
    approvals/DIGEST.yaml   studies that somebody here agreed to
    proposals/DIGEST.yaml   studies that asked and were refused, because nobody did
    rounds.jsonl            the site's own log: one line for each order
    superexec.secret, flower/, bin/, log/, lock     of the processes

It holds no patient data; rounds.jsonl holds losses of training, which never leave.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from metaward.config import load_settings
from metaward.enrolment import Kit, new_request, public_text, write_yaml
from metaward.errors import ConfigError
from metaward.private_file import make_private_folder, require_private, write_private

SECRET_BYTES = 32


@dataclass(frozen=True)
class NodeFolder:
    """Where a node keeps what it must remember."""

    path: Path

    @property
    def key(self) -> Path:
        """The private key."""
        return self.path / "node.key"

    @property
    def request(self) -> Path:
        """The request to the coordinator."""
        return self.path / "enrolment.yaml"

    @property
    def kit(self) -> Path:
        """The coordinator's answer."""
        return self.path / "kit.yaml"

    @property
    def ca_certificate(self) -> Path:
        """The authority whose certificates the node trusts."""
        return self.path / "ca.crt"

    @property
    def secret(self) -> Path:
        """What the node's two processes share."""
        return self.path / "superexec.secret"

    @property
    def approvals(self) -> Path:
        """One file for each study that was approved."""
        return self.path / "approvals"

    @property
    def proposals(self) -> Path:
        """One file for each study that asked in vain."""
        return self.path / "proposals"

    @property
    def round_log(self) -> Path:
        """One line for each order."""
        return self.path / "rounds.jsonl"

    @property
    def log(self) -> Path:
        """What the processes say."""
        return self.path / "log"


def create_node(path: Path, hospital: str) -> NodeFolder:
    """Make the folder, the key and the request.

    Raises:
        ConfigError: There is a node already.
    """
    node = NodeFolder(path)
    if node.key.exists():
        raise ConfigError(
            "this hospital has a node already",
            expected="a site without one",
            where=str(path),
            next_step=f"Send {node.request.name} to the coordinator; or move the folder away.",
        )
    for part in (path, node.approvals, node.proposals, node.log, path / "flower", path / "bin"):
        make_private_folder(part)
    key = ec.generate_private_key(ec.SECP384R1())
    write_yaml(node.request, new_request(hospital, key))
    write_private(node.secret, secrets.token_bytes(SECRET_BYTES))
    # last: a folder without the key is none, so one left half-made can be made again
    write_private(
        node.key,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    return node


def open_node(path: Path) -> NodeFolder:
    """Return a node after a look at its secrets.

    Raises:
        ConfigError: There is none, or others may read its secrets.
    """
    node = NodeFolder(path)
    if not node.key.exists():
        raise ConfigError(
            "this site has no node",
            expected="a key, made by `metaward site init`",
            where=str(path),
            next_step="metaward site init",
        )
    for secret in (node.key, node.secret):
        require_private(secret)
    return node


def join(node: NodeFolder, kit: Kit, hospital: str) -> None:
    """Take a kit.

    Raises:
        ConfigError: It is another hospital's, or for another key.
    """
    if kit.hospital != hospital or kit.public_key != own_public_key(node):
        raise ConfigError(
            f"a kit for {kit.hospital}"
            + ("" if kit.hospital != hospital else ", with a key that is not this node's"),
            expected=f"the kit for {hospital} and the key in {node.request.name}",
            where=str(node.path),
            next_step="Ask the coordinator for the kit that answers your request.",
        )
    node.ca_certificate.write_text(kit.ca_certificate, encoding="ascii")
    write_yaml(node.kit, kit)


def read_kit(node: NodeFolder) -> Kit:
    """Return the kit that the node has taken.

    Raises:
        ConfigError: It has none yet.
    """
    if not node.kit.exists():
        raise ConfigError(
            "no kit",
            expected="the coordinator's answer to the request",
            where=str(node.kit),
            next_step=f"Send {node.request} to the coordinator, then: metaward site join",
        )
    return load_settings(node.kit, Kit)


def require_own_kit(kit: Kit, hospital: str, key: str) -> None:
    """Check that the kit is this hospital's, for the key that the node has.

    Raises:
        ConfigError: It is not: the key was changed, or the kit.
    """
    if (kit.hospital, kit.public_key) != (hospital, key):
        raise ConfigError(
            "the kit is another hospital's, or for another key",
            expected=f"the kit for {hospital} and the key in node.key",
            where="node/kit.yaml",
            next_step="Bring the right node.key back; or enrol the new one, then: "
            "metaward site join",
        )


def own_public_key(node: NodeFolder) -> str:
    """Return the node's public key as OpenSSH writes it.

    Raises:
        ConfigError: The key file is damaged.
    """
    try:
        key = serialization.load_ssh_private_key(node.key.read_bytes(), password=None)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            "no private key",
            expected="the file as `metaward site init` wrote it",
            where=str(node.key),
            next_step="Bring it back; or make a new node and enrol it again.",
        )
    return public_text(key.public_key())
