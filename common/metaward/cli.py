"""The `metaward` command: finds the sub-commands of all parts and turns errors into exit codes.

Each part announces a function ``register(app)`` in the entry-point group ``metaward.commands``.
Those modules import nothing heavy at the top, so that ``metaward --help`` stays fast.

Exit codes: 0 ok, 2 usage or configuration, 3 data, 4 privacy budget, 5 federation,
130 interrupted.
"""

import sys
from importlib.metadata import entry_points, version

import click
import typer
from rich.console import Console
from rich.text import Text

from metaward.disk import explained
from metaward.errors import MetawardError
from metaward.terminal import let_stdout_replace, printable

INTERRUPTED = 130


def build_app() -> typer.Typer:
    """Return the root command with the sub-commands of every installed part."""
    app = typer.Typer(
        help="Federated meta-learning for hospitals: learn together, share no patients.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )

    @app.callback()
    def root(
        show_version: bool = typer.Option(
            False,
            "--version",
            help="Print the version and stop.",
            is_eager=True,
            callback=_print_version,
        ),
    ) -> None:
        pass

    for entry in sorted(entry_points(group="metaward.commands"), key=lambda entry: entry.name):
        entry.load()(app)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"metaward {version('metaward')}")
        raise typer.Exit


def print_error(error: MetawardError, console: Console) -> None:
    """Print one screen: what was found, what was expected, where, what to do next."""
    title = Text.assemble((f"{error.title} error", "bold red"), "  ", _shown(error.found))
    console.print(title, soft_wrap=True)
    for name, text in (
        ("expected", error.expected),
        ("where", error.where),
        ("next step", error.next_step),
    ):
        if text:
            line = Text.assemble("  ", (f"{name:<10}", "bold"), _shown(text))
            console.print(line, soft_wrap=True)


def _shown(text: str) -> str:
    """Return a text of several lines for a terminal, with nothing in it that commands it."""
    return "\n".join(map(printable, text.split("\n")))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; never raise for a user's mistake."""
    console = Console(stderr=True, highlight=False)
    try:
        result = typer.main.get_command(build_app()).main(
            args=arguments, prog_name="metaward", standalone_mode=False
        )
    except MetawardError as error:
        print_error(error, console)
        return error.exit_code
    except OSError as error:
        trouble = explained(error)
        if trouble is None:
            raise
        print_error(trouble, console)
        return trouble.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        result = INTERRUPTED
    if result == INTERRUPTED:  # typer turns Ctrl-C into this code and says nothing
        console.print("Interrupted.")
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of the `metaward` script."""
    let_stdout_replace()
    sys.exit(run(sys.argv[1:]))
