"""Promises of the report. All figures here are synthetic: drawn from a formula, not measured."""

import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from metaward.episode_scores import EpisodeScores
from metaward.errors import ConfigError
from metaward.evaluation import SiteEvaluation
from metaward.evaluation_design import LeftOut, SiteDesign
from metaward.model_artefact import PrivacyStatement
from metaward.progress import RoundEvent
from metaward.report.answer import answer
from metaward.report.assemble import (
    comparison_rows,
    evaluation_rows,
    left_out_rows,
    pooled_rows,
    training_round,
)
from metaward.report.html import render_html, write_report_html
from metaward.report.methods import FEDAVG, LOCAL, RANDOM, SHARED
from metaward.report.schema import (
    ComparisonRow,
    EvaluationRow,
    LabelSummary,
    PooledRow,
    Provenance,
    Report,
    SiteSummary,
    read_report_json,
    write_report_json,
)
from metaward.report.terminal import print_report
from metaward.report.wording import percent, points

METHODS = (SHARED, FEDAVG, LOCAL, RANDOM)
SKILL = {"meta": 1.35, "fedavg": 1.05, "local": 0.55, "random": 0.35}


def synthetic_evaluation(
    site,
    *,
    n_patients=60,
    n_way=5,
    shots=(1, 5, 10, 20),
    hardness=0.0,
    skill=None,
    seed=0,
    episodes=60,
    left_out=(),
):
    """Scores from a logistic formula with patient and episode effects."""
    rng = np.random.default_rng(seed)
    skill = skill or SKILL
    queries = n_way * 4
    patient = np.concatenate(
        [rng.choice(n_patients, queries, replace=False) for _ in range(episodes)]
    )
    episode = np.repeat(np.arange(episodes, dtype=np.int32), queries)
    shared = rng.normal(0, 0.8, n_patients)[patient] + rng.normal(0, 0.3, episodes)[episode]
    luck = rng.random(len(patient))
    correct = np.zeros((len(skill), len(shots), len(patient)), dtype=np.uint8)
    for m, level in enumerate(skill.values()):
        for s, k in enumerate(shots):
            own = rng.normal(0, 0.4, n_patients)[patient]
            logit = level * (0.3 + 0.7 * np.log1p(k)) - 1.2 - hardness + shared + own
            correct[m, s] = luck < 1 / n_way + (1 - 1 / n_way) / (1 + np.exp(-logit))
    auroc = (0.5 + 0.5 * correct.mean(axis=2, keepdims=True)) + 0.3 * (correct - 0.5)
    return SiteEvaluation(
        site=site,
        design=SiteDesign(tuple(shots), n_way, tuple("abcdefg"[:n_way]), tuple(left_out)),
        methods=tuple(skill),
        scores=EpisodeScores(
            episode=episode,
            patient=patient,
            label=np.tile(np.repeat(np.arange(n_way), 4), episodes),
            correct=correct,
            auroc=np.clip(auroc, 0, 1).astype(np.float32),
            adapt_seconds=np.full((len(skill), len(shots), episodes), 0.034),
        ),
    )


