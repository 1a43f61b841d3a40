"""Promises of the model artefact: whole files, and no trust in them."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml

from artefact_cases import MODEL, card, parameters
from metaward import model_artefact
from metaward.arrays import to_arrays
from metaward.errors import ConfigError
from metaward.learner_settings import FomamlSettings
from metaward.model_artefact import expected_shapes, load_card, load_model, save_model
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body


@pytest.fixture
def theta():
    return parameters()


@pytest.fixture
def folder(tmp_path, theta):
    save_model(tmp_path / "model", card(), theta)
    return tmp_path / "model"


def tampered(folder, content):
    """Replace the parameters and make the card's hash fit, as an attacker would."""
    (folder / "meta.safetensors").write_bytes(content)
    fields = yaml.safe_load((folder / "model.yaml").read_text())
    fields["parameters_sha256"] = model_artefact.hashlib.sha256(content).hexdigest()
    (folder / "model.yaml").write_text(yaml.safe_dump(fields))
    return folder


def with_header(folder, change, pad=b""):
    """Rewrite the header of the parameter file through ``change``."""
    content = (folder / "meta.safetensors").read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    text = json.dumps(change(header) or header).encode()
    return tampered(folder, struct.pack("<Q", len(text)) + text + content[8 + size :] + pad)


def test_what_is_saved_is_what_is_loaded_bit_for_bit(folder, theta):
    loaded = load_model(folder)
    assert loaded.theta.keys() == theta.keys()
    assert all(np.array_equal(loaded.theta[name], theta[name]) for name in theta)
    assert loaded.card.learner == card().learner
    assert loaded.card.model_copy(update={"parameters_sha256": ""}) == card()


def test_saving_twice_gives_the_same_bytes(folder, tmp_path, theta):
    save_model(tmp_path / "again", card(), theta)
    for name in ("meta.safetensors", "model.yaml"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_safetensors_itself_reads_the_file(folder, theta):
    from safetensors.numpy import load_file

    assert load_file(folder / "meta.safetensors").keys() == theta.keys()


def assert_the_old_model_stays(folder, theta):
    changed = {name: leaf + 1 for name, leaf in theta.items()}
    with pytest.raises(OSError, match="No space"):
        save_model(folder, card(), changed)
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]
    name = next(iter(theta))
    assert np.array_equal(load_model(folder).theta[name], theta[name])


def test_a_failed_save_leaves_the_old_model_and_no_litter(folder, theta, monkeypatch):
    def full_disk(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_artefact, "write_durably", full_disk)
    assert_the_old_model_stays(folder, theta)


def test_a_model_that_cannot_get_its_name_leaves_it_to_the_old_one(folder, theta, monkeypatch):
    rename = Path.rename

    def full_disk(path, target):
        if path.name.endswith(".new"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full_disk)
    assert_the_old_model_stays(folder, theta)


def test_a_model_gets_its_name_when_both_files_are_on_the_disk(tmp_path, theta, monkeypatch):
    done, rename = [], Path.rename

    def place_and_size(status):
        return status.st_ino, status.st_size

    def noted_rename(path, target):
        assert {place_and_size(file.stat()) for file in path.iterdir()} == set(done)
        done.append("named")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda file: done.append(place_and_size(os.fstat(file))))
    monkeypatch.setattr(Path, "rename", noted_rename)
    save_model(tmp_path / "model", card(), theta)
    assert len(done) == 3
    assert done[-1] == "named"


def test_shapes_of_every_architecture_are_known_without_weights():
    for model in (MODEL, ModelSettings(name="resnet", filters=8), ModelSettings(channels=3)):
        built = to_arrays(build_body(model, 0).initial_parameters())
        assert expected_shapes(model, FomamlSettings()) == {
            name: leaf.shape for name, leaf in built.items()
        }


