"""Requests and kits: who owns the key is proved, and a changed file is refused."""

import base64
import subprocess
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from metaward.config import load_settings
from metaward.enrolment import (
    EnrolmentRequest,
    Kit,
    new_request,
    public_text,
    read_public_key,
    read_request,
    write_yaml,
)
from metaward.errors import ConfigError

KEY = ec.generate_private_key(ec.SECP384R1())
REQUEST = new_request("north", KEY)


def written(path: Path, **changes: str) -> Path:
    write_yaml(path / "request.yaml", REQUEST.model_copy(update=changes))
    return path / "request.yaml"


def test_a_request_survives_being_written_and_read(tmp_path: Path) -> None:
    assert read_request(written(tmp_path)) == REQUEST
    assert REQUEST.public_key.startswith("ecdsa-sha2-nistp384 ")


def test_a_request_holds_nothing_private(tmp_path: Path) -> None:
    assert set(yaml.safe_load(written(tmp_path).read_text())) == {
        "hospital",
        "public_key",
        "signature",
    }
    assert "PRIVATE" not in written(tmp_path).read_text()


def test_a_request_whose_name_key_or_signature_was_changed_is_refused(tmp_path: Path) -> None:
    other = new_request("north", ec.generate_private_key(ec.SECP384R1()))
    for changes in (
        {"hospital": "south"},
        {"public_key": other.public_key},
        {"signature": other.signature},
        {"signature": "AAAA"},
        {"signature": "not base64!"},
        {"signature": f"{REQUEST.signature[:8]}!{REQUEST.signature[8:]}"},
    ):
        with pytest.raises(ConfigError, match="not made with the key"):
            read_request(written(tmp_path, **changes))


def test_a_key_of_another_kind_is_refused_with_what_makes_the_right_one() -> None:
    ed = ed25519.Ed25519PrivateKey.generate().public_key()
    p256 = ec.generate_private_key(ec.SECP256R1()).public_key()
    for text in (
        ed.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        public_text(p256),
        "ecdsa-sha2-nistp384 AAAA",
        "",
    ):
        with pytest.raises(ConfigError, match="metaward site init"):
            read_public_key(text, where="here")


@pytest.mark.parametrize("beside", ["{} a comment", " {}", "{}\n"])
def test_one_key_cannot_be_written_in_two_ways_and_so_pass_for_two(
    tmp_path: Path, beside: str
) -> None:
    key = beside.format(REQUEST.public_key)
    signed = f"metaward enrolment 1\nsouth\n{key}\n".encode()
    signature = base64.b64encode(KEY.sign(signed, ec.ECDSA(hashes.SHA384()))).decode()
    path = written(tmp_path, hospital="south", public_key=key, signature=signature)
    with pytest.raises(ConfigError, match="without a comment"):
        read_request(path)


def test_openssh_reads_our_public_key(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(REQUEST.public_key + "\n")
    command = ["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    assert done.stdout.startswith("384 ")


@pytest.mark.parametrize(
    "address", ["host", "host:", ":9443", "host:port", "ho st:1", "https://h:1", "a:1/x"]
)
def test_a_kit_with_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    content = {"hospital": "north", "federation": "f", "address": address, "public_key": "k"}
    (tmp_path / "kit.yaml").write_text(yaml.safe_dump(content | {"ca_certificate": "c"}))
    with pytest.raises(ConfigError, match="address"):
        load_settings(tmp_path / "kit.yaml", Kit)


@pytest.mark.parametrize("name", ["../x", "North", "a b", "", "-a"])
def test_a_hospital_cannot_choose_a_name_that_is_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="hospital"):
        read_request(written(tmp_path, hospital=name))
    assert EnrolmentRequest.model_fields["hospital"].metadata
