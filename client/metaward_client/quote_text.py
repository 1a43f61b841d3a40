"""What `metaward site quote` prints for a reader."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from metaward_client.privacy.cross_check import CrossCheck
    from metaward_client.privacy.policy import ProtectedSettings
    from metaward_client.privacy.quote import Quote

MORE_FIT = " or more: the search ends there"


def print_quote(
    answer: "Quote",
    checked: "CrossCheck | None",
    policy: "ProtectedSettings | None",
    console: "Console",
) -> None:
    """Print what a plan costs, what was assumed, and what fewer and more rounds would cost."""
    plan = answer.plan
    console.print(
        f"[bold]Quote[/]  epsilon {number_text(answer.epsilon)} at delta {plan.target_delta:g} for "
        f"every patient, {answer.rounds:,} rounds together; no data was read",
        highlight=False,
    )
    console.print(_facts(answer, checked, policy), highlight=False)
    console.print("What fewer and more rounds cost at this noise:", highlight=False)
    console.print(_other_rounds(answer), highlight=False)


def _facts(
    answer: "Quote", checked: "CrossCheck | None", policy: "ProtectedSettings | None"
) -> "Table":
    from rich.table import Table

    from metaward.privacy_promise import BLOCK
    from metaward_client.privacy.accountant import accountant_name
    from metaward_client.privacy.quote import SAMPLING, UNIT

    plan = answer.plan
    sampled = "block of patients" if plan.mechanism == BLOCK else "patient"
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("unit", f"{UNIT}: all images of one patient together"),
        ("relation", plan.relation.value),
        ("sampling", f"{SAMPLING}, every {sampled} with chance {plan.sample_rate:g} in every sum"),
        ("mechanism", plan.mechanism),
        ("accountant", accountant_name()),
        ("noise multiplier (sigma)", f"{answer.noise_multiplier:g} times the clip norm"),
        ("rounds", f"{answer.rounds:,}{MORE_FIT if answer.is_capped else ''}"),
        ("steps per round", f"{plan.steps}"),
        ("solved for", plan.solved_for.replace("_", " ")),
    ):
        table.add_row(f"  {name}", value)
    if plan.mechanism != BLOCK:
        in_mixed = f"epsilon {number_text(answer.epsilon_replace_one)} (replace one patient)"
        table.add_row("  beside block releases", in_mixed)
    if policy is not None:
        table.add_row("  bound in site.yaml", f"{policy.rounds:,} rounds of one study")
    if checked is not None:
        prv = "none" if checked.prv is None else f"{checked.prv:.4f} (add or remove one)"
        own = number_text(checked.pld_own_composition)
        others = f"own composition {own}, RDP {number_text(checked.rdp)}, PRV {prv}"
        table.add_row("  other accountants", others)
    return table


def _other_rounds(answer: "Quote") -> "Table":
    from rich.table import Table

    table = Table("rounds", "epsilon")
    for rounds, cost in answer.other_rounds:
        style = "bold" if rounds == answer.rounds else None
        table.add_row(f"{rounds:,}", number_text(cost), style=style)
    return table


def number_text(value: float) -> str:
    """Return an epsilon, rounded up, so that what is printed still holds."""
    return f"{math.ceil(value * 1e4) / 1e4:.4f}" if math.isfinite(value) else "no promise at all"