def test_a_missing_file_is_named(tmp_path, folder):
    with pytest.raises(ConfigError, match=r"model\.yaml: no such file"):
        load_model(tmp_path / "nowhere")
    (folder / "meta.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"meta\.safetensors: no such file"):
        load_model(folder)


def test_who_names_a_run_is_sent_to_its_model(folder):
    with pytest.raises(ConfigError, match=r"Name the folder that holds both: of a run, `model`"):
        load_model(folder.parent)


def test_changed_parameters_are_noticed(folder):
    content = bytearray((folder / "meta.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "meta.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="SHA-256"):
        load_model(folder)


def test_a_card_without_the_hash_of_its_parameters_is_not_taken(folder):
    fields = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump(fields | {"parameters_sha256": ""}))
    with pytest.raises(ConfigError, match=r"expected \(none\)"):
        load_model(folder)


def test_a_file_larger_than_the_architecture_is_refused_before_it_is_read(folder, monkeypatch):
    with (folder / "meta.safetensors").open("r+b") as file:
        file.truncate(10**12)  # sparse
    with pytest.raises(ConfigError, match="1,000,000,000,000 bytes"):
        load_model(folder)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(folder):
    (folder / "meta.safetensors").unlink()
    os.mkfifo(folder / "meta.safetensors")
    with pytest.raises(ConfigError, match="no such file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off"),
        (b"\x80\x04cposix\nsystem\n", "cut off"),
        (struct.pack("<Q", 2**63) + b"{}", "cut off or too large"),
        (struct.pack("<Q", 2) + b"[]", "not a table"),
        (struct.pack("<Q", 8) + b"not json", "not the JSON"),
        (struct.pack("<Q", 40000) + b"[" * 40000, "not the JSON"),
        (struct.pack("<Q", 17) + b'{"a": 1, "a": 2} ', "not the JSON"),
        (struct.pack("<Q", 2) + b"{}", "is missing"),
    ],
)
def test_a_damaged_header_is_refused(folder, content, message):
    with pytest.raises(ConfigError, match=message):
        load_model(tampered(folder, content))


def test_unknown_leaves_types_shapes_and_places_are_refused(folder):
    def edit(name=None, **entry):
        def change(header):
            first = sorted(key for key in header if key.startswith("convs"))[0]
            header[name or first] = {**header[first], **entry}

        return change

    for change, message in (
        (edit("evil", shape=[10**12]), "'evil' is unknown"),
        (edit(dtype="F64"), "'F64'"),
        (edit(shape=[1]), r"\[1\] where F32"),
        (edit(shape=[-8, -1, 3, 3]), "where F32"),
        (edit(data_offsets=[0, 4]), "has bytes 0 to 4"),
        (edit(data_offsets=[-288, 0]), "has bytes -288 to 0"),
        (edit(data_offsets="all"), "no place"),
    ):
        before = (folder / "meta.safetensors").read_bytes()
        with pytest.raises(ConfigError, match=message):
            load_model(with_header(folder, change))
        tampered(folder, before)
    load_model(folder)


def test_leaves_that_share_bytes_are_refused(folder):
    def share(header):
        header["norms.1.weight"]["data_offsets"] = header["norms.0.weight"]["data_offsets"]

    with pytest.raises(ConfigError, match="share bytes"):
        load_model(with_header(folder, share))


def test_values_that_are_not_finite_are_refused(tmp_path, theta):
    theta["norms.0.bias"][0] = np.inf
    save_model(tmp_path / "model", card(), theta)
    with pytest.raises(ConfigError, match=r"norms\.0\.bias holds values that are not finite"):
        load_model(tmp_path / "model")


def test_a_misspelt_key_of_the_card_is_named(folder):
    text = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(text.replace("rounds:", "ruonds:"))
    with pytest.raises(ConfigError, match="did you mean 'rounds'"):
        load_card(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x, x]\nb: [*a, *a]\n", "anchors"),
        ("x: " + "[" * 30_000, "nested more than"),
        ("x: " + "y" * 70_000, "70,003 bytes"),
        ("!!python/object/apply:os.system ['true']", "YAML"),
    ],
)
def test_a_hostile_card_is_refused(folder, text, message):
    (folder / "model.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_card(folder)
