from pathlib import Path

import pytest

from metaward.errors import ConfigError, DataError
from metaward_client.labels import LabelTable, comparable_key, read_label_table


def _read(path: Path, content: str | bytes, **how: str) -> LabelTable:
    data = content if isinstance(content, bytes) else content.encode()
    (path / "labels.csv").write_bytes(data)
    key = how.pop("key", "sop_instance_uid")
    return read_label_table(path / "labels.csv", key=key, label=how.pop("label", "label"))  # type: ignore[arg-type]


def test_rows_are_numbered_as_a_spreadsheet_shows_them(tmp_path: Path) -> None:
    table = _read(tmp_path, "sop_instance_uid,label\n1.2,a\n\n1.3,b\n1.2,a\n")
    assert table.labels_of == {"1.2": {"a": [2, 5]}, "1.3": {"b": [4]}}
    assert table.n_rows == 3


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfsop_instance_uid,label\r\n1.2,a\r\n",
        b"label;SOPInstanceUID\na;1.2\n",
        b"SOP Instance UID\tlabel\n1.2\ta\n",
        b'"sop_instance_uid", label\n"1.2"," a "\n',
    ],
)
def test_tables_as_spreadsheets_write_them_are_read(tmp_path: Path, content: bytes) -> None:
    assert _read(tmp_path, content).labels_of == {"1.2": {"a": [2]}}


@pytest.mark.parametrize(
    "content",
    [
        b"SOPInstanceUID;Finding (yes, no, unclear);label\n1.2;yes;a\n",
        b'sop_instance_uid,"left; right; both; none",label\n1.2,left,a\n',
        b'"Finding, side";SOPInstanceUID;label\nleft;1.2;a\n',
    ],
)
def test_a_name_may_hold_signs_that_part_columns_in_other_tables(
    tmp_path: Path, content: bytes
) -> None:
    assert _read(tmp_path, content).labels_of == {"1.2": {"a": [2]}}


def test_rows_without_key_or_label_are_counted(tmp_path: Path) -> None:
    table = _read(tmp_path, "sop_instance_uid,label\n1.2,\n,a\n1.3\n1.4,b\n")
    assert table.incomplete_rows == (2, 3, 4)
    assert list(table.labels_of) == ["1.4"]


def test_two_labels_for_one_key_are_kept_apart(tmp_path: Path) -> None:
    table = _read(tmp_path, "sop_instance_uid,label\n1.2,a\n1.2,b\n")
    assert table.labels_of == {"1.2": {"a": [2], "b": [3]}}


@pytest.mark.parametrize(
    ("key", "value", "compared"),
    [
        ("patient_id", " p7 ", "P7"),
        ("path", r".\a\b.dcm", "a/b.dcm"),
        ("path", "./a//b.dcm", "a/b.dcm"),
        ("study_instance_uid", "1.2\0", "1.2"),
    ],
)
def test_keys_are_compared_in_one_form(key: str, value: str, compared: str) -> None:
    assert comparable_key(key, value) == compared  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "sop_instance_uid,findings,PLANTED",
            "no column named 'finding' among 3 (did you mean column 2?); "
            "'sop_instance_uid' is there",
        ),
        (
            "SOPInstanceUID,FINDING",
            "'finding' among 2 (did you mean column 2?); 'sop_instance_uid'",
        ),
        ("1.2.3,PLANTED^ANNA", "no column named 'sop_instance_uid' among 2; the key and the label"),
        ("1.2.3,findings", "no column named 'sop_instance_uid' among 2; the key and the label"),
        ("study_instance_uid,finding", "(did you mean column 1, 'study_instance_uid'?); 'finding'"),
        ("1.2.3,finding", "no column named 'sop_instance_uid' among 2; 'finding' is there"),
        ("finding,sop_instance_uid,finding", "2 columns named 'finding'"),
        ("", "no column named 'sop_instance_uid'; row 1 is empty"),
    ],
)
def test_a_wrong_header_is_described_without_a_cell_of_it(
    tmp_path: Path, header: str, message: str
) -> None:
    """Without a header row, row 1 is a patient's: no name but those of site.yaml may be shown."""
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, f"{header}\n1.2.3,PLANTED\n", label="finding")
    text = str(caught.value)
    assert message in text
    assert "row 1" in text
    for secret in ("PLANTED", "ANNA", "1.2.3", "findings", "FINDING"):
        assert secret not in text


def test_a_table_without_a_header_row_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="if the table has no header row, give it one"):
        _read(tmp_path, "1.2.3,PLANTED\n")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 columns named 'label'"):
        _read(tmp_path, "sop_instance_uid,label,label\n1,a,b\n")


@pytest.mark.parametrize("make_folder", [True, False])
def test_a_missing_table_is_named(tmp_path: Path, make_folder: bool) -> None:
    if make_folder:
        (tmp_path / "x.csv").mkdir()
    with pytest.raises(ConfigError, match="folder, not a file" if make_folder else "no such file"):
        read_label_table(tmp_path / "x.csv", key="path", label="label")


def test_a_table_whose_links_lead_to_one_another_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").symlink_to("x.csv")
    with pytest.raises(ConfigError, match="links that lead to one another"):
        read_label_table(tmp_path / "x.csv", key="path", label="label")


UNREADABLE = {
    "not UTF-8": "1.3,\u00fc".encode("latin-1"),
    "a zero byte": b"1.3,\0",
    "a quotation that does not end": b'1.3,"PLANTED',
    "text after a quotation": b'1.3,"a"PLANTED',
    "a cell too long": b"1.3," + b"x" * 200_000,
}


@pytest.mark.parametrize("row", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["unix", "windows", "mac"])
def test_a_row_that_cannot_be_read_is_counted_and_costs_no_other(
    tmp_path: Path, row: bytes, line_end: bytes
) -> None:
    lines = [b"sop_instance_uid,label", b"1.2,a", row, b"1.4,b", b'"1.5","c"']
    table = _read(tmp_path, line_end.join(lines))
    assert table.labels_of == {"1.2": {"a": [2]}, "1.4": {"b": [4]}, "1.5": {"c": [5]}}
    assert (table.unreadable_rows, table.incomplete_rows, table.n_rows) == ((3,), (), 4)


def test_two_open_quotations_do_not_swallow_the_rows_between_them(tmp_path: Path) -> None:
    """As one cell over three lines they would be well-formed, and a row could hide others."""
    table = _read(tmp_path, 'label,sop_instance_uid\na,"1.2\nb,1.3\nc,1.4"\n')
    assert table.unreadable_rows == (2,)
    assert table.labels_of["1.3"] == {"b": [3]}


@pytest.mark.parametrize(
    "content",
    [
        "sop_instance_uid,label\n1,a\n".encode("utf-16"),
        b'sop_instance_uid,"PLANTED\n1,a\n',
        b"sop_instance_uid,label,PLANTED\xfc\n1,a\n",
    ],
    ids=["UTF-16", "open quotation", "Latin-1"],
)
def test_a_header_that_cannot_be_read_is_an_error_that_quotes_nothing(
    tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(DataError, match="a header row that is not UTF-8, or") as caught:
        _read(tmp_path, content)
    assert "row 1" in str(caught.value)
    assert "PLANTED" not in str(caught.value)


def test_an_empty_table_is_a_missing_column(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="row 1 is empty"):
        _read(tmp_path, "")
