from datetime import date
from pathlib import Path

import pytest

from metaward.errors import ConfigError
from metaward_client.labels import read_label_table
from metaward_client.pacs.archive import Instance, Study, StudyQuery, is_uid
from metaward_client.pacs.settings import SelectSettings
from metaward_client.pacs.wanted import Wanted, wanted_of
from metaward_client.site_config import LabelKey


def wanted(tmp_path: Path, key: LabelKey, *names: str, **select: object) -> Wanted:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([f"{key},label", *(f"{name},a" for name in names)]))
    table = read_label_table(path, key=key, label="label")
    return wanted_of(SelectSettings.model_validate(select), table, key)


STUDY = Study("1.2", "p1", "20240105")
INSTANCE = Instance(STUDY, "1.2.3", "1.2.3.4", modality="CT")


def test_studies_of_the_table_are_asked_for_one_by_one(tmp_path: Path) -> None:
    asked = wanted(tmp_path, "study_instance_uid", "1.3", "1.2", "1.3", "1.*", "no uid").queries()
    assert list(asked) == [StudyQuery(study_uid="1.2"), StudyQuery(study_uid="1.3")]


def test_patients_are_asked_for_as_the_table_spells_them(tmp_path: Path) -> None:
    what = wanted(tmp_path, "patient_id", "p1", "P1", "Müller 7")
    assert [query.patient_id for query in what.queries()] == ["Müller 7", "P1", "p1"]
    assert what.has_study(Study("1.2", " p1", ""))
    assert not what.has_study(Study("1.2", "p11", ""))  # the PACS took the ID for a pattern


@pytest.mark.parametrize("key", ["sop_instance_uid", "series_instance_uid"])
def test_images_and_series_are_looked_for_in_all_studies_of_the_selection(
    tmp_path: Path, key: LabelKey
) -> None:
    what = wanted(tmp_path, key, "1.2.3", "1.2.3.4", modalities=("CT", "MR"))
    assert list(what.queries()) == [StudyQuery(modality="CT"), StudyQuery(modality="MR")]
    assert what.has(INSTANCE)
    assert not what.has(Instance(STUDY, "9", "9", modality="CT"))


def test_the_answers_are_sieved_again(tmp_path: Path) -> None:
    days = {"since": date(2024, 1, 5), "until": date(2024, 1, 5)}
    what = wanted(tmp_path, "study_instance_uid", "1.2", "1.3", modalities=("CT",), **days)
    assert what.has_study(STUDY)
    assert not what.has_study(Study("1.2", "p1", "20240104"))
    assert not what.has_study(Study("1.2", "p1", "20240106"))
    assert not what.has_study(Study("1.2", "p1", ""))
    assert not what.has_study(Study("1.4", "p1", "20240105"))
    assert what.has(INSTANCE)
    assert not what.has(Instance(STUDY, "1.2.3", "1.2.3.4", modality="MR"))


def test_without_labels_everything_of_the_selection_is_wanted(tmp_path: Path) -> None:
    what = wanted(tmp_path, "study_instance_uid", "7", labelled=False, studies=("1.2",))
    assert list(what.queries()) == [StudyQuery(study_uid="1.2")]
    assert what.has_study(STUDY)
    assert what.has(INSTANCE)
    assert not what.has_study(Study("1.3", "p1", ""))


def test_a_study_that_is_no_uid_is_named_by_its_number_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="number 2") as caught:
        wanted(tmp_path, "patient_id", "p", studies=("1.2", "Miller"))
    assert "Miller" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "1..2", "1.2/", "1.2?x=1", "1.2\\1.3", "1." * 33, "1.2\n"])
def test_what_could_ask_for_something_else_is_no_uid(text: str) -> None:
    assert not is_uid(text)


def test_days_are_written_as_dicom_does() -> None:
    day = date(2024, 1, 5)
    assert StudyQuery(since=day, until=day).days() == "20240105-20240105"
    assert StudyQuery(until=day).days() == "-20240105"
    assert StudyQuery().days() == ""