def synthetic_report(evaluations=None, **changes):
    if evaluations is None:
        evaluations = (
            synthetic_evaluation("riverside", seed=1),
            synthetic_evaluation(
                "st-anne-children",
                n_patients=28,
                n_way=3,
                shots=(1, 5, 10),
                hardness=0.8,
                seed=2,
                left_out=(LeftOut(20, "1 of 4 labels have 20 images to adapt on"),),
            ),
        )
    names = [method.name for method in METHODS]
    losses = 1.6 * np.exp(-np.arange(40) / 18) + 0.4
    fields = {
        "kind": "simulation",
        "title": "Demo study",
        "synthetic_data": True,
        "method": "meta",
        "baseline": "local",
        "methods": METHODS,
        "learning_curve": (1, 5, 10, 20),
        "sites": tuple(
            SiteSummary(
                name=name,
                held_out=name in {e.site for e in evaluations},
                images=480,
                patients=120,
                labels=tuple(
                    LabelSummary(name=f"finding {x}", images=160, patients=40) for x in "abc"
                ),
                description="chest radiographs, 2 scanners",
            )
            for name in (*(e.site for e in evaluations), "north", "south", "old-town")
        ),
        "evaluation": evaluation_rows(evaluations),
        "comparison": comparison_rows(evaluations, method="meta", references=names[1:])
        if evaluations
        else (),
        "pooled": pooled_rows(evaluations, names) if evaluations else (),
        "left_out": left_out_rows(evaluations),
        "training": tuple(
            training_round(
                RoundEvent(i, 40, 6, 6 - (i == 7), {"norm": 1} if i == 7 else {}, False, 0.5, 2.0),
                loss=float(losses[i]),
            )
            for i in range(40)
        ),
        "settings": {"name": "demo", "rounds": 40, "model": {"name": "conv4", "filters": 32}},
        "provenance": Provenance(
            command="metaward simulate --seed 7",
            commit="0123abc",
            seeds={"study": 7, "evaluation": 7},
            versions={"metaward": "0.1.0", "torch": "2.13.0"},
            wall_seconds={"meta-training": 95.2, "evaluation": 41.0},
            machine="2 cores",
            started="2026-01-02T03:04:05+00:00",
            model_sha256="ab" * 32,
        ),
    }
    return Report(**(fields | changes))


@pytest.fixture(scope="module")
def report():
    return synthetic_report()


@pytest.fixture(scope="module")
def page(report):
    return render_html(report)


def handmade(meta, local, difference, *, extra=(), **changes):
    """One site, one shot count, figures set by hand: (mean, low, high) in per cent each."""

    def shares(numbers):
        mean, *ends = (number / 100 for number in numbers)
        return mean, tuple(ends)

    def row(method, numbers):
        mean, ci95 = shares(numbers)
        return EvaluationRow(
            site="X",
            method=method,
            shots=5,
            mean=mean,
            ci95=ci95,
            episodes=200,
            patients=80,
            n_way=5,
            queries=5000,
            chance=0.2,
            adapt_seconds=0.21,
        )

    def compare(reference, numbers):
        mean, ci95 = shares(numbers)
        return ComparisonRow(
            site="X",
            method="meta",
            reference=reference,
            shots=5,
            difference=mean,
            ci95=ci95,
            episodes=200,
            patients=80,
        )

    fields = {
        "kind": "new-site",
        "title": "Hospital X",
        "synthetic_data": False,
        "method": "meta",
        "baseline": "local",
        "methods": METHODS[:3],
        "learning_curve": (5,),
        "sites": (),
        "evaluation": (row("meta", meta), row("local", local)),
        "comparison": (
            compare("local", difference),
            *(compare(name, numbers) for name, numbers in extra),
        ),
        "pooled": (),
        "provenance": Provenance(command="metaward evaluate run --site X"),
    }
    return Report(**(fields | changes))


def test_a_gain_is_told_in_one_sentence():
    said = answer(handmade((71, 67, 75), (55, 51, 59), (16, 12, 20)))
    assert said.verdict == "gain"
    assert said.sentence == (
        "With 5 labelled images per finding, the shared model was right in 71% (95% interval 67 "
        "to 75) of cases at hospital X, against 55% (51 to 59) when the hospital trains alone: a "
        "gain of 16 points (12 to 20)."
    )
    assert said.more[0] == (
        "Each case is one of 5 findings, equally often; guessing would be right in 20%."
    )
    assert "took 210 ms" in said.more[-1]


def test_a_loss_is_told_as_plainly_as_a_gain():
    said = answer(handmade((50, 46, 54), (58, 53, 63), (-8, -12, -4)))
    assert said.verdict == "loss"
    assert said.heading == "The shared model does not help: it does worse"
    assert said.sentence.endswith("a loss of 8 points (4 to 12).")


