"""A fetch from an archive in memory, which is away, or wrong, when it is told to be."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dicom_factory import uid_of, write_dicom
from faulty_pacs import FakeClock
from metaward.errors import ConfigError, DataError
from metaward_client.pacs.archive import Instance, NotFetched, PacsAway, Sink, Study, StudyQuery
from metaward_client.pacs.failures import EXPLANATIONS, Failure
from metaward_client.pacs.fetch import Fetch, FetchReport
from metaward_client.pacs.landing import open_landing
from metaward_client.pacs.settings import SelectSettings
from metaward_client.pacs.wanted import Wanted

Problem = Callable[[], None]


@dataclass
class ScriptedArchive:
    """Has one study per list of image names.

    Attributes:
        problems: Question -> what it comes to, the first time, the second time, …
    """

    folder: Path
    content: dict[str, list[str]]
    problems: dict[str, list[Exception]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def _ask(self, question: str) -> None:
        self.asked.append(question)
        if self.problems.get(question):
            raise self.problems[question].pop(0)

    def check(self) -> None:
        self._ask("check")

    def studies(self, query: StudyQuery) -> list[Study]:  # noqa: ARG002
        self._ask("studies")
        return [Study(uid_of(name), "p") for name in self.content]

    def instances(self, study: Study, modality: str) -> list[Instance]:  # noqa: ARG002
        name = next(name for name in self.content if uid_of(name) == study.uid)
        self._ask(name)
        return [Instance(study, "1.2", uid_of(image)) for image in self.content[name]]

    def retrieve(self, instance: Instance, sink: Sink) -> None:
        names = (name for images in self.content.values() for name in images)
        name = next(name for name in names if uid_of(name) == instance.sop_uid)
        sink.write(b"half")
        self._ask(name)
        path = write_dicom(path=self.folder / "made", instance=name)
        sink.write(path.read_bytes()[4:])

    def close(self) -> None:
        pass


def away(times: int = 5) -> list[Exception]:
    return [PacsAway() for _ in range(times)]


@pytest.fixture
def archive(tmp_path: Path) -> ScriptedArchive:
    return ScriptedArchive(tmp_path, {"s1": ["a", "b"], "s2": ["c"], "s3": ["d", "e"]})


@dataclass
class Runs:
    root: Path
    time: FakeClock = field(default_factory=FakeClock)
    progress: list[tuple[str, int, int]] = field(default_factory=list)

    def run(self, archive: ScriptedArchive, **select: object) -> FetchReport:
        wanted = Wanted(SelectSettings.model_validate({"labelled": False, **select}))
        with open_landing(self.root) as landing:
            fetch = Fetch(archive, landing, wanted, self.time.clock(), self._on_progress)
            return fetch.run()

    def _on_progress(self, stage: str, done: int, total: int) -> None:
        self.progress.append((stage, done, total))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "root")


def test_what_is_there_is_not_asked_for_again(runs: Runs, archive: ScriptedArchive) -> None:
    assert runs.run(archive).n_fetched == 5
    archive.asked.clear()
    report = runs.run(archive)
    assert (report.n_wanted, report.n_there, report.n_fetched, report.n_bytes) == (5, 5, 0, 0)
    assert archive.asked == ["check", "studies", "s1", "s2", "s3"]


@pytest.mark.parametrize("failure", Failure)
def test_an_image_that_fails_is_counted_and_the_others_come(
    runs: Runs, archive: ScriptedArchive, failure: Failure
) -> None:
    archive.problems = {"b": [NotFetched(failure)]}
    report = runs.run(archive)
    assert (report.n_wanted, report.n_fetched) == (5, 4)
    assert report.failed == {failure: 1}
    assert EXPLANATIONS[failure].what.endswith(".")
    assert runs.run(archive).n_fetched == 1  # the next fetch tries it again


def test_a_pacs_that_is_briefly_away_is_asked_again_after_growing_pauses(
    runs: Runs, archive: ScriptedArchive
) -> None:
    archive.problems = {"check": away(1), "s2": away(2), "d": away(4)}
    assert runs.run(archive).n_fetched == 5
    assert runs.time.slept == [1, 1, 2, 1, 2, 4, 8]


def test_a_pacs_that_asks_for_a_longer_pause_gets_it(runs: Runs, archive: ScriptedArchive) -> None:
    archive.problems = {"a": [PacsAway(Failure.BUSY, wait=30.0), PacsAway(Failure.BUSY, wait=0.5)]}
    assert runs.run(archive).n_fetched == 5
    assert runs.time.slept == [30, 2]


@pytest.mark.parametrize("question", ["check", "studies", "s2"])
def test_a_pacs_that_stays_away_is_one_sentence_and_what_came_stays(
    runs: Runs, archive: ScriptedArchive, question: str
) -> None:
    archive.problems = {question: away()}
    n_before = 2 if question == "s2" else 0
    message = rf"stayed away.*no_answer\); {n_before} images were fetched before"
    with pytest.raises(DataError, match=message):
        runs.run(archive)
    assert archive.asked.count(question) == 5
    assert runs.run(archive).n_fetched == 5 - n_before


def test_one_slow_image_does_not_end_a_fetch(runs: Runs, archive: ScriptedArchive) -> None:
    archive.problems = {"a": away(), "b": away(), "d": away(), "e": away()}
    report = runs.run(archive)
    assert report.failed == {Failure.NO_ANSWER: 4}
    assert report.n_fetched == 1


def test_three_images_in_a_row_without_an_answer_do(runs: Runs, archive: ScriptedArchive) -> None:
    archive.problems = {"a": away(), "b": away(), "c": away(), "d": away()}
    with pytest.raises(DataError, match="stayed away"):
        runs.run(archive)
    assert "d" not in archive.asked


def test_a_study_that_cannot_be_listed_is_counted_and_the_others_come(
    runs: Runs, archive: ScriptedArchive
) -> None:
    archive.problems = {"s1": [NotFetched(Failure.PACS_ERROR)]}
    report = runs.run(archive)
    assert report.unlisted == {Failure.PACS_ERROR: 1}
    assert report.n_fetched == 3
    assert report.n_not_wanted is None  # which files are wanted no more is not known


def test_wrong_credentials_in_the_middle_stop_the_fetch(
    runs: Runs, archive: ScriptedArchive
) -> None:
    archive.problems = {"c": [ConfigError("the password has expired")]}
    with pytest.raises(ConfigError, match="expired"):
        runs.run(archive)
    assert runs.run(archive).n_there == 2


def test_an_image_that_is_listed_twice_is_fetched_once(
    runs: Runs, archive: ScriptedArchive
) -> None:
    archive.content["s4"] = ["a", "f"]
    report = runs.run(archive, modalities=("CT", "MR"))  # each study is listed once for each
    assert (report.n_wanted, report.n_fetched, report.n_there) == (6, 6, 0)
    assert report.n_studies == 4


def test_an_image_that_two_studies_list_is_fetched_from_the_one_that_has_it(
    runs: Runs, archive: ScriptedArchive
) -> None:
    archive.content = {"s1": ["a", "a", "b"], "s2": ["c", "a"], "s3": ["a", "b"]}
    archive.problems = {"a": [NotFetched(Failure.GONE)], "b": [NotFetched(Failure.GONE)] * 9}
    report = runs.run(archive)
    assert (report.n_wanted, report.n_fetched, report.failed) == (3, 2, {Failure.GONE: 1})
    assert [name for name in archive.asked if name in "abc"] == ["a", "b", "c", "a", "b"]
    assert runs.progress[-2:] == [("images", 3, 3), ("studies", 3, 3)]


def test_uids_that_are_none_are_not_asked_for(
    runs: Runs, archive: ScriptedArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def instances(study: Study, modality: str) -> Iterator[Instance]:
        yield Instance(study, "1.2", "../../secret")
        yield Instance(study, "*", uid_of("a"))

    monkeypatch.setattr(archive, "instances", instances)
    monkeypatch.setattr(archive, "studies", lambda _: [Study("1.2", ""), Study("1.*", "")])
    report = runs.run(archive)
    assert report.failed == {Failure.SENSELESS_UID: 2}
    assert report.unlisted == {Failure.SENSELESS_UID: 1}
    assert archive.asked == ["check"]


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_a_senseless_listing_does_not_hide_a_sound_one_of_the_same_image(
    runs: Runs, archive: ScriptedArchive, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    def instances(study: Study, modality: str) -> list[Instance]:
        broken = Instance(study, "*", uid_of("a"))
        return [broken, Instance(study, "1.2", uid_of("a"))][::order]

    monkeypatch.setattr(archive, "instances", instances)
    monkeypatch.setattr(archive, "studies", lambda _: [Study("1.2", "")])
    report = runs.run(archive)
    assert (report.n_wanted, report.n_fetched, report.failed) == (1, 1, {})


def test_an_image_that_is_there_stays_there_when_its_listing_breaks(
    runs: Runs, archive: ScriptedArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.content = {"s1": ["a"]}
    assert runs.run(archive).n_fetched == 1
    monkeypatch.setattr(archive, "instances", lambda s, _: [Instance(s, "*", uid_of("a"))])
    report = runs.run(archive)
    assert (report.n_wanted, report.n_there, report.n_not_wanted, report.failed) == (1, 1, 0, {})


def test_nothing_at_all_is_an_error_with_reasons(runs: Runs, archive: ScriptedArchive) -> None:
    archive.problems = {name: [NotFetched(Failure.GONE)] for name in "abcde"}
    with pytest.raises(DataError, match=r"3 studies and 5 instances are wanted \(5 gone\)"):
        runs.run(archive).require_some()
    runs.run(archive).require_some()


def test_progress_reaches_its_end(runs: Runs, archive: ScriptedArchive) -> None:
    runs.run(archive)
    assert runs.progress[0] == ("studies", 0, 3)
    assert runs.progress[-1] == ("studies", 3, 3)
    assert ("images", 5, 5) in runs.progress
