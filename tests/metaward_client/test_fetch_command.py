import json
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from metaward import cli
from metaward_client.pacs import site_fetch
from metaward_client.pacs.failures import EXPLANATIONS, Failure
from metaward_client.pacs.fetch import FetchReport

REPORT = FetchReport(
    n_studies=3, n_wanted=10, n_there=4, n_fetched=5, n_bytes=2_500_000, n_requests=17,
    failed=Counter({Failure.GONE: 1}), unlisted=Counter({Failure.PACS_ERROR: 2}),
    n_keys_without_instance=7, n_not_wanted=6,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _only_this_command(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("site", "metaward_client.site_command:register", "metaward.commands")
    monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def north(tmp_path: Path) -> Path:
    pacs = {"protocol": "dicomweb", "url": "https://pacs.example/dicom-web"}
    data = {"root": "images", "labels": "labels.csv", "key": "study_instance_uid", "pacs": pacs}
    (tmp_path / "labels.csv").write_text("study_instance_uid,label\n1.2,a")
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"name": "north", "data": data}))
    return tmp_path / "site.yaml"


def replace_fetch(monkeypatch: pytest.MonkeyPatch, outcome: FetchReport | BaseException) -> None:
    def fetch_site(*_: object, **__: object) -> FetchReport:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(site_fetch, "fetch_site", fetch_site)


def test_the_report_tells_what_came_what_did_not_and_why(
    north: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_fetch(monkeypatch, REPORT)
    assert cli.run(["site", "fetch", str(north)]) == 0
    out = capsys.readouterr().out
    assert "10 images of 3 studies are wanted: 4 were there, 5 fetched now (2.5 MB, 17" in out
    assert EXPLANATIONS[Failure.GONE].what in out
    assert EXPLANATIONS[Failure.PACS_ERROR].next_step in out
    assert "Of 7 keys of the label table the PACS has nothing" in out
    assert "6 images of earlier fetches are not wanted any more" in out
    assert "not encrypted" not in out


def test_json_is_one_object_and_nothing_else(
    north: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_fetch(monkeypatch, REPORT)
    assert cli.run(["site", "fetch", str(north), "--json"]) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert captured.err == ""
    not_fetched = [(item["of"], item["reason"], item["number"]) for item in said["not_fetched"]]
    assert not_fetched == [("images", "gone", 1), ("studies", "pacs_error", 2)]
    assert said["encrypted"] is True
    assert (said["keys_without_image"], said["there_but_not_wanted"]) == (7, 6)


def test_the_site_of_the_current_folder_is_fetched(
    north: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_fetch(monkeypatch, REPORT)
    monkeypatch.chdir(north.parent)
    assert cli.run(["site", "fetch"]) == 0


def test_nothing_at_all_ends_with_3(
    north: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_fetch(monkeypatch, FetchReport())
    assert cli.run(["site", "fetch", str(north)]) == 3
    assert "nothing was fetched" in capsys.readouterr().err


def test_an_interruption_ends_with_130(
    north: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_fetch(monkeypatch, KeyboardInterrupt())
    assert cli.run(["site", "fetch", str(north)]) == 130
    assert "Interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pacs": None}, "the site has no PACS"),
        ({"labels": None}, "no table says what shows on them"),
        ({"key": "path"}, "the label table names files"),
        ({"pacs": {"protocol": "dicom"}}, "'dicomweb', 'dimse'"),
        ({"pacs": {"protocol": "dimse", "host": "h"}}, "called_ae_title: this key is missing"),
        (
            {"pacs": {"protocol": "dicomweb", "url": "https://h", "password": "x"}},
            "password: there is no",
        ),
    ],
)
def test_a_wrong_setting_ends_with_2(
    north: Path, change: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(north.read_text())
    content["data"] |= change
    content["data"] = {key: value for key, value in content["data"].items() if value is not None}
    north.write_text(yaml.safe_dump(content))
    assert cli.run(["site", "fetch", str(north)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_scan_before_the_first_fetch_says_to_fetch(
    north: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["site", "scan", str(north)]) == 2
    assert "Run `metaward site fetch` first" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["site", "fetch", "--help"]) == 0
    assert "metaward site fetch /data/north/site.yaml" in capsys.readouterr().out