def test_a_difference_whose_interval_holds_zero_is_not_called_a_gain():
    said = answer(handmade((57, 52, 62), (55, 51, 59), (2, -3, 7)))
    assert said.verdict == "unclear"
    assert said.heading == "No clear difference"
    assert said.sentence.endswith("a difference of +2 points (\u22123 to +7), which may be chance.")


def test_a_baseline_that_wins_is_named_the_better_choice():
    extra = [("fedavg", (-3, -5, -1))]
    said = answer(handmade((71, 67, 75), (55, 51, 59), (16, 12, 20), extra=extra))
    assert (
        "Compared with FedAvg + fine-tune: 3 points worse (1 to 5). FedAvg + fine-tune is the "
        "better choice at these hospitals." in said.more
    )


def test_figures_that_would_not_add_up_get_a_decimal():
    # 70.6 - 55.4 = 15.2: whole numbers would read 71 - 55 = 15.
    said = answer(handmade((70.6, 67, 75), (55.4, 51, 59), (15.2, 12, 20)))
    assert "70.6%" in said.sentence
    assert "gain of 15.2 points (12.0 to 20.0)" in said.sentence


def test_an_interval_that_starts_just_above_zero_is_not_shown_as_zero():
    said = answer(handmade((57, 52, 62), (55, 51, 59), (2, 0.2, 3.8)))
    assert "gain of 2.0 points (0.2 to 3.8)" in said.sentence


def test_one_image_is_singular_and_the_nearest_shot_count_speaks():
    evaluation = synthetic_evaluation("riverside", shots=(1, 20))
    said = answer(synthetic_report((evaluation,)))
    assert said.shots == 1
    assert said.sentence.startswith("With 1 labelled image per finding,")


def test_several_hospitals_are_averaged_and_the_worst_is_named(report):
    said = answer(report)
    assert "on average over the 2 hospitals that took no part in the training" in said.sentence
    assert any(text.startswith("It did worst at st-anne-children: ") for text in said.more)


def test_without_a_baseline_only_the_figure_is_told():
    plain = handmade((71, 67, 75), (55, 51, 59), (16, 12, 20), baseline=None)
    assert answer(plain).verdict == "no comparison"
    assert answer(plain).sentence.endswith("of cases at hospital X.")


def test_nothing_measured_is_said_with_the_reason():
    empty = synthetic_report(())
    said = answer(empty)
    assert said.verdict == "nothing measured"
    assert said.shots is None
    render_html(empty)
    print_report(empty, Console(file=io.StringIO(), width=80))


def test_rows_hold_what_the_evaluation_estimates(report):
    evaluation = synthetic_evaluation("riverside", seed=1)
    estimate = evaluation.estimate("meta", 5)
    row = report.row("riverside", "meta", 5)
    assert (row.mean, row.ci95) == (estimate.mean, (estimate.low, estimate.high))
    assert (row.patients, row.episodes, row.queries) == (60, 60, 1200)
    assert row.chance == 0.2
    difference = evaluation.difference("meta", "random", 10)
    assert report.difference("riverside", "random", 10).difference == difference.mean


def test_the_mean_weighs_hospitals_equally(report):
    both = [report.row(site, "meta", 5).mean for site in ("riverside", "st-anne-children")]
    pooled = report.pooled_row("meta", 5)
    assert pooled.mean == pytest.approx(sum(both) / 2)
    assert pooled.worst_site == "st-anne-children"
    assert report.pooled_row("meta", 20).sites == ("riverside",)


def test_what_could_not_be_measured_stands_in_the_report_with_its_reason(report, page):
    assert report.row("st-anne-children", "meta", 20) is None
    assert report.left_out[0].shots == 20
    assert "1 of 4 labels have 20 images to adapt on" in page


def test_json_comes_back_as_it_was_written(report, tmp_path):
    write_report_json(report, tmp_path / "report.json")
    assert read_report_json(tmp_path / "report.json") == report


