"""`metaward simulate` with a slip in it: one screen, the right exit code, nothing half-written."""

import os
from pathlib import Path

import pytest

from simulate_cases import assert_refused, simulate
from tiny_run import TinyRun, everything_in, metaward, write_scenario


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rouds: 3\n", ("line 1, rouds", "did you mean 'rounds'?")),
        ("seed: 1\nmodel: {filters: many}\n", ("line 2, model.filters", "valid integer", "'many'")),
        ("learner: {name: protoypical}\n", ("line 1, learner", "did you mean 'prototypical'?")),
        ("baselines: {methods: [fedvag]}\n", ("line 1, baselines.methods.0", "'fedvag'")),
        ("evaluation: {shots: [0]}\n", ("evaluation.shots.0", "greater than or equal to 1")),
        ("rounds: 3\nrounds: 4\n", ("'rounds' stands twice", "line 2")),
        ("rounds: [3\n", ("not valid YAML",)),
    ],
)
def test_a_wrong_scenario_names_file_line_and_key(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    done = metaward("simulate", tmp_path / "mine.yaml", "--out", tmp_path / "run")
    assert_refused(done, tmp_path, 2, str(tmp_path / "mine.yaml"), *words)


def test_every_slip_of_a_scenario_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rouds: 3\nseed: -1\ngrid: cloud\n")
    done = metaward("simulate", tmp_path / "mine.yaml", "--out", tmp_path / "run")
    assert_refused(done, tmp_path, 2, "3 problems", "rouds", "seed", "grid")


def test_a_missing_scenario_is_named(tmp_path: Path) -> None:
    done = metaward("simulate", tmp_path / "gone.yaml", "--out", tmp_path / "run")
    assert_refused(done, tmp_path, 2, "no such file", "gone.yaml")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--learner", "protoypical"), ("--learner", "did you mean 'prototypical'?", "fomaml")),
        (("--grid", "cloud"), ("--grid", "'in-process' or 'ray'", "cloud")),
        (("--held-out", "0"), ("0 hospitals to hold out", "--held-out")),
        (("--held-out", "alder"), ("names of held-out hospitals", "--data")),
        (("--held-out", "\N{SUPERSCRIPT TWO}"), ("--held-out", "must be a-z, 0-9 and hyphen")),
        (("--held-out", "1" * 5000), ("--held-out", "at most 64 of them")),
        (("--data", "gone"), ("there is no such folder", "gone", "metaward data import")),
    ],
)
def test_a_wrong_option_is_named(
    tmp_path: Path,
    options: tuple[str, ...],
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(simulate(tmp_path, *options), tmp_path, 2, *words)


@pytest.mark.parametrize(
    "options", [("--rounds", "9"), ("--seed", "1"), ("--tensorboard",), ("--out", "elsewhere")]
)
def test_resume_takes_no_other_option(tiny_run: TinyRun, options: tuple[str, ...]) -> None:
    before = everything_in(tiny_run.path)
    done = metaward("simulate", "--resume", tiny_run.path, *options)
    assert done.code == 2
    assert "--resume together with other settings" in done.err
    assert everything_in(tiny_run.path) == before


def test_resume_of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("gone", "no such folder"),
        ("file", "a file"),
        ("folder", "without config.yaml"),
    ):
        done = metaward("simulate", "--resume", tmp_path / name)
        assert done.code == 2
        assert words in done.err
        assert str(tmp_path / name) in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    "text", ["scenario: {rouds: 3}\n", "scenario: 3\n", "a: 1\n", "- 1\n", "{\n", ""]
)
def test_resume_of_a_run_with_a_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(text)
    done = metaward("simulate", "--resume", tmp_path / "run")
    assert done.code == 2
    assert "config.yaml" in done.err
    assert "Traceback" not in done.err
    assert everything_in(tmp_path / "run") == {"config.yaml": text.encode()}


@pytest.mark.parametrize("kind", ["file", "full folder", "below a file"])
def test_out_must_be_a_new_or_an_empty_folder(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    match kind:
        case "file":
            out.write_text("mine")
        case "full folder":
            out.mkdir()
            (out / "notes.txt").write_text("mine")
        case _:
            (tmp_path / "notes.txt").write_text("mine")
            out = tmp_path / "notes.txt" / "run"
    before = everything_in(tmp_path)
    done = metaward("simulate", "--out", out)
    assert done.code == 2
    assert "--out" in done.err
    assert everything_in(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = metaward("simulate", "--out", tmp_path / "locked" / "run")
    assert done.code == 2
    assert "may write" in done.err


def test_an_accelerator_that_is_not_there_is_named_before_a_hospital_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(
        "metaward_sim.simulate.draw_hospitals", lambda *_, **__: pytest.fail("drawn")
    )
    ended = metaward("simulate", "--device", "cuda", "--out", str(tmp_path / "run"))
    assert ended.code == 2
    assert "0 accelerators" in ended.err
    assert not (tmp_path / "run").exists()


def test_hospitals_train_on_the_device_of_the_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def federation(*_: object, device: str, **__: object) -> None:
        asked.append(device)
        raise KeyboardInterrupt

    monkeypatch.setattr("metaward_sim.simulate.device_of", lambda _: None)
    monkeypatch.setattr("metaward_sim.training.run_federation", federation)
    scenario = write_scenario(tmp_path / "tiny.yaml", device="cuda:1")
    metaward("simulate", str(scenario), "--out", str(tmp_path / "run"))
    assert asked == ["cuda:1"]
