"""How long the accountant takes to say whether the next round fits, after 1,000 rounds.

    python benchmarks/bench_accounting.py [--repeats 20] [--quick]

"Cold" is a fresh process: import dp-accounting, build the loss of one step, compose. "Warm" is the
same process, each time for a number of rounds that was not asked before. "dp-accounting" is its own
PLDAccountant, warm as well, on the same question; its answer stands beside ours. Then the search
for the rounds that remain, and for the noise that a budget takes.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from rich.console import Console
from rich.table import Table

from figures import save
from metaward_client.privacy import accountant
from metaward_client.privacy.accountant import epsilon, plus, rounds_within
from metaward_client.privacy.calibration import noise_multiplier_for
from metaward_client.privacy.privacy_loss import neighboring_relation, step_loss
from metaward_client.privacy.terms import Budget, Composition, GaussianStep, Relation

DELTA = 1e-5
ROUNDS = 1000
ADD, REPLACE = Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE
PLANS: dict[str, tuple[Composition, Composition, Relation]] = {
    # spent elsewhere; one round; relation
    "dp-sgd, sigma 1.5, q .05, k 5": ({}, {GaussianStep(1.5, 0.05): 5}, ADD),
    "dp-sgd, sigma 4, q .01, k 5": ({}, {GaussianStep(4.0, 0.01): 5}, ADD),
    "block, sigma 8, q .5": ({}, {GaussianStep(8.0, 0.5): 1}, REPLACE),
    "block beside two dp-sgd studies": (
        {GaussianStep(1.5, 0.05): 200, GaussianStep(2.0, 0.1): 300},
        {GaussianStep(8.0, 0.5): 1},
        REPLACE,
    ),
}
TARGETS = (8.0, 3.0, 1.0)

COLD = """
import sys, time
began = time.perf_counter()
import dp_accounting.pld.privacy_loss_distribution
from metaward_client.privacy.accountant import epsilon
from metaward_client.privacy.terms import GaussianStep, Relation
imported = time.perf_counter()
epsilon(eval(sys.argv[1]), target_delta=1e-5, relation=Relation(sys.argv[2]))
print(imported - began, time.perf_counter() - imported)
"""


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_ms(times: list[float]) -> dict[str, float]:
    return {
        "median_ms": round(1e3 * statistics.median(times), 2),
        "max_ms": round(1e3 * max(times), 2),
    }


def record_epsilon(composition: Composition, relation: Relation) -> float:
    record = PLDAccountant(neighboring_relation(relation))
    for step, count in composition.items():
        one = PoissonSampledDpEvent(step.sample_rate, GaussianDpEvent(step.noise_multiplier))
        record.compose(SelfComposedDpEvent(one, count))
    return float(record.get_epsilon(DELTA))


def cold(total: Composition, relation: Relation, repeats: int) -> dict[str, float]:
    """Seconds to import and to answer, each the median over fresh processes."""
    command = [sys.executable, "-c", COLD, repr(dict(total)), relation.value]
    parts = []
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        parts.append([float(part) for part in done.stdout.split()])
    imports, answers = (statistics.median(part) for part in zip(*parts, strict=True))
    return {"import_s": round(imports, 3), "answer_s": round(answers, 3)}


def measure(
    spent: Composition, per_round: Composition, relation: Relation, rounds: int, repeats: int
) -> dict[str, Any]:
    def ask(done: int) -> float:
        total = plus(spent, per_round, done)
        return epsilon(total, target_delta=DELTA, relation=relation)

    ask(rounds)
    warm = [seconds(lambda n=n: ask(rounds + n)) for n in range(1, repeats + 1)]  # type: ignore[misc]
    total = plus(spent, per_round, rounds)
    record = [seconds(lambda: record_epsilon(total, relation)) for _ in range(max(2, repeats // 5))]
    budget = Budget(1.001 * ask(rounds), DELTA)
    accountant._epsilon.cache_clear()
    accountant._horizon.cache_clear()
    return {
        "epsilon": round(ask(rounds), 5),
        "epsilon_dp_accounting": round(record_epsilon(total, relation), 5),
        "cold": cold(total, relation, max(2, repeats // 5)),
        "warm": in_ms(warm),
        "dp_accounting": in_ms(record),
        "rounds_remaining_first": in_ms(
            [seconds(lambda: rounds_within(total, per_round, budget, relation))]
        ),
        "rounds_remaining_again": in_ms(
            [
                seconds(
                    lambda n=n: rounds_within(  # type: ignore[misc]
                        plus(spent, per_round, n), per_round, budget, relation
                    )
                )
                for n in range(repeats)
            ]
        ),
    }


def calibrations(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds to find sigma with nothing remembered; dp-sgd q .05 k 5 and block q .5."""
    found = {}
    for name, steps, rate, relation in (("dp-sgd", 5, 0.05, ADD), ("block", 1, 0.5, REPLACE)):
        for target in TARGETS:
            step_loss.cache_clear()
            accountant._epsilon.cache_clear()
            noise_multiplier_for.cache_clear()
            began = time.perf_counter()
            sigma = noise_multiplier_for(
                rounds=rounds,
                steps=steps,
                sample_rate=rate,
                target_epsilon=target,
                target_delta=DELTA,
                relation=relation,
            )
            took = round(time.perf_counter() - began, 3)
            found[f"{name}, {rounds} rounds, epsilon {target:g}"] = {"sigma": sigma, "s": took}
    return found


def show(results: dict[str, Any]) -> None:
    table = Table("after 1,000 rounds", "epsilon", "cold", "warm", "dp-accounting", "rounds left")
    for name, row in results["plans"].items():
        fresh = row["cold"]["import_s"] + row["cold"]["answer_s"]
        table.add_row(
            name,
            f"{row['epsilon']:.4f}",
            f"{fresh:.2f} s",
            f"{row['warm']['median_ms']:.1f} ms",
            f"{row['dp_accounting']['median_ms']:.0f} ms",
            f"{row['rounds_remaining_first']['median_ms']:.0f} ms, "
            f"then {row['rounds_remaining_again']['median_ms']:.2f} ms",
        )
    Console().print(table)
    found = Table("calibration", "sigma", "time")
    for name, row in results["calibration"].items():
        found.add_row(name, f"{row['sigma']:.3f}", f"{row['s']:.2f} s")
    Console().print(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    options = parser.parse_args()
    rounds, repeats = (50, 2) if options.quick else (ROUNDS, options.repeats)
    plans = {name: measure(*plan, rounds, repeats) for name, plan in PLANS.items()}
    results = {"rounds": rounds, "plans": plans, "calibration": calibrations(100)}
    show(results)
    if not options.quick:
        save(__file__, results)


if __name__ == "__main__":
    main()
