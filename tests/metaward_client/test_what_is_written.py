"""Nothing of a patient is in any text that a site writes while it answers or refuses rounds.

Names planted into patients, files and labels are looked for wherever something was written.
"""

import logging
import re
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from dicom_factory import uid_of
from metaward.learner_settings import FedAvgSettings
from metaward.wire import SiteRefusal
from metaward_client import site_work
from metaward_client.privacy.release import Released
from watched_hospital import (
    LABELS,
    MECHANISMS,
    PLANTED,
    ROUNDS,
    Hospital,
    expected_update,
    study_of,
    wire,
    without_envelope,
)

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
