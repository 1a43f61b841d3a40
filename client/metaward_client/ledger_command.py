"""`metaward site ledger`: make it, verify it, and what only a person may change in it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from metaward_client.privacy.policy import ProtectedSettings
    from metaward_client.privacy.terms import Budget, Terms

CREATE = "Example:  metaward site ledger create /data/north/site.yaml"
VERIFY = "Example:  metaward site ledger verify /data/north/site.yaml"
ACCEPT = (
    "Example:  metaward site ledger accept-clock /data/north/site.yaml "
    "--reason 'J. Doe: the battery of the clock was empty'"
)
RAISE = (
    "Example:  metaward site ledger raise-budget /data/north/site.yaml --epsilon 10 "
    "--reason 'Ethics committee, decision 2026-114'"
)

Site = Annotated[Path, typer.Argument(help="A site.yaml, or a folder that holds one.")]
Reason = Annotated[
    str, typer.Option(help="Who decided it, and why. It is kept: write nothing about patients.")
]


@dataclass(frozen=True)
class PlaceOfLedger:
    """Where a site's ledger is, and what the site's policy says.

    Attributes:
        witness: ``None`` for the default place.
    """

    folder: Path
    witness: Path | None
    budget: "Budget"
    terms: "Terms"


def register(site: typer.Typer) -> None:
    """Add the group ``ledger`` to the group ``site``."""
    ledger = typer.Typer(
        help="The record of everything that was released, on the hospital's own disk.",
        no_args_is_help=True,
    )
    ledger.command("create", epilog=CREATE)(create)
    ledger.command("verify", epilog=VERIFY)(verify)
    ledger.command("accept-clock", epilog=ACCEPT)(accept_clock)
    ledger.command("raise-budget", epilog=RAISE)(raise_budget)
    site.add_typer(ledger, name="ledger")


def ledger_of(site: Path) -> PlaceOfLedger:
    """Return where the ledger of a site is.

    Raises:
        ConfigError: The site's file is wrong, or its policy has no ledger.
    """
    policy = _policy_of(site)
    return PlaceOfLedger(policy.ledger, policy.witness, policy.budget, policy.terms())


def _policy_of(site: Path) -> "ProtectedSettings":
    from metaward_client.site_config import read_protected_policy

    return read_protected_policy(
        site, without="has no ledger", next_step="Choose a mechanism in site.yaml."
    )


def create(site: Site) -> None:
    """Make the ledger that site.yaml names, with the budget that site.yaml states.

    One ledger for one population of patients, of whom nothing was released without a mechanism, for
    all studies and coordinators. It is made once; nothing makes it anew when it is missing.
    """
    from rich.console import Console

    from metaward_client.init_command import NODE_FOLDER
    from metaward_client.node.node_folder import NodeFolder
    from metaward_client.node.site_log import sent_without_mechanism
    from metaward_client.privacy.ledger import Ledger
    from metaward_client.privacy.ledger.journal import places

    place = ledger_of(site)
    folder, witness = places(place.folder, place.witness)
    Ledger.create(place.folder, place.witness, place.budget)
    console = Console()
    console.print(f"Ledger   {folder}", soft_wrap=True, markup=False)
    console.print(f"Witness  {witness}", soft_wrap=True, markup=False)
    console.print(
        "Keep the witness on another disk or mount than the ledger, and in no backup that the "
        "ledger is in: an older copy of one of them is noticed, an older copy of both is not.",
        soft_wrap=True,
    )
    console.print(
        "It counts from now on, and holds for patients of whom nothing was released without a "
        "mechanism.",
        soft_wrap=True,
    )
    node = NodeFolder((site if site.is_dir() else site.parent) / NODE_FOLDER)
    if sent := sent_without_mechanism(node):
        console.print(
            f"[bold]This site's log has {sent} answers that were sent under mechanism none.[/] The "
            "ledger does not count them; for patients who were in them no budget holds.",
            soft_wrap=True,
        )


def verify(
    site: Site,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Verify every entry, the witness, and every stored answer; change nothing.

    Exit code 4 where something is not as it was left.
    """
    from rich.console import Console

    from metaward_client.privacy.ledger.snapshot import verify_ledger

    place = ledger_of(site)
    state = verify_ledger(place.folder, place.witness)
    found = {
        "verified": True,
        "ledger": state.ledger,
        "entries": state.entries,
        "studies": len(state.studies),
        "releases": len(state.releases),
        "last_entry": state.last_time,
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    Console(highlight=False).print(
        f"✓ The ledger is as it was left. Entries: {state.entries}; releases: "
        f"{len(state.releases)}; studies: {len(state.studies)}; the last entry is of "
        f"{state.last_time}",
        soft_wrap=True,
    )


def accept_clock(site: Site, reason: Reason) -> None:
    """Go on although the clock stands before the last entry, because it was wrong then."""
    from metaward_client.privacy.ledger import by_a_person

    place = ledger_of(site)
    by_a_person.accept_clock(place.folder, place.witness, reason)
    typer.echo("Recorded. The ledger goes on with the time that the clock has now.")


def raise_budget(
    site: Site,
    reason: Reason,
    epsilon: Annotated[
        float | None, typer.Option(help="New target_epsilon, above the recorded one.")
    ] = None,
    delta: Annotated[float | None, typer.Option("--target-delta", help="New target_delta.")] = None,
) -> None:
    """Raise what may be spent on these patients, for ever recorded with a reason.

    Raise it in site.yaml after that: one that allows less holds, one that allows more is refused.
    """
    from metaward_client.privacy.ledger import by_a_person, read_ledger
    from metaward_client.privacy.terms import Budget

    _require_askable(site, epsilon, delta)
    place = ledger_of(site)
    recorded = read_ledger(place.folder, place.witness).budget
    to = Budget(
        recorded.target_epsilon if epsilon is None else epsilon,
        recorded.target_delta if delta is None else delta,
    )
    before = by_a_person.raise_budget(place.folder, place.witness, to, reason)
    typer.echo(
        f"Recorded: from epsilon {before.target_epsilon:g}, delta {before.target_delta:g} to "
        f"epsilon {to.target_epsilon:g}, delta {to.target_delta:g}."
    )
    if place.budget != to:
        typer.echo(
            f"site.yaml allows epsilon {place.budget.target_epsilon:g}, delta "
            f"{place.budget.target_delta:g}. While it allows less, that holds; while it allows "
            "more, no round is answered."
        )


def _require_askable(site: Path, epsilon: float | None, delta: float | None) -> None:
    """Check that site.yaml could ask for the new budget: what is recorded is so for ever.

    Raises:
        ConfigError: It could not.
    """
    from metaward.config import validate_settings

    options = {
        "--epsilon": ("target_epsilon", epsilon),
        "--target-delta": ("target_delta", delta),
    }
    given = {option: pair for option, pair in options.items() if pair[1] is not None}
    policy = _policy_of(site)
    asked = policy.model_dump(mode="json") | dict(given.values())
    validate_settings(asked, type(policy), where=", ".join(given))
