"""The page of a report: every figure is on it, names are text, and it loads and runs nothing."""

import io
import itertools
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from metaward.privacy_statement import PrivacyStatement
from metaward.progress import RoundEvent
from metaward.report.assemble import training_round
from metaward.report.html import difference_table, render_html, score_table, write_report_html
from metaward.report.methods import BASELINES
from metaward.report.svg import DASHES, MARKERS, SERIES
from metaward.report.terminal import print_report
from metaward.report.wording import (
    percent,
    percent_with_interval,
    points,
    points_with_interval,
)
from report_cases import METHODS, handmade, synthetic_evaluation, synthetic_report


@pytest.fixture(scope="module")
def report():
    return synthetic_report()


@pytest.fixture(scope="module")
def page(report):
    return render_html(report)


def test_what_could_not_be_measured_stands_in_the_report_with_its_reason(report, page):
    assert report.row("st-anne-children", "meta", 20) is None
    assert report.left_out[0].shots == 20
    assert "1 of 4 labels have 20 images to adapt on" in page


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


def test_each_cell_stands_under_its_method_and_the_best_of_a_row_is_marked(report):
    of_label = {method.label: method.name for method in report.methods}
    for metric in ("accuracy", "auroc"):
        table = score_table(report, metric)
        for row in table.rows:
            found = [
                report.pooled_row(of_label[label], row.shots, metric)
                if row.is_mean
                else report.row(row.site, of_label[label], row.shots, metric)
                for label in table.columns
            ]
            means = [one.mean for one in found]
            assert [cell.text for cell in row.cells] == [
                percent_with_interval(one.mean, one.ci95) for one in found
            ]
            assert [cell.best for cell in row.cells] == [mean == max(means) for mean in means]


def test_each_difference_stands_under_the_method_that_is_taken_off(report):
    table = difference_table(report)
    of_heading = {f"minus {method.label}": method.name for method in report.references}
    for row in table.rows:
        found = [
            report.difference(None if row.is_mean else row.site, of_heading[heading], row.shots)
            for heading in table.columns
        ]
        assert [cell.text for cell in row.cells] == [
            points_with_interval(one.difference, one.ci95) for one in found
        ]
    assert [row.site for row in table.rows if row.is_mean] == [
        *["Mean over 2 hospitals"] * 3,
        "Only 1 of 2 hospitals",
    ]


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


def test_many_hospitals_get_a_table_row_each_and_a_plot_for_the_first():
    evaluations = tuple(
        synthetic_evaluation(f"site-{i:02}", shots=(5,), episodes=5, seed=i) for i in range(20)
    )
    page = render_html(synthetic_report(evaluations))
    assert "site-19" in page
    assert "The plots show the first hospitals only" in page


def test_hospitals_that_begin_alike_are_told_apart_in_every_plot():
    names = [f"university-hospital-of-the-region-of-{end}" for end in ("bonn", "basel", "vienna")]
    evaluations = tuple(
        synthetic_evaluation(name, shots=(5,), episodes=5, seed=i) for i, name in enumerate(names)
    )
    page = render_html(synthetic_report(evaluations))
    for plot in ("curve", "difference"):
        plots = [svg for svg in page.split("<svg")[1:] if f'id="{plot}-' in svg]
        written = set(re.findall(r">(universi[^<]*)</text>", "".join(plots)))
        assert len(written) == len(names), plot


def test_every_method_that_a_simulation_can_have_is_drawn_in_its_own_way(page):
    n_methods = len(BASELINES) + 1
    for ways in (SERIES, MARKERS, DASHES):
        assert len(set(ways)) == len(ways) >= n_methods
    for number in range(n_methods):
        assert page.count(f"--series-{number}: #") >= 2, "light and dark"
