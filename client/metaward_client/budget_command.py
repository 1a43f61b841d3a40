"""`metaward site budget`: what patients have lost, what the next round costs, how many remain."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from metaward_client.privacy.ledger.state import LedgerState
    from metaward_client.privacy.ledger.summary import Accounting, BudgetSummary

EXAMPLE = "Example:  metaward site budget /data/north/site.yaml --plot budget.svg"
BAR = 40
"""Characters of the bar on a terminal."""
PLOTS = (".svg", ".png")


def register(site: typer.Typer) -> None:
    """Add the command ``budget`` to the group ``site``."""
    site.command("budget", epilog=EXAMPLE)(budget)


def budget(
    site: Annotated[Path, typer.Argument(help="A site.yaml, or a folder that holds one.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw epsilon against releases: a .svg or .png file.")
    ] = None,
) -> None:
    """Show what patients have lost to all studies together, and what is left.

    Reads the ledger while a round may be running. Exit code 4 where the ledger fails verification
    or no further round fits, so that monitoring can tell; otherwise 0.
    """
    from rich.console import Console

    from metaward_client.ledger_command import ledger_of
    from metaward_client.privacy.ledger import BudgetExceeded, read_ledger
    from metaward_client.privacy.ledger import summary as summaries
    from metaward_client.privacy.ledger.refusals import RAISE_BUDGET

    if plot is not None:
        _require_plot(plot)
    place = ledger_of(site)
    state = read_ledger(place.folder, place.witness)
    accounting = summaries.accounting_of_record()
    summary = summaries.summarise(state, place.budget, place.terms, accounting)
    if as_json:
        typer.echo(json.dumps(summaries.as_json(summary), indent=2))
    else:
        _print(summary, Console())
    if plot is not None:
        _draw(state, summary, accounting, plot)
    if summary.rounds_remaining == 0:
        raise BudgetExceeded(
            "no further round fits into the privacy budget",
            where=str(place.folder),
            next_step="The site takes no part in further rounds under these terms. A person may "
            f"raise the budget: `{RAISE_BUDGET}`.",
        )


def _print(summary: "BudgetSummary", console: "Console") -> None:
    budget_, terms = summary.budget, summary.terms
    console.print(
        f"[bold]Privacy budget[/]  epsilon {summary.epsilon:.3f} of {budget_.target_epsilon:g} "
        f"spent at delta {budget_.target_delta:g}"
    )
    console.print(_bar(summary.epsilon / budget_.target_epsilon))
    console.print(f"  {claim(summary)}", soft_wrap=True)
    if summary.studies:
        console.print(_studies(summary))
    costs = summary.epsilon_after_next - summary.epsilon
    console.print(
        f"Next round  {terms.mechanism}, sigma {terms.noise_multiplier:g}, q "
        f"{terms.sample_rate:g}, {terms.steps} steps: costs {costs:.4f}, to {_after(summary)}",
        soft_wrap=True,
    )
    console.print(f"Rounds that remain under these terms: {summary.rounds_remaining}")
    recorded = summary.recorded
    if budget_ != recorded:
        console.print(
            f"The ledger records epsilon {recorded.target_epsilon:g}, delta "
            f"{recorded.target_delta:g}. A site.yaml that allows less holds; one that allows more "
            "is refused.",
            soft_wrap=True,
        )


def claim(summary: "BudgetSummary") -> str:
    """Return what must stand beside every epsilon."""
    from metaward_client.privacy.ledger.state import UNIT
    from metaward_client.privacy.ledger.summary import SAMPLING

    return (
        f"unit: {UNIT}; relation: {summary.relation}; sampling: {SAMPLING}; "
        f"accountant: {summary.accountant}"
    )


def _after(summary: "BudgetSummary") -> str:
    text = f"{summary.epsilon_after_next:.3f}"
    return text if summary.rounds_remaining else f"{text}, [red]which is refused[/]"


def _bar(share: float) -> str:
    filled = min(BAR, round(BAR * share))
    colour = "red" if share > 0.9 else "yellow" if share > 0.6 else "green"
    return f"  [{colour}]{'█' * filled}[/]{'░' * (BAR - filled)} {share:.0%}"


def _studies(summary: "BudgetSummary") -> "Table":
    from rich.table import Table

    table = Table(caption="epsilon: of each study as if it were alone")
    table.add_column("study", min_width=12)
    table.add_column("mechanism")
    for heading in ("rounds", "answered", "sigma", "q", "steps", "epsilon"):
        table.add_column(heading, justify="right")
    for study in summary.studies:
        table.add_row(
            study.study[:12],
            study.terms.mechanism,
            str(study.rounds),
            str(study.answered),
            f"{study.terms.noise_multiplier:g}",
            f"{study.terms.sample_rate:g}",
            str(study.steps),
            f"{study.epsilon:.3f}",
        )
    return table


def _require_plot(path: Path) -> None:
    from metaward.errors import ConfigError

    if path.suffix not in PLOTS or not path.parent.is_dir():
        raise ConfigError(
            f"'{path}'",
            expected=f"a new file in a folder that stands, ending in {' or '.join(PLOTS)}",
            where="--plot",
            next_step="Name such a file.",
        )


def _draw(
    state: "LedgerState", summary: "BudgetSummary", accounting: "Accounting", path: Path
) -> None:
    """Draw epsilon against releases, with the budget as a line."""
    from metaward.errors import ConfigError
    from metaward.report.svg import GROUND, MUTED, SERIES, drawing
    from metaward_client.privacy.ledger.summary import epsilon_curve, forecast

    target = summary.budget.target_epsilon
    past = epsilon_curve(state, summary.budget.target_delta, summary.relation, accounting)
    future = forecast(state, summary, accounting)
    lines = [(past, "-", "spent"), (future, ":", "if the site goes on")]
    with drawing(6.4, 4.0) as (figure, axes):
        figure.subplots_adjust(left=0.09, right=0.97, bottom=0.2, top=0.9)
        axes.set_title("Privacy budget: epsilon against releases")
        for curve, style, label in lines:
            axes.plot(
                [n for n, _ in curve],
                [epsilon for _, epsilon in curve],
                color=SERIES[0],
                linestyle=style,
                label=label,
            )
        axes.axhline(target, color=SERIES[1], linestyle="--", label=f"budget {target:g}")
        axes.set_xlabel("releases of all studies")
        axes.set_ylabel("epsilon")
        axes.set_ylim(0, 1.25 * max(target, past[-1][1]))
        axes.set_xlim(0, max(1, future[-1][0]))
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="upper left", frameon=False, ncols=3)
        caption = f"delta {summary.budget.target_delta:g}; {claim(summary)}"
        figure.text(0.02, 0.03, caption, color=MUTED, fontsize=6.5)
        try:
            figure.savefig(path, facecolor=GROUND, dpi=160)
        except OSError as error:
            raise ConfigError(
                f"the plot cannot be written ({error.strerror})",
                where=str(path),
                next_step="Name another file.",
            ) from None
