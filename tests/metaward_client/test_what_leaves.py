"""Every value of every message that leaves a site, and every text that a site writes meanwhile.

A site of DICOM files answers whole studies through its Flower app. What it sends is turned into
Flower's wire format and taken apart to its leaves; a leaf that is not expected fails. Names planted
into patients, files and labels are then looked for wherever something was written.
"""

import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
from metaward.models.body import build_body
from metaward.study import ModelSettings, Study
from metaward.wire import RoundOrder, SiteRefusal, encode_order, layout, spec_of
from metaward_client import site_work
from metaward_client.app import app
from metaward_client.privacy.ledger import Ledger
from metaward_client.privacy.release import Released
from metaward_client.privacy.terms import Budget
from private_site import TOY

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


@pytest.fixture(autouse=True)
def _surroundings(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaward_client.privacy.ledger.ledger.accountant_of_record", lambda: TOY)


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


@pytest.fixture
def hospital(tmp_path: Path) -> Callable[[str], Hospital]:
    """Make a site of twelve patients with two files each, one of them damaged."""

    def make(mechanism: str) -> Hospital:
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

    return make


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


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_of_a_whole_study_nothing_leaves_but_one_finite_delta_a_round(
    mechanism: str, hospital: Callable[[str], Hospital]
) -> None:
    site = hospital(mechanism)
    for number, learner in enumerate(learners(mechanism)[: 1 if mechanism != "none" else None]):
        study = study_of(learner, seed=number)
        for round_index in (*range(ROUNDS), ROUNDS - 1):  # the last is asked twice
            found = without_envelope(site.ask(study, round_index), round_index)
            arrays = {path: found.pop(path) for path in list(found) if path.endswith(".data")}
            assert found == expected_update(study, round_index, mechanism)
            [content] = arrays.values()
            assert len(content) == 4 * N_PARAMETERS
            assert np.isfinite(np.frombuffer(content, "<f4")).all()


@pytest.mark.parametrize(
    ("mechanism", "learner"),
    [(mechanism, learner) for mechanism in MECHANISMS for learner in learners(mechanism)],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_learner_sends_the_same_kind_of_message(
    mechanism: str, learner: LearnerSettings, hospital: Callable[[str], Hospital]
) -> None:
    study = study_of(learner)
    found = without_envelope(hospital(mechanism).ask(study), 0)
    assert {path: v for path, v in found.items() if not path.endswith(".data")} == expected_update(
        study, 0, mechanism
    )


def test_the_walk_through_a_message_sees_what_does_not_belong_there(
    hospital: Callable[[str], Hospital],
) -> None:
    from flwr.app import ConfigRecord, MetricRecord

    reply = hospital("none").ask(study_of(FedAvgSettings(local_steps=1)))
    before = dict(leaves(wire(reply)))
    reply.content["metrics"] = MetricRecord({"loss": 0.5})
    config = reply.content["update"]
    assert isinstance(config, ConfigRecord)
    config["n-images"] = 24
    added = {path: v for path, v in leaves(wire(reply)) if before.get(path) != v}
    assert {"metrics", "loss", 0.5, "n-images", 24} <= set(added.values())


# Refusals


def contradict_a_label(site: Hospital) -> None:
    """Give one image a second label."""
    table = site.folder / "labels.csv"
    table.write_text(table.read_text() + f"{uid_of(f'{PLANTED}-file-0')},{LABELS[1]}\n")


def open_a_quotation(site: Hospital) -> None:
    table = site.folder / "labels.csv"
    table.write_text(table.read_text().replace(f"{LABELS[0]}\n", f'"{PLANTED}\n', 1))


def break_a_row(site: Hospital) -> None:
    table = site.folder / "labels.csv"
    table.write_bytes(table.read_bytes() + f"{PLANTED},\u00fc\n".encode("latin-1"))


def damage_all_images(site: Hospital) -> None:
    for path in (site.folder / "images").rglob(f"{PLANTED}-file-*"):
        path.write_bytes(path.read_bytes()[:700])


def remove_labels(site: Hospital) -> None:
    (site.folder / "labels.csv").write_text("uid,finding\n")


def spend_everything(site: Hospital) -> None:
    for round_index in range(10, 10 + ROUNDS):
        site.ask(study_of(FedAvgSettings(local_steps=1), seed=9), round_index)


def break_ledger(site: Hospital) -> None:
    path = site.folder / "books" / "ledger.jsonl"
    path.write_bytes(path.read_bytes() + PLANTED.encode() + b"\n")


def lose_ledger(site: Hospital) -> None:
    (site.folder / "books" / "ledger.jsonl").unlink()


def no_policy(site: Hospital) -> None:
    path = site.folder / "site.yaml"
    content = yaml.safe_load(path.read_text())
    del content["privacy"]
    path.write_text(yaml.safe_dump(content))


def no_room_for_the_log(site: Hospital) -> None:
    site.round_log.parent.mkdir(exist_ok=True)
    site.round_log.mkdir()


FAILURES: list[tuple[str, Callable[[Hospital], None], SiteRefusal]] = [
    ("none", damage_all_images, SiteRefusal.DATA),
    ("none", remove_labels, SiteRefusal.STUDY),
    ("none", no_policy, SiteRefusal.STUDY),
    *(
        case
        for mechanism in MECHANISMS[1:]
        for case in (
            (mechanism, spend_everything, SiteRefusal.BUDGET),
            (mechanism, break_ledger, SiteRefusal.PRIVACY),
            (mechanism, lose_ledger, SiteRefusal.PRIVACY),
        )
    ),
]
EVERY_FAILURE = pytest.mark.parametrize(
    ("mechanism", "fail", "refusal"),
    FAILURES,
    ids=[f"{mechanism}-{fail.__name__}" for mechanism, fail, _ in FAILURES],
)


ONE_PATIENTS_FAULTS: list[tuple[str, Callable[[Hospital], None]]] = [
    *((mechanism, fault) for mechanism in MECHANISMS
      for fault in (contradict_a_label, open_a_quotation, break_a_row)),
    *((mechanism, damage_all_images) for mechanism in MECHANISMS[1:]),
]  # fmt: skip
"""What one patient's rows and files may cause; the last where that patient is the only one."""


# Planted names


class Recorder:
    """Everything that is written or raised while a site works."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        self.raised: list[str] = []
        self.caught: list[warnings.WarningMessage] = []
        self._caplog, self._capfd = caplog, capfd
        caplog.set_level(logging.DEBUG)
        honest = site_work.release

        def watched(*given: Any) -> Released:
            try:
                return honest(*given)
            except Exception as error:
                seen: BaseException | None = error
                while seen is not None:
                    self.raised += traceback.format_exception_only(seen)
                    seen = seen.__cause__ or seen.__context__
                raise

        monkeypatch.setattr(site_work, "release", watched)

    def texts(self, site: Hospital) -> dict[str, str]:
        out, err = self._capfd.readouterr()
        return {
            "stdout": out,
            "stderr": err,
            "log": self._caplog.text,
            "warnings": "".join(str(warning.message) for warning in self.caught),
            "exceptions": "".join(self.raised),
            "replies": "".join(
                wire(reply).SerializeToString().decode("latin-1") for reply in site.replies
            ),
            **{
                f"file {name}": name + content.decode("latin-1")
                for name, content in site.written().items()
            },
        }


@pytest.fixture
def recorder(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Recorder:
    return Recorder(monkeypatch, caplog, capfd)


def require_clean(texts: dict[str, str]) -> None:
    for where, text in texts.items():
        assert PLANTED not in text, where
        # an exception may name labels to the person who scans the site; nobody writes it down here
        assert where == "exceptions" or "SAIDLABEL" not in text, where
        assert not re.search(r"2\.25\.\d{10}", text), where  # a UID


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_planted_name_comes_out_nowhere_while_rounds_are_answered(
    mechanism: str, hospital: Callable[[str], Hospital], recorder: Recorder
) -> None:
    site = hospital(mechanism)
    damaged = site.folder / "images" / f"{PLANTED}-folder-3" / f"{PLANTED}-file-6"
    damaged.write_bytes(damaged.read_bytes()[:-200] + PLANTED.encode() * 9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for round_index in (0, 1, 1):
            assert not site.ask(study_of(FedAvgSettings(local_steps=1)), round_index).has_error()
    recorder.caught = caught
    texts = recorder.texts(site)
    assert "file logs/north.jsonl" in texts
    assert mechanism == "none" or "file books/ledger.jsonl" in texts
    require_clean(texts)


@EVERY_FAILURE
def test_of_a_refusal_only_a_number_leaves_and_a_planted_name_comes_out_nowhere(
    mechanism: str,
    fail: Callable[[Hospital], None],
    refusal: SiteRefusal,
    hospital: Callable[[str], Hospital],
    recorder: Recorder,
) -> None:
    site = hospital(mechanism)
    fail(site)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reply = site.ask(study_of(FedAvgSettings(local_steps=1)), 2)
    assert without_envelope(reply, 2) == {".error.code": int(refusal)}
    recorder.caught = caught
    texts = recorder.texts(site)
    if fail is break_ledger:  # that is where it was planted
        texts = {where: text for where, text in texts.items() if "ledger.jsonl" not in where}
    require_clean(texts)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_log_that_cannot_be_written_costs_no_answer_and_tells_nothing(
    mechanism: str, hospital: Callable[[str], Hospital], recorder: Recorder
) -> None:
    site = hospital(mechanism)
    no_room_for_the_log(site)
    study = study_of(FedAvgSettings(local_steps=1))
    found = without_envelope(site.ask(study, 2), 2)
    assert {path: v for path, v in found.items() if not path.endswith(".data")} == expected_update(
        study, 2, mechanism
    )
    texts = recorder.texts(site)
    assert "no line in north.jsonl" in texts["log"]
    require_clean(texts)


@pytest.mark.parametrize(
    ("mechanism", "fault"),
    ONE_PATIENTS_FAULTS,
    ids=[f"{mechanism}-{fault.__name__}" for mechanism, fault in ONE_PATIENTS_FAULTS],
)
def test_no_patients_rows_or_files_make_a_site_refuse(
    mechanism: str,
    fault: Callable[[Hospital], None],
    hospital: Callable[[str], Hospital],
    recorder: Recorder,
) -> None:
    site = hospital(mechanism)
    fault(site)
    study = study_of(FedAvgSettings(local_steps=1))
    found = without_envelope(site.ask(study, 1), 1)
    assert {path: v for path, v in found.items() if not path.endswith(".data")} == expected_update(
        study, 1, mechanism
    )
    texts = recorder.texts(site)
    assert "run `metaward site scan`" in texts["log"]
    require_clean(texts)
