"""What the command line promises before any sub-command does its work."""

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import NoReturn

import click
import pytest
import typer
from rich.console import Console

from metaward import cli
from metaward.errors import (
    ConfigError,
    DataError,
    FederationError,
    MetawardError,
    PrivacyError,
    ProtocolError,
)

HEAVY = ("torch", "flwr", "pydicom", "matplotlib", "scipy", "ray")


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the words of every verb below a command."""
    if not isinstance(command, click.Group):
        return [path]
    return [
        leaf for name, child in command.commands.items() for leaf in leaves(child, (*path, name))
    ]


VERBS = leaves(typer.main.get_command(cli.build_app()))


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Give the command line two verbs: ``work``, which does as told, and ``rest``."""

    def install(work: Callable[[], None]) -> None:
        def register(app: typer.Typer) -> None:
            app.command("work")(work)
            app.command("rest")(lambda: None)

        entry = SimpleNamespace(name="work", load=lambda: register)
        monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])

    return install


def test_printing_help_imports_nothing_heavy() -> None:
    """Also for every verb: the modules of the commands are light until their command runs."""
    program = (
        "import sys; from metaward.cli import run\n"
        f"codes = [run([*verb, '--help']) for verb in {[(), *VERBS]!r}]\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'{codes} {heavy}' if heavy or any(codes) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "simulate" in done.stdout


def test_the_verbs_of_all_parts_are_there() -> None:
    assert set(VERBS) >= {
        ("simulate",),
        ("evaluate",),
        ("data", "demo"),
        ("data", "import"),
        ("site", "scan"),
    }


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_of_a_verb_has_an_example_that_names_it(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert cli.run([*verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"metaward {' '.join(verb)} " in text.split("Example", 1)[1]


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("metaward 0.")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ConfigError, 2),
        (DataError, 3),
        (PrivacyError, 4),
        (FederationError, 5),
        (ProtocolError, 5),
    ],
)
def test_a_mistake_is_one_screen_on_stderr_with_its_exit_code(
    kind: type[MetawardError],
    code: int,
    only: Callable[[Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> NoReturn:
        raise kind("two of [bold]them[/]", expected="one", where="row 3", next_step="Take one out.")

    only(fail)
    assert cli.run(["work"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"{kind.title} error  two of [bold]them[/]",
        "  expected  one",
        "  where     row 3",
        "  next step Take one out.",
    ]


def test_what_an_error_does_not_say_takes_no_line(
    only: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> NoReturn:
        raise DataError("nothing")

    only(fail)
    assert cli.run(["work"]) == 3
    assert capsys.readouterr().err == "Data error  nothing\n"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, click.Abort])
def test_ctrl_c_says_so_and_gives_130(
    interruption: type[BaseException],
    only: Callable[[Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted() -> NoReturn:
        raise interruption

    only(interrupted)
    assert cli.run(["work"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Interrupted."


def test_a_verb_that_ends_well_gives_0(
    only: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    only(lambda: None)
    assert cli.run(["work"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["work", "--frobnicate"], "No such option: --frobnicate"),
        (["work", "much"], "unexpected extra argument"),
    ],
)
def test_a_slip_on_the_command_line_gives_2_and_a_hint(
    arguments: list[str],
    words: str,
    only: Callable[[Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(lambda: None)
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "--help" in captured.err
    assert "Traceback" not in captured.err


def test_a_fault_of_the_program_is_not_dressed_up_as_the_users(
    only: Callable[[Callable[[], None]], None],
) -> None:
    def fault() -> NoReturn:
        raise ZeroDivisionError("ours")

    only(fault)
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.run(["work"])


def test_an_error_cannot_command_the_terminal(
    only: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise ConfigError("1 problem\n    \x1b[31mname", where="a\x9bb")

    only(work)
    assert cli.run(["work"]) == 2
    said = capsys.readouterr().err
    assert r"    \x1b[31mname" in said.splitlines()
    assert r"a\x9bb" in said


def test_an_error_is_printed_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    said = r"expected ^(\[[0-9a-f:]+\]|[a-z.-]+)$, not [red] or \[bold]"
    cli.print_error(ConfigError(said, expected=said), Console(stderr=True, highlight=False))
    assert capsys.readouterr().err.count(said) == 2
