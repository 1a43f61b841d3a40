"""A hospital whose every message is taken apart to its leaves, and whose names are planted."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from flwr.app import Context, Message, Metadata, RecordDict
from flwr.common.serde import message_to_proto
from google.protobuf.message import Message as Proto
from google.protobuf.unknown_fields import UnknownFieldSet

from dicom_factory import uid_of, write_dicom
from metaward.arrays import to_arrays
from metaward.learner_settings import (
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.study import Study
from metaward.wire import RoundOrder, encode_order
from metaward.wire_arrays import layout, spec_of
from metaward_client.app import app
from metaward_client.privacy.ledger import Ledger
from metaward_client.privacy.terms import Budget

PLANTED = "PLANTED"
"""In every patient's name and ID, and in every path of a file."""
LABELS = ("SAIDLABEL-a", "SAIDLABEL-b", "SAIDLABEL-unlisted")
"""The first two are on the policy's public list."""
MODEL = ModelSettings(filters=8, image_size=16, groups=2)
THETA = to_arrays(build_body(MODEL, 5).initial_parameters())
N_PARAMETERS = sum(leaf.size for leaf in THETA.values())
ROUNDS = 3
MECHANISMS = ("none", "dp-sgd", "block")

Leaves = dict[str, Any]  # Any: whatever protobuf holds


def leaves(message: Proto, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give every value that is set anywhere in a message, with its path, and fail on extras."""
    assert len(UnknownFieldSet(message)) == 0  # type: ignore[no-untyped-call]
    for field, value in message.ListFields():
        many = not isinstance(value, Proto | str | bytes | int | float)
        for number, item in enumerate(value if many else [value]):
            where = f"{path}.{field.name}{f'[{number}]' if many else ''}"
            if isinstance(item, Proto):
                yield from leaves(item, where)
            else:
                yield where, item


def wire(message: Message) -> Proto:
    proto: Proto = message_to_proto(message)
    sent = type(proto)()
    sent.ParseFromString(proto.SerializeToString())
    return sent


@dataclass
class Hospital:
    """A site's folder, and how to ask it.

    Attributes:
        node: The node's settings.
        replies: What it sent, so far.
    """

    folder: Path
    node: dict[str, Any]
    replies: list[Message]

    def ask(self, study: Study, round_index: int = 0) -> Message:
        content = encode_order(RoundOrder(study, round_index, THETA))
        metadata = Metadata(1, f"m{round_index}", 0, 7, "", "1", 1.0e9, 60.0, "train")
        message = Message(metadata=metadata, content=content)  # type: ignore[call-overload]
        reply = app(message, Context(1, 7, self.node, RecordDict(), {}))
        self.replies.append(reply)
        return reply

    @property
    def round_log(self) -> Path:
        return Path(self.node["round-log"])

    def written(self) -> dict[str, bytes]:
        """Return all that a round writes beside the cache of images: name -> content."""
        places = [self.folder / "books", self.folder / "seals", self.folder / "logs"]
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for place in places
            for path in place.rglob("*")
            if path.is_file()
        }


def privacy_of(mechanism: str) -> dict[str, Any]:
    if mechanism == "none":
        return {"mechanism": "none"}
    common = {
        "mechanism": mechanism, "target_epsilon": float(ROUNDS), "target_delta": 1e-3,
        "population": 100, "sample_rate": 0.5, "ledger": "books", "witness": "seals",
    }  # fmt: skip
    if mechanism == "block":
        return common | {"blocks": 3}
    return common | {"labels": list(LABELS[:2]), "steps_per_round": 2}


def new_hospital(tmp_path: Path, mechanism: str) -> Hospital:
    """Make a site of twelve patients with two files each."""
    root = tmp_path / "images"
    rows = ["sop_instance_uid,label"]
    rng = np.random.default_rng(3)
    for number in range(24):
        patient = number // 2
        name = f"{PLANTED}-file-{number}"
        write_dicom(
            path=root / f"{PLANTED}-folder-{patient}" / name,
            pixels=rng.integers(0, 4000, (16, 16)).astype(np.uint16),
            patient_id=f"{PLANTED}-{patient}",
            elements={"PatientName": f"{PLANTED}^NAME"},
        )
        rows.append(f"{uid_of(name)},{LABELS[2 if patient == 11 else patient % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    settings = {
        "name": "north", "data": {"root": "images", "labels": "labels.csv"},
        "cache": "cache", "privacy": privacy_of(mechanism),
    }  # fmt: skip
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(settings))
    if mechanism != "none":
        Ledger.create(tmp_path / "books", tmp_path / "seals", Budget(float(ROUNDS), 1e-3))
    node = {"site": str(tmp_path), "round-log": str(tmp_path / "logs" / "north.jsonl")}
    node |= {"simulated": True}
    return Hospital(tmp_path, node, [])


def learners(mechanism: str) -> list[LearnerSettings]:
    gradient: list[LearnerSettings] = [
        FedAvgSettings(local_steps=1),
        ReptileSettings(n_way=2, n_shot=1, inner_steps=1, episodes=1),
        FomamlSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    ]
    if mechanism == "dp-sgd":
        return gradient
    return [*gradient, PrototypicalSettings(n_way=2, n_shot=1, n_query=1, episodes=1)]


def study_of(learner: LearnerSettings, seed: int = 5) -> Study:
    return Study(seed=seed, model=MODEL, learner=learner)


ENVELOPE = {
    ".metadata.run_id": 1,
    ".metadata.src_node_id": 7,
    ".metadata.group_id": "1",
    ".metadata.message_type": "train",
}
"""What Flower adds, beside two times and the name of the message that is answered."""
TIMES = {".metadata.ttl", ".metadata.created_at"}
REPLY_TO = ".metadata.reply_to_message_id"


def without_envelope(reply: Message, round_index: int) -> Leaves:
    """Return the leaves that the site itself chose."""
    found = dict(leaves(wire(reply)))
    for path, value in {**ENVELOPE, REPLY_TO: f"m{round_index}"}.items():
        assert found.pop(path) == value
    for path in TIMES:
        assert isinstance(found.pop(path), float)
    return found


PROMISES: dict[str, tuple[tuple[str, str, object], ...]] = {
    "none": (("mechanism", "string", "none"),),
    **{
        mechanism: (
            ("mechanism", "string", mechanism),
            ("neighbouring", "string", relation),
            ("target-epsilon", "double", float(ROUNDS)),
            ("target-delta", "double", 1e-3),
        )
        for mechanism, relation in (
            ("dp-sgd", "add or remove one patient"),
            ("block", "replace one patient"),
        )
    },
}
"""What a site says of its policy: its constants, in every round the same."""


def expected_update(study: Study, round_index: int, mechanism: str) -> Leaves:
    """All leaves of an update but the arrays' bytes; in the order in which they are encoded."""
    records = {
        ".content.items[0].key": "update",
        ".content.items[1].key": "delta",
    }
    header = ".content.items[0].config_record.items"
    values = (("protocol", "sint64", 1), ("round", "sint64", round_index),
              ("study-digest", "string", study.digest()), *PROMISES[mechanism])  # fmt: skip
    for number, (key, kind, value) in enumerate(values):
        records |= {f"{header}[{number}].key": key, f"{header}[{number}].value.{kind}": value}
    array = ".content.items[1].array_record.items[0]"
    records |= {f"{array}.key": layout(spec_of(THETA)), f"{array}.value.dtype": "float32"}
    records |= {f"{array}.value.stype": "metaward.float32-le"}
    records |= {f"{array}.value.shape[0]": N_PARAMETERS}
    return records
