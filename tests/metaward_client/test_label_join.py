"""The join, on headers made by hand."""

import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from metaward_client.dicom.header import Header
from metaward_client.dicom.header_index import IndexedFile
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.dicom.walk import FoundFile
from metaward_client.label_join import Contradiction, Join, join_labels
from metaward_client.labels import LabelTable, read_label_table
from metaward_client.site_config import LabelKey


def _file(
    path: str,
    *,
    instance: str | None = None,
    patient: str = "p",
    issuer: str = "",
    series: str = "s",
    study: str = "t",
) -> IndexedFile:
    header = Header(
        path if instance is None else instance, series, study, patient, issuer, "MR", "1.2", 1
    )
    return IndexedFile(FoundFile(path, 1, 1), header)


def _table(*rows: tuple[str, str]) -> LabelTable:
    labels: dict[str, dict[str, list[int]]] = {}
    for number, (key, label) in enumerate(rows, start=2):
        labels.setdefault(key, {}).setdefault(label, []).append(number)
    return LabelTable(labels, len(rows), ())


def _labels(join: Join) -> dict[str, str]:
    return {image.file.path: image.label for image in join.images}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sop_instance_uid", "1.5"),
        ("series_instance_uid", "1.6"),
        ("study_instance_uid", "1.7"),
        ("patient_id", "ANNA"),
        ("path", "x/a"),
    ],
)
def test_every_key_finds_its_image(key: LabelKey, value: str) -> None:
    file = _file("x/a", instance="1.5", series="1.6", study="1.7", patient=" anna ")
    other = _file("x/b", instance="2.5", series="2.6", study="2.7", patient="bert")
    join = join_labels([file, other], _table((value, "sick")), key=key)
    assert _labels(join) == {"x/a": "sick"}
    assert join.refused == {RefusalReason.NO_LABEL: 1}


def test_the_summary_counts_what_does_not_fit() -> None:
    files = [_file("a"), _file("b"), _file("c")]
    table = _table(("a", "x"), ("b", "x"), ("b", "y"), ("z", "x"), ("z", "x"))
    join = join_labels(files, table, key="sop_instance_uid")
    assert join.summary.n_rows == 5
    assert join.summary.images_matched == 1
    assert join.summary.images_without_label == 1
    assert join.summary.rows_without_image == 2
    assert join.summary.images_ambiguous == 1
    assert join.summary.contradictions == (Contradiction((3, 4), ("x", "y"), 1),)


def test_one_contradiction_of_a_patient_counts_all_the_patients_images() -> None:
    files = [_file("a", patient="p"), _file("b", patient="P"), _file("c", patient="q")]
    join = join_labels(files, _table(("P", "x"), ("P", "y"), ("Q", "x")), key="patient_id")
    assert join.summary.contradictions == (Contradiction((2, 3), ("x", "y"), 2),)
    assert _labels(join) == {"c": "x"}


def test_the_first_folder_is_the_label_where_there_is_no_table() -> None:
    join = join_labels([_file("sick/1/a"), _file("well/b"), _file("c")], None, key="path")
    assert _labels(join) == {"sick/1/a": "sick", "well/b": "well"}
    assert join.refused == {RefusalReason.NO_LABEL: 1}


def test_folders_whose_names_are_not_utf8_are_different_labels_that_any_file_can_hold() -> None:
    folders = [os.fsdecode(name) for name in (b"b\xe4d", b"b\xe5d")]
    join = join_labels([_file(f"{folder}/1") for folder in folders], None, key="path")
    labels = {image.label for image in join.images}
    assert labels == {r"b\xe4d", r"b\xe5d"}


def test_an_umlaut_is_one_letter_however_unicode_writes_it(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "Läsion") for form in ("NFC", "NFD"))
    assert one != two
    files = [
        _file(f"{one}/a", patient=one, issuer=one),
        _file(f"{two}/b", patient=two, issuer=two),
    ]
    join = join_labels(files, None, key="path")
    assert {image.label for image in join.images} == {one}
    assert len({image.patient for image in join.images}) == 1
    rows: tuple[tuple[LabelKey, str], ...] = (("patient_id", one), ("path", f"{one}/b"))
    for key, row in rows:
        (tmp_path / "labels.csv").write_text(f"{key},label\n{row},{two}\n")
        table = read_label_table(tmp_path / "labels.csv", key=key, label="label")
        assert _labels(join_labels(files, table, key=key))[f"{two}/b"] == one


def test_a_patient_has_the_label_of_the_row_whatever_blanks_an_image_has_behind_the_id() -> None:
    files = [_file("a", patient="7"), _file("b", patient="7\r\n"), _file("c", patient="7\xa0")]
    join = join_labels(files, _table(("7", "sick")), key="patient_id")
    assert _labels(join) == dict.fromkeys("abc", "sick")
    assert len({image.patient for image in join.images}) == 1