def test_json_has_the_fields_that_the_format_promises(report):
    content = report.model_dump(mode="json")
    assert {"site", "method", "shots", "metric", "mean", "ci95", "episodes", "patients"} <= set(
        content["evaluation"][0]
    )
    assert {"difference", "ci95", "method", "reference"} <= set(content["comparison"][0])


def test_a_report_that_is_not_one_is_refused(tmp_path):
    for text in ("", "[]", "{", '{"format_version": 2}'):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(ConfigError, match=r"report\.json"):
            read_report_json(tmp_path / "report.json")


class References(HTMLParser):
    """Collects everything that a browser would load or run, and the text."""

    def __init__(self):
        super().__init__()
        self.found, self.text, self.ids, self.open = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "link", "img", "iframe", "object", "embed", "base", "form"):
            self.found.append(tag)
        for name, value in attributes:
            is_local = (value or "").startswith("#")
            if name in ("src", "href", "xlink:href", "action", "srcset") and not is_local:
                self.found.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.found.append(f"{tag} {name}")
            if name == "id":
                self.ids.append(value)
        self.open.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def parsed(page):
    parser = References()
    parser.feed(page)
    return parser


def test_the_page_loads_nothing_and_runs_nothing(page):
    assert parsed(page).found == []
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "default-src 'none'" in page


def test_every_reference_within_the_page_has_one_target(page):
    ids = parsed(page).ids
    for target in re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', page):
        assert "".join(target) in ids
    labels = [identifier for identifier in ids if identifier.endswith("-alt")]
    assert len(labels) == len(set(labels)) == page.count("<svg")


def test_every_figure_of_the_report_is_on_the_page(report, page):
    text = " ".join(parsed(page).text)
    for row in (*report.evaluation, *report.pooled):
        assert f"{percent(row.mean)} ({percent(row.ci95[0])} to {percent(row.ci95[1])})" in text
    for row in report.comparison:
        if row.metric == "accuracy":
            low, high = row.ci95
            assert f"{points(row.difference)} ({points(low)} to {points(high)})" in text
    for site in report.sites:
        assert site.name in text
    for fact in ("metaward simulate --seed 7", "0123abc", "ab" * 32, "torch 2.13.0", "1 min 35 s"):
        assert fact in text


def test_every_plot_says_in_words_what_it_shows(page):
    titles = re.findall(r'<title id="[^"]*">([^<]*)</title>', page)
    assert any("riverside. Shared model: " in title and "% at 5" in title for title in titles)
    assert any("Shared model against Hospital alone at 5 images" in title for title in titles)
    assert any("Mean loss at the hospitals: 2 in round 1" in title for title in titles)


def test_the_curve_of_the_mean_never_changes_its_hospitals(page):
    titles = re.findall(r'<title id="curve[^"]*">([^<]*)</title>', page)
    mean = next(title for title in titles if "Mean over hospitals" in title)
    assert "% at 10" in mean
    assert "% at 20" not in mean
    assert "Only 1 of 2 hospitals" in page


def test_labels_of_a_curve_never_lie_over_one_another(page):
    panel = next(svg for svg in page.split("<svg")[1:] if 'id="curve-1' in svg)
    texts = re.findall(r'<text style="([^"]*)" x="[^"]*" y="([^"]*)"[^>]*>([^<]+)</text>', panel)
    labels = {text: float(y) for style, y, text in texts if "8.8px" in style and "%" in text}
    assert "guessing 20%" in labels
    assert len(labels) > 2
    assert min(b - a for a, b in itertools.pairwise(sorted(labels.values()))) > 8.8


