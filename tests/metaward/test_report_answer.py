"""What a report says in words: a gain, a loss or no clear difference, each as plainly."""

import io

import pytest
from rich.console import Console

from metaward.report.answer import answer
from metaward.report.html import render_html
from metaward.report.schema import TrainingRound
from metaward.report.terminal import print_report
from metaward.report.wording import percent, percent_interval
from report_cases import handmade, synthetic_evaluation, synthetic_report


@pytest.fixture(scope="module")
def report():
    return synthetic_report()


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


def test_an_interval_that_ends_at_zero_says_neither_gain_nor_loss():
    for difference in ((2, 0, 4), (-2, -4, 0)):
        assert answer(handmade((57, 52, 62), (55, 51, 59), difference)).verdict == "unclear"


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


def test_of_two_shot_counts_as_near_the_smaller_one_speaks():
    evaluation = synthetic_evaluation("riverside", shots=(3, 7))
    assert answer(synthetic_report((evaluation,))).shots == 3


def test_several_hospitals_are_averaged_and_the_worst_is_named(report):
    said = answer(report)
    assert "on average over the 2 hospitals that took no part in the training" in said.sentence
    worst = report.row("st-anne-children", "meta", 5)
    figures = f"{percent(worst.mean, 0)}% ({percent_interval(worst.ci95, 0)})"
    assert f"It did worst at st-anne-children: {figures}." in said.more
    assert (
        "Each case is one of 3 to 5 findings, depending on the hospital; guessing would be right "
        "in 20% to 33%." in said.more
    )


def test_the_slowest_hospital_says_how_long_a_model_takes(report):
    took = {"riverside": 0.2, "st-anne-children": 3.0}
    rows = tuple(
        row.model_copy(update={"adapt_seconds": took[row.site]}) for row in report.evaluation
    )
    assert "took 3.0 s (median)" in answer(report.model_copy(update={"evaluation": rows})).more[-1]


def test_each_other_method_is_compared_once(report):
    said = answer(report)
    compared = [text for text in said.more if text.startswith("Compared with ")]
    assert [text.split(":")[0] for text in compared] == [
        "Compared with FedAvg + fine-tune",
        "Compared with Random start",
    ]


def test_rounds_that_did_not_count_are_said_beside_the_answer():
    def said_first(*void):
        rounds = tuple(TrainingRound(round_index=i, void=v) for i, v in enumerate(void))
        return answer(handmade((78, 74, 82), (62, 57, 67), (16, 12, 20), training=rounds)).more[0]

    assert said_first(False, True, False, True).startswith(
        "2 of the 4 rounds of its training did not count: too few updates"
    )
    assert said_first(True, True).startswith("The shared model has learned nothing")
    assert "round" not in said_first(False, False)


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


def test_the_terminal_gives_each_method_its_own_column(report):
    text = printed(report, width=200)
    head = next(line for line in text.splitlines() if line.startswith("hospital "))
    line = next(line for line in text.splitlines() if line.split()[:2] == ["riverside", "1"])
    for method in report.methods:
        row = report.row("riverside", method.name, 1)
        low, high = (percent(end, 0) for end in row.ci95)
        at = line.index(f"{percent(row.mean, 0)} ({low}-{high})")
        assert at == head.index(method.label)


def test_the_terminal_says_where_a_mean_leaves_hospitals_out(report):
    means = [line.split() for line in printed(report, width=200).splitlines() if "mean" in line]
    assert ["mean", "(1", "of", "2)", "20"] in [words[:5] for words in means]
    assert ["mean", "1"] in [words[:2] for words in means]


def test_names_on_the_terminal_are_not_markup():
    text = printed(synthetic_report((synthetic_evaluation("[bold]x[/]"),)))
    assert any(line.startswith("[bold]x[/]") for line in text.splitlines())