def test_one_image_in_two_label_folders_is_a_contradiction() -> None:
    files = [_file("sick/a", instance="1"), _file("well/a", instance="1")]
    join = join_labels(files, None, key="path")
    assert join.images == ()
    assert join.refused == {RefusalReason.AMBIGUOUS_LABEL: 2}
    assert join.summary.contradictions == (Contradiction((), ("sick", "well"), 1),)


def test_a_contradiction_names_the_rows_of_every_copy() -> None:
    files = [_file("a", instance="1"), _file("b", instance="1")]
    join = join_labels(files, _table(("a", "x"), ("b", "x"), ("b", "y")), key="path")
    assert join.summary.contradictions == (Contradiction((2, 3, 4), ("x", "y"), 1),)


def test_a_copy_is_used_once() -> None:
    files = [_file("a", instance="1"), _file("b", instance="1")]
    join = join_labels(files, _table(("1", "x")), key="sop_instance_uid")
    assert _labels(join) == {"a": "x"}
    assert join.refused == {RefusalReason.DUPLICATE_INSTANCE: 1}


def test_the_copy_that_has_a_label_is_used() -> None:
    files = [_file("a", instance="1"), _file("b", instance="1")]
    assert _labels(join_labels(files, _table(("b", "x")), key="path")) == {"b": "x"}


def test_copies_of_two_patients_are_refused() -> None:
    files = [_file("a", instance="1", patient="p"), _file("b", instance="1", patient="q")]
    join = join_labels(files, _table(("1", "x")), key="sop_instance_uid")
    assert join.refused == {RefusalReason.CONFLICTING_INSTANCE: 2}


def test_images_without_patient_or_instance_are_refused() -> None:
    files = [_file("a", patient="  "), _file("b", instance="")]
    join = join_labels(files, _table(("a", "x")), key="path")
    assert join.refused == {RefusalReason.NO_PATIENT_ID: 1, RefusalReason.NO_INSTANCE_UID: 1}


def test_patient_ids_with_and_without_an_issuer_are_counted() -> None:
    files = [
        *(_file(f"a/{who}1", patient=who, issuer="N") for who in "123"),
        *(_file(f"a/{who}2", patient=who) for who in "124"),
        *(_file(f"a/5 {issuer}", patient="5", issuer=issuer) for issuer in "NS"),
    ]
    join = join_labels(files, None, key="sop_instance_uid")
    assert join.summary.ids_with_and_without_issuer == 2
    assert len({image.patient for image in join.images}) == 8


@pytest.mark.parametrize("other", ["S", ""])
def test_one_patient_id_of_two_issuers_or_none_is_two_patients_and_labels_neither(
    other: str,
) -> None:
    files = [_file("a", patient="7", issuer="N"), _file("b", patient="7", issuer=other)]
    by_image = join_labels(files, _table(("a", "x"), ("b", "y")), key="sop_instance_uid")
    assert len({image.patient for image in by_image.images}) == 2
    by_patient = join_labels(files, _table(("7", "x")), key="patient_id")
    assert by_patient.refused == {RefusalReason.NO_LABEL: 2}


def test_a_path_that_reads_like_a_patient_id_of_two_issuers_labels_its_image() -> None:
    files = [_file("7", patient="7", issuer="N"), _file("8", patient="7", issuer="S")]
    assert _labels(join_labels(files, _table(("7", "x")), key="path")) == {"7": "x"}


def test_the_order_is_that_of_instance_uids_whatever_the_files_are_called() -> None:
    files = [_file(name, instance=uid) for name, uid in [("a", "3"), ("b", "1"), ("c", "2")]]
    table = _table(("1", "x"), ("2", "x"), ("3", "x"))
    for order in (files, files[::-1]):
        join = join_labels(order, table, key="sop_instance_uid")
        assert [image.file.path for image in join.images] == ["b", "c", "a"]


def test_every_file_is_used_or_counted() -> None:
    files = [
        _file("a", instance="1"),
        _file("b", instance="1"),
        _file("c", instance="2"),
        _file("d", instance="2"),
        _file("e", instance="3"),
        _file("f", patient=""),
        IndexedFile(FoundFile("g", 1, 1), RefusalReason.NOT_DICOM),
    ]
    table = _table(("1", "x"), ("3", "x"), ("3", "y"))
    join = join_labels(files, table, key="sop_instance_uid")
    assert len(join.images) + sum(join.refused.values()) == len(files)
    assert join.refused == Counter(
        {
            RefusalReason.DUPLICATE_INSTANCE: 2,
            RefusalReason.NO_LABEL: 1,
            RefusalReason.AMBIGUOUS_LABEL: 1,
            RefusalReason.NO_PATIENT_ID: 1,
            RefusalReason.NOT_DICOM: 1,
        }
    )