def test_the_same_report_gives_the_same_bytes(report, page, tmp_path):
    write_report_html(report, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == page


EVIL = "<script>alert(1)</script>&\"'$x_$--> {{ 7 * 7 }}"


def test_names_from_outside_are_text_and_never_markup():
    evaluation = synthetic_evaluation(EVIL)
    methods = tuple(
        method.model_copy(update={"label": f"{EVIL}{method.name}"}) for method in METHODS
    )
    page = render_html(
        synthetic_report(
            (evaluation, synthetic_evaluation("\u75c5\u9662", seed=3)), methods=methods, title=EVIL
        )
    )
    assert parsed(page).found == []
    assert "<script" not in page
    assert "{{ 7 * 7 }}" in page
    assert "$x_$" in page
    assert "\u75c5\u9662" in page


def test_not_private_is_said_where_nothing_protects(page):
    assert page.count("NOT PRIVATE") >= 2


def test_a_private_study_states_unit_relation_accountant_and_epsilon():
    statement = PrivacyStatement(
        mechanism="DP-SGD",
        unit="patient",
        neighbouring="add or remove one patient",
        sampling="Poisson",
        accountant="PRV",
        epsilon=3.2,
        target_delta=1.0e-5,
    )
    page = render_html(synthetic_report(privacy=statement))
    assert "NOT PRIVATE" not in page
    for part in ("DP-SGD", "one patient", "add or remove one patient", "epsilon 3.2", "1e-05"):
        assert part in page


def test_synthetic_data_is_said_and_real_data_is_not_called_synthetic(page):
    assert "Synthetic data" in page
    assert "Synthetic" not in render_html(synthetic_report(synthetic_data=False))


def test_missing_figures_break_nothing():
    rows = handmade((71, 67, 75), (55, 51, 59), (16, 12, 20))
    holes = rows.model_copy(
        update={
            "evaluation": (
                rows.evaluation[0],
                rows.evaluation[1].model_copy(update={"mean": None, "ci95": None}),
            ),
            "comparison": (
                rows.comparison[0].model_copy(update={"difference": None, "ci95": None}),
            ),
            "training": (training_round(RoundEvent(0, 1, 6, 6), loss=float("nan")),),
        }
    )
    page = render_html(holes)
    assert "not measured" in page
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", page.lower())
    print_report(holes, Console(file=io.StringIO(), width=80))


def test_means_without_an_interval_are_shown_without_one():
    rows = handmade((71, 67, 75), (55, 51, 59), (16, 12, 20))
    bare = tuple(row.model_copy(update={"ci95": None}) for row in rows.evaluation)
    page = render_html(rows.model_copy(update={"evaluation": bare}))
    assert "71.0 (unknown)" in page


def test_scores_that_are_not_finite_never_reach_the_file():
    event = RoundEvent(0, 1, 6, 6, {}, False, float("inf"), 2.0)
    assert training_round(event, loss=float("nan")).loss is None
    assert training_round(event).delta_norm is None


def test_rounding_cannot_push_a_mean_over_one():
    evaluation = synthetic_evaluation("riverside", n_way=2, shots=(1,))
    evaluation.scores.auroc[:] = np.nextafter(np.float32(1.0), np.float32(2.0))
    rows = evaluation_rows([evaluation])
    assert max(row.mean for row in rows) <= 1.0
    assert all(isinstance(row, PooledRow) for row in pooled_rows([evaluation], ["meta"]))


def test_many_hospitals_get_a_table_row_each_and_a_plot_for_the_first():
    evaluations = tuple(
        synthetic_evaluation(f"site-{i:02}", shots=(5,), episodes=5, seed=i) for i in range(20)
    )
    page = render_html(synthetic_report(evaluations))
    assert "site-19" in page
    assert "The plots show the first hospitals only" in page


def printed(report, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_report(report, console)
    return console.file.getvalue()


def test_the_terminal_starts_with_the_answer_and_fits_in_eighty_columns(report):
    text = printed(report)
    assert text.startswith("The shared model helps\nWith 5 labelled images per finding,")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "76 (72-81)" in text
    assert "NOT PRIVATE" in text
    assert "synthetic" in text
    assert "Not measured: st-anne-children, 20 images" in text


def test_names_on_the_terminal_are_not_markup():
    text = printed(synthetic_report((synthetic_evaluation("[bold]x[/]"),)))
    assert any(line.startswith("[bold]x[/]") for line in text.splitlines())
