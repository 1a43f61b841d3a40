"""The papers' tables: what stands beside ours, and the script from end to end."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_omniglot import PROTOTYPICAL, InThisProcess, a_training

import paper_tables
from omniglot import jobs
from omniglot.episodes import Setting
from omniglot.lines import beside, lines_of, verdict
from omniglot.recipe import Plan, Row
from paper_table import paper_table, short_table

pytestmark = pytest.mark.usefixtures("one_thread")

FIVE_ONE = Setting(5, 1)


@pytest.mark.parametrize(
    ("difference", "published", "ours", "said"),
    [
        (0.4, 0.4, 0.1, "within"),
        (-0.5, 0.4, 0.9, "below"),
        (0.5, 0.4, 0.9, "above"),
        (-0.5, None, 0.9, "within"),
        (-1.0, None, 0.9, "below"),
    ],
)
def test_ours_is_within_above_or_below_what_was_published(
    difference: float, published: float | None, ours: float, said: str
) -> None:
    assert verdict(difference, published, ours) == said


def test_what_is_beside_ours_says_where_it_comes_from() -> None:
    plain, transductive = beside(
        ("reptile", "reptile-transductive"), FIVE_ONE, {"accuracy": 95.0, "reach": 0.5}
    )
    assert plain["accuracy"] == 95.39
    assert plain["difference"] == -0.39
    assert plain["verdict"] == "below"
    assert "arXiv:1803.02999" in plain["source"]
    assert not plain["transductive"]
    assert transductive["transductive"]
    assert beside(("mann",), Setting(20, 1), {"accuracy": 50.0, "reach": 1.0}) == []
    (relation,) = beside(("relation",), Setting(5, 5), {"accuracy": 99.0, "reach": 1.0})
    assert not relation["checked"]


def a_row() -> Row:
    quick = (Plan(a_training(PROTOTYPICAL, steps=2), (FIVE_ONE,)),)
    return Row("tiny", "Tiny network", ("prototypical",), quick, quick)


def a_result(seed: int, accuracies: list[float]) -> dict[str, Any]:
    return {
        "row": "tiny",
        "seed": seed,
        "steps": 2 - seed,
        "cpu_s": 1.0 + seed,
        "scoring_cpu_s": 0.5,
        "wall_s": 3.0,
        "training": a_training(steps=2).with_seed(seed).model_dump(mode="json"),
        "accuracies": {str(FIVE_ONE): accuracies},
    }


def test_a_line_is_the_mean_over_seeds_with_an_interval_over_episodes() -> None:
    # Episodes 0.5, 0.7, 0.9 over the seeds: mean 0.7, sd 0.2.
    results = [a_result(0, [0.4, 0.6, 0.8]), a_result(1, [0.6, 0.8, 1.0])]
    (line,) = lines_of(a_row(), results)
    assert line["accuracy"] == 70.0
    assert line["reach"] == pytest.approx(100 * 1.96 * 0.2 / math.sqrt(3), abs=0.01)
    assert line["by_seed"] == [60.0, 80.0]
    assert line["episodes"] == 3
    assert line["published"][0]["difference"] == -28.8
    assert (line["steps"], line["planned_steps"], line["budget_cpu_s"]) == ([2, 1], 2, 600.0)
    assert line["training"]["study"]["learner"]["n_way"] == 4


def test_the_page_shows_ours_beside_the_papers_and_what_it_cost() -> None:
    results = [a_result(0, [0.4, 0.6, 0.8]), a_result(1, [0.6, 0.8, 1.0])]
    summary = {
        "split": "vinyals", "seeds": 2, "query_images_per_class": 10, "workers": 2,
        "wall_s": 30.0, "cpu_s": 50.0, "lines": lines_of(a_row(), results),
    }  # fmt: skip
    content = {"command": "python x", "commit": "0123456789abcdef", "machine": "2 cores"}
    text = paper_table([content | {"results": summary}])
    row = next(line for line in text.splitlines() if "Tiny" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "Tiny network", "5-way 1-shot", "70.00 ± 22.63 (seeds 60 to 80)", "98.8", "-28.80 (below)",
        "1 of 2, then the budget", "1 to 2", "3",
    ]  # fmt: skip
    assert "Mean of 2 seeds; 3 test episodes" in text
    assert "All of it took 4 CPU s and 30 s on 2 processes." in text
    resumed = paper_table([content | {"results": summary | {"wall_s": None}}])
    assert "All of it took 4 CPU s." in resumed
    assert "- Tiny network: Prototypical networks: Snell et al. 2017" in text
    assert "`python x`, commit `0123456789ab`, 2 cores." in text


def test_the_page_of_an_accelerator_names_it_and_tells_no_cpu_seconds() -> None:
    result = a_result(0, [0.4, 0.6])
    result["device_s"] = result.pop("cpu_s")
    summary = {
        "split": "vinyals", "seeds": 1, "query_images_per_class": 10, "workers": 3,
        "device": "Card 9", "wall_s": 30.0, "lines": lines_of(a_row(), [result]),
    }  # fmt: skip
    content = {"command": "c", "commit": "c", "machine": "2 cores", "results": summary}
    text = paper_table([content])
    assert "| outer steps | training s | wall s |" in text
    assert "| 2 | 1 | 3 |" in text
    assert "All of it took 30 s on 3 processes." in text
    assert "Card 9, 2 cores." in text
    assert "CPU" not in text


@pytest.mark.parametrize(
    ("said", "steps", "seconds"),
    [([], 3, 600.0), (["--seconds", "7"], 3, 7.0), (["--times", "4"], 12, 2400.0)],
)
def test_all_trainings_may_be_cut_short_or_be_longer(
    said: list[str], steps: int, seconds: float
) -> None:
    options = paper_tables.options_of(["--data", "x", *said])
    asked = paper_tables.asked_for(a_training(steps=3), options)
    assert asked == a_training(steps=3).with_steps(steps).model_copy(update={"budget_s": seconds})


def test_no_training_is_none_times_as_long(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        paper_tables.options_of(["--data", "x", "--times", "0"])
    assert "below 1" in capsys.readouterr().err


def test_the_readme_has_a_row_for_each_learner() -> None:
    summary = {
        "seeds": 1, "workers": 2, "wall_s": 30.0, "cpu_s": 50.0,
        "lines": lines_of(a_row(), [a_result(0, [0.4, 0.6, 0.8])]),
    }  # fmt: skip
    content = {"command": "python x", "commit": "0123456789abcdef", "machine": "2 cores"}
    assert short_table([content | {"results": summary}]).splitlines() == [
        "| learner | 5-way 1-shot |",
        "| --- | --- |",
        "| Tiny network | 60.0 ± 22.6 (98.8) |",
        "",
        "`python x`, commit `0123456789ab`, 2 cores.",
        "",
        "All of it took 2 CPU s and 30 s on 2 processes.",
    ]


def a_file(titles: dict[str, float], **results: object) -> dict[str, Any]:
    """Figures of a run, whose learners were right in so much of one test episode and another."""
    lines = [
        line | {"title": title}
        for title, accuracy in titles.items()
        for line in lines_of(a_row(), [a_result(0, [accuracy, accuracy])])
    ]
    return {
        "command": f"python {'-'.join(titles).lower()}", "commit": "0123456789abcdef",
        "machine": "2 cores",
        "results": {
            "split": "vinyals", "seeds": 1, "query_images_per_class": 10, "workers": 1,
            "wall_s": 9.0, "cpu_s": 99.0, "lines": lines,
        } | results,
    }  # fmt: skip


def test_a_training_that_serves_two_columns_took_its_seconds_once() -> None:
    file = a_file({"A": 0.1})
    (line,) = file["results"]["lines"]
    file["results"]["lines"].append(line | {"column": str(Setting(5, 5))})
    assert "All of it took 2 CPU s and 9 s on 1 processes." in paper_table([file])


def test_what_was_trained_anew_takes_its_old_place_in_a_table_of_several_runs() -> None:
    files = [a_file({"A": 0.1, "B": 0.2}), a_file({"A": 0.5, "C": 0.3})]
    text = paper_table(files)
    rows = [line.split("|")[1:4:2] for line in text.splitlines() if "1-shot" in line]
    assert rows == [[" A ", " 50.00 ± 0.00 "], [" B ", " 20.00 ± 0.00 "], [" C ", " 30.00 ± 0.00 "]]
    assert "All of it took 4 CPU s." in text  # 1.0 and 0.5 of each of the three
    assert text.splitlines()[-2:] == [
        "- All but those that follow: `python a-b`, commit `0123456789ab`, 2 cores.",
        "- A and C: `python a-c`, commit `0123456789ab`, 2 cores.",
    ]
    assert "| A | 50.0 ± 0.0 (98.8) |" in short_table(files)


def test_a_source_is_named_with_the_learners_whose_figures_come_from_it() -> None:
    files = [a_file(dict.fromkeys(names, 0.1)) for names in ("A", "AB", "AC", "C")]
    assert paper_table(files).splitlines()[-3:] == [
        "- B: `python a-b`, commit `0123456789ab`, 2 cores.",
        "- A: `python a-c`, commit `0123456789ab`, 2 cores.",
        "- C: `python c`, commit `0123456789ab`, 2 cores.",
    ]


@pytest.mark.parametrize(
    "unlike",
    [{"split": "background"}, {"seeds": 2}, {"query_images_per_class": 5}, {"device": "Card 9"}],
)
def test_runs_that_measured_otherwise_are_not_in_one_table(unlike: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(unlike))):
        paper_table([a_file({"A": 0.1}), a_file({"B": 0.2}, **unlike)])


def test_marks_tell_transductive_and_unchecked_figures() -> None:
    line = lines_of(a_row(), [a_result(0, [0.5, 0.7])])[0]
    line["published"] = beside(("maml", "relation"), Setting(5, 5), line)
    summary = {
        "split": "vinyals", "seeds": 1, "query_images_per_class": 10, "workers": 2,
        "wall_s": 30.0, "cpu_s": 50.0, "lines": [line],
    }  # fmt: skip
    content = {"command": "c", "commit": "c", "machine": "m", "results": summary}
    text = paper_table([content])
    assert "99.9 ± 0.1 T; 99.8 ± 0.1 ? |" in text
    assert "?: not seen" in text


# --- the whole ------------------------------------------------------------------------------------


def test_the_script_trains_scores_writes_and_resumes(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "omniglot.json"
    arguments = ["--data", str(archives), "--quick", "--split", "background", "--episodes", "5"]
    arguments += ["--seeds", "2", "--workers", "1", "--out", str(out)]
    monkeypatch.setattr(paper_tables, "ROWS", (a_row(),))
    monkeypatch.setattr(paper_tables, "N_QUERY", 2)
    monkeypatch.setattr(paper_tables, "OUT", tmp_path / "work")
    monkeypatch.setattr(paper_tables, "WorkerPool", InThisProcess)
    monkeypatch.setattr(sys, "argv", ["benchmarks/paper_tables.py", *arguments])
    paper_tables.main()
    first = json.loads(out.read_text("utf-8"))["results"]["lines"]
    assert [line["column"] for line in first] == [str(FIVE_ONE)]
    assert first[0]["steps"] == [2, 2]
    assert len(first[0]["by_seed"]) == 2
    assert json.loads(out.read_text("utf-8"))["results"]["wall_s"] > 0

    def no_more_training(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "train", no_more_training)
        patched.setattr(sys, "argv", [*sys.argv, "--resume"])
        paper_tables.main()
        assert json.loads(out.read_text("utf-8"))["results"]["lines"] == first
        patched.setattr(sys, "argv", sys.argv[:-1])
        with pytest.raises(AssertionError):
            paper_tables.main()


def test_a_row_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        paper_tables.options_of(["--data", "x", "--rows", "prototypical,nonsense"])
    assert "no row nonsense" in capsys.readouterr().err
