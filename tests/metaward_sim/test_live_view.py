"""Promises of the live view, with a clock made of a list."""

import io

from rich.console import Console

from metaward.progress import RoundEvent
from metaward_sim.live_view import LiveView, sparkline


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def event(index, **changes):
    fields = {"round_index": index, "n_rounds": 40, "asked": 6, "admitted": 6}
    return RoundEvent(**(fields | changes))


def view_on(*, terminal, **changes):
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=terminal, width=80, color_system=None)
    return LiveView(console, "demo", clock=clock, **changes), out, clock


def drawn(view):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(view.render())
    return console.file.getvalue()


def test_a_round_shows_sites_loss_and_time_left():
    view, _, clock = view_on(terminal=False, loss_of_round=lambda index: 2.0 - index / 10)
    with view:
        view.phase("meta-training", total=40, unit="round")
        clock.now += 20.0
        view.on_round(event(8))
        clock.now += 2.5
        view.on_round(event(9, admitted=4, refused={"norm": 1, "shape": 1}))
        text = drawn(view)
    for part in (
        "demo",
        "elapsed 22.5 s",
        "meta-training",
        "round 10/40",
        "1 min 8 s left",
        "sites asked 6",
        "admitted 4",
        "refused 2 (norm, shape)",
        "loss 1.100",
        "█▁",
    ):
        assert part in text


def test_a_void_round_is_called_void():
    view, _, _ = view_on(terminal=False)
    with view:
        view.phase("meta-training", total=40, unit="round")
        view.on_round(event(0, admitted=0, void=True))
        assert "void round" in drawn(view)


def test_a_phase_of_unknown_length_is_shown_without_a_count():
    view, _, _ = view_on(terminal=False)
    with view:
        view.phase("writing data")
        assert "writing data" in drawn(view)
        assert "0/0" not in drawn(view)


def test_every_line_fits_in_eighty_columns():
    view, _, clock = view_on(terminal=False, loss_of_round=lambda index: 1.0 / (1 + index))
    with view:
        view.phase("training the baseline FedAvg", total=400, unit="round")
        for index in range(200):
            clock.now += 1.0
            view.on_round(event(index, asked=200, admitted=198, refused={"late": 2}))
        assert max(len(line) for line in drawn(view).splitlines()) <= 80


def test_without_a_terminal_there_are_a_few_plain_lines():
    view, out, clock = view_on(terminal=False, loss_of_round=lambda _: 1.25)
    with view:
        view.phase("scanning")
        clock.now += 3.0
        view.phase("meta-training", total=40, unit="round")
        for index in range(40):
            clock.now += 1.0
            view.on_round(event(index))
    lines = out.getvalue().splitlines()
    assert lines[:3] == ["scanning", "  done after 3.0 s", "meta-training, 40 rounds"]
    assert " ".join(lines[3].split()) == (
        "round 10/40 sites asked 6 admitted 6 refused 0 loss 1.250"
    )
    assert len(lines) == 3 + 4 + 1
    assert "\x1b" not in out.getvalue()


def test_quiet_is_silent_and_still_keeps_the_times():
    for terminal in (True, False):
        view, out, clock = view_on(terminal=terminal, quiet=True)
        with view:
            view.phase("scanning")
            clock.now += 3.0
            view.phase("evaluating", total=2)
            clock.now += 4.0
            view.advance(2)
        assert out.getvalue() == ""
        assert view.wall_seconds == {"scanning": 3.0, "evaluating": 4.0}


def test_on_a_terminal_finished_phases_stay_and_the_cursor_comes_back():
    view, out, clock = view_on(terminal=True)
    with view:
        view.phase("scanning")
        clock.now += 3.0
        view.phase("evaluating")
    assert "✓ scanning  3.0 s" in out.getvalue()
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l")


def test_an_error_ends_the_view_and_is_not_called_done():
    view, out, _ = view_on(terminal=False)
    view.__enter__()
    view.phase("meta-training", total=3, unit="round")
    view.__exit__(RuntimeError, RuntimeError("boom"), None)
    assert "stopped after" in out.getvalue()
    assert "done" not in out.getvalue()


def test_a_name_with_markup_is_shown_as_it_is():
    view, out, _ = view_on(terminal=False)
    with view:
        view.phase("[bold]x[/]")
        assert "[bold]x[/]" in drawn(view)
    assert "[bold]x[/]" in out.getvalue()


def test_equal_losses_make_a_flat_line():
    assert sparkline([1.0, 1.0, 1.0]) == "▁▁▁"
    assert sparkline([0.0, 7.0]) == "▁█"
