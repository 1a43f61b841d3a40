"""`metaward site quote`: what a privacy policy costs, before any data is touched."""

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaward.errors import ConfigError

if TYPE_CHECKING:
    from metaward_client.privacy.cross_check import CrossCheck
    from metaward_client.privacy.policy import ProtectedSettings
    from metaward_client.privacy.quote import Quote

EXAMPLE = "Example:  metaward site quote --epsilon 8 --rounds 100 --patients 1000"
OPEN = ("--epsilon", "--rounds", "--noise-multiplier")
DEFAULT_STEPS = 2
DEFAULT_SAMPLE_RATE = 0.3


class Mechanism(StrEnum):
    """The mechanisms that have a cost; the words of site.yaml."""

    DP_SGD = "dp-sgd"
    BLOCK = "block"


def quote(
    site: Annotated[
        Path | None,
        typer.Argument(help="A site.yaml, or a folder that holds one, whose policy is quoted."),
    ] = None,
    mechanism: Annotated[
        Mechanism | None, typer.Option(help="How updates are made private: by default dp-sgd.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="What a patient may lose in all rounds together.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds, of all studies.")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="sigma: the noise over the clip norm.")
    ] = None,
    target_delta: Annotated[
        float | None, typer.Option(help="Delta; by default 1 / (10 patients).")
    ] = None,
    patients: Annotated[
        int | None, typer.Option(min=10, help="Patients, as a public round number.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Noised sums per round: {DEFAULT_STEPS}; for block always 1."),
    ] = None,
    sample_rate: Annotated[
        float | None,
        typer.Option(
            help="q: chance of a patient, or block, to enter one noised sum: by default "
            f"{DEFAULT_SAMPLE_RATE}."
        ),
    ] = None,
    cross_check: Annotated[
        bool, typer.Option("--cross-check", help="Ask three other accountants too; takes seconds.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Say what a privacy policy costs its patients; no data is read.

    Leave out one of --epsilon, --rounds and --noise-multiplier: it is solved for. With SITE, its
    policy stands for every option that is not given: its budget and noise say how many rounds fit;
    with --rounds, its budget says which noise. Exit code 4 where no noise or no round fits into the
    budget, or accountants disagree.
    """
    from rich.console import Console

    from metaward_client.privacy import quote as quotes
    from metaward_client.quote_text import print_quote

    policy = None if site is None else _policy_of(site)
    if policy is not None:
        epsilon, noise_multiplier = _filled_in(policy, epsilon, rounds, noise_multiplier)
    _require_one_open((epsilon, rounds, noise_multiplier))
    if sample_rate is None:
        sample_rate = DEFAULT_SAMPLE_RATE if policy is None else policy.sample_rate
    chosen = mechanism or (Mechanism.DP_SGD if policy is None else Mechanism(policy.mechanism))
    _require_positive("--epsilon", epsilon)
    _require_positive("--sample-rate", sample_rate, 1.0)
    _require_usable_noise(noise_multiplier)
    plan = quotes.Plan(
        mechanism=chosen.value,
        target_delta=_target_delta(target_delta, patients, policy),
        steps=_steps(chosen, steps, policy),
        sample_rate=sample_rate,
        target_epsilon=epsilon,
        rounds=rounds,
        noise_multiplier=noise_multiplier,
    )
    answer = quotes.quote(plan)
    checked = _checked(answer) if cross_check else None
    if as_json:
        typer.echo(json.dumps(answer.to_json() | _check_as_json(checked), indent=2))
    else:
        print_quote(answer, checked, policy, Console())


def _policy_of(site: Path) -> "ProtectedSettings":
    from metaward_client.site_config import read_protected_policy

    return read_protected_policy(
        site,
        without="promises nothing at any number of rounds",
        next_step="Choose a mechanism in site.yaml, or quote a plan without a site.",
    )


def _filled_in(
    policy: "ProtectedSettings",
    epsilon: float | None,
    rounds: int | None,
    noise_multiplier: float | None,
) -> tuple[float | None, float | None]:
    """Return budget and noise, the policy's where fewer than two of the three are given."""
    if (epsilon, rounds, noise_multiplier).count(None) > 1 and epsilon is None:
        epsilon = policy.target_epsilon
    if (epsilon, rounds, noise_multiplier).count(None) > 1:
        noise_multiplier = policy.noise_multiplier
    return epsilon, noise_multiplier


def _require_one_open(values: tuple[float | None, ...]) -> None:
    given = [option for option, value in zip(OPEN, values, strict=True) if value is not None]
    if len(given) != len(OPEN) - 1:
        raise ConfigError(
            f"{' and '.join(given)}{' alone' if len(given) == 1 else ''}"
            or "none of what a plan is made of",
            expected=f"two of {', '.join(OPEN)}; the third is solved for",
            where="metaward site quote",
            next_step=EXAMPLE,
        )


def _require_positive(option: str, value: float | None, most: float = math.inf) -> None:
    if value is not None and not (0 < value <= most and math.isfinite(value)):
        bound = "" if most == math.inf else f", at most {most:g}"
        raise ConfigError(
            f"{value:g}", expected=f"a number above 0{bound}", where=option, next_step=EXAMPLE
        )


def _require_usable_noise(value: float | None) -> None:
    from metaward_client.privacy.terms import LEAST_NOISE_MULTIPLIER, MOST_NOISE_MULTIPLIER

    if value is not None and not LEAST_NOISE_MULTIPLIER <= value <= MOST_NOISE_MULTIPLIER:
        raise ConfigError(
            f"{value:g}",
            expected=f"a number from {LEAST_NOISE_MULTIPLIER:g} to {MOST_NOISE_MULTIPLIER:g}",
            where="--noise-multiplier",
            next_step=EXAMPLE,
        )


def _target_delta(
    target_delta: float | None, patients: int | None, policy: "ProtectedSettings | None"
) -> float:
    from metaward_client.privacy.policy import MAX_DELTA_TIMES_POPULATION
    from metaward_client.privacy.terms import LEAST_DELTA

    if policy is not None and patients is None:
        patients = policy.population
        target_delta = policy.target_delta if target_delta is None else target_delta
    most = None if patients is None else MAX_DELTA_TIMES_POPULATION / patients
    if target_delta is None:
        if most is None:
            raise ConfigError(
                "neither --patients nor --target-delta",
                expected="one of them: epsilon means nothing without its delta",
                where="metaward site quote",
                next_step=EXAMPLE,
            )
        target_delta = most
    if not LEAST_DELTA <= target_delta < 1:
        raise ConfigError(
            f"{target_delta:g}",
            expected=f"a number between 0 and 1, and at least {LEAST_DELTA:g}: the accountant "
            "resolves no less",
            where="--target-delta",
            next_step=EXAMPLE,
        )
    if most is not None and target_delta > most * (1 + 1e-9):
        raise ConfigError(
            f"{target_delta:g}",
            expected=f"at most 1 / (10 patients), which is {most:g}",
            where="--target-delta",
            next_step="Leave it out, or lower it: a site.yaml with this value is refused.",
        )
    return target_delta


def _steps(mechanism: Mechanism, steps: int | None, policy: "ProtectedSettings | None") -> int:
    if mechanism is Mechanism.DP_SGD:
        if steps is not None:
            return steps
        at_site = None if policy is None else policy.terms()
        return at_site.steps if at_site and at_site.mechanism == mechanism else DEFAULT_STEPS
    if steps not in (None, 1):
        raise ConfigError(
            f"{steps}",
            expected="1, or nothing: a block is released once a round",
            where="--steps",
        )
    return 1


def _checked(answer: "Quote") -> "CrossCheck":
    from metaward_client.privacy.cross_check import cross_check

    return cross_check(answer.composition, answer.plan.target_delta, answer.plan.relation)


def _check_as_json(checked: "CrossCheck | None") -> dict[str, object]:
    if checked is None:
        return {}
    others = {"pld_own_composition": checked.pld_own_composition, "rdp": checked.rdp}
    finite = {name: value if math.isfinite(value) else None for name, value in others.items()}
    return {"cross_check": finite | {"prv_add_or_remove_one": checked.prv}}
