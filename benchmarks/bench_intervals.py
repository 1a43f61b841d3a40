"""How often 95% intervals hold the accuracy over all patients that a hospital could have.

    python benchmarks/bench_intervals.py [--hospitals 400] [--quick]

A hospital is a draw of patients: each a point about the centre of its finding. Episodes are drawn
from it as an evaluation does, and queries answered by the nearest class mean. The truth is the
accuracy for fresh patients. Beside the product's interval: the same without the patients adapted
on (two-way clustering of queries), and the binomial one. Then two methods that are equally good,
on features of their own: how often a difference is called one.
"""

import argparse
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from figures import save
from metaward.clustered_variance import Draws, support_role
from metaward.evaluation import MOST_IN_SUPPORT
from metaward.intervals import Estimate, clustered_mean, paired_difference
from metaward.workers import WorkerPool

FEATURES, EPISODES, QUERIES, TRUTH_EPISODES = 8, 200, 7, 20_000
Floats = np.ndarray


@dataclass(frozen=True)
class Setting:
    """Findings, patients of each, images to adapt on; how far the centres lie apart."""

    ways: int
    patients: int
    shots: int
    apart: float = 0.5

    @property
    def telling(self) -> int:
        """Images of the episodes that show what patients do, as an evaluation chooses them."""
        fewer = [k for k in (1, 5, 10, 20) if k <= self.shots]
        return max(k for k in fewer if k == 1 or k / self.patients <= MOST_IN_SUPPORT)

    @property
    def centres(self) -> Floats:
        """(ways, 1, 2 FEATURES): the same twice, for two methods that are equally good."""
        half = np.random.default_rng(99).normal(size=(self.ways, 1, FEATURES)) * self.apart
        return np.concatenate([half, half], axis=2)


SETTINGS = [
    Setting(ways, patients, shots)
    for ways, patients, shots in (
        *itertools.product((2, 5), (20, 60), (1, 5)),
        (5, 28, 10), (5, 28, 20), (5, 60, 20), (5, 12, 1), (5, 12, 5), (5, 200, 5),
    )
]  # fmt: skip
HALVES = (slice(0, FEATURES), slice(FEATURES, 2 * FEATURES))


def right(support: Floats, query: Floats) -> Floats:
    """Return (n, ways, n_query): whether the nearest mean of support features is the finding's."""
    apart = query[:, :, :, None] - support.mean(axis=2)[:, None, None]
    nearest = np.square(apart).sum(axis=-1).argmin(axis=-1)
    return (nearest == np.arange(support.shape[1])[:, None]).astype(float)


def truth(setting: Setting) -> float:
    rng = np.random.default_rng(5)
    shape = (TRUTH_EPISODES, setting.ways, setting.shots + 1, 2 * FEATURES)
    patients = (setting.centres + rng.normal(size=shape))[..., HALVES[0]]
    return float(right(patients[:, :, :-1], patients[:, :, -1:]).mean())


def hospital(setting: Setting, seed: int, shots: int) -> tuple[list[Floats], Draws]:
    """Return the answers of both methods at one hospital, and who was asked.

    With fewer shots the same queries are asked of a model that adapted on the first of the same.
    """
    rng = np.random.default_rng([7, seed])
    ways, n = setting.ways, setting.patients
    patients = setting.centres + rng.normal(size=(ways, n, 2 * FEATURES))
    order = np.argsort(rng.random((EPISODES, ways, n)), axis=2)
    support, query = order[:, :, :shots], order[:, :, setting.shots :][:, :, :QUERIES]
    finding = np.arange(ways)[:, None]
    answers = [
        right(patients[finding, support][..., half], patients[finding, query][..., half]).ravel()
        for half in HALVES
    ]
    return answers, Draws(
        (finding * n + query).ravel(),
        np.repeat(np.arange(EPISODES), query[0].size),
        np.tile(np.repeat(np.arange(ways), query.shape[2]), EPISODES),
        (finding * n + support).reshape(EPISODES, -1),
    )


def measure(job: tuple[Setting, int]) -> dict[str, Any]:
    setting, hospitals = job
    expected = truth(setting)
    held = dict.fromkeys(("metaward", "queries alone", "binomial"), 0)
    called = dict.fromkeys(("metaward", "queries alone"), 0)
    means, errors = [], []
    for seed in range(hospitals):
        (first, second), draws = hospital(setting, seed, setting.shots)
        (fewer, other), told = hospital(setting, seed, setting.telling)
        without = Draws(draws.patients, draws.episodes, draws.labels, draws.supports[:, :0])
        role = support_role(fewer - fewer.mean(), told)
        gain = fewer - other
        of_gain = support_role(gain - gain.mean(), told)
        found = clustered_mean(first, draws, adapted=role)
        held["metaward"] += holds(found, expected)
        held["queries alone"] += holds(clustered_mean(first, without), expected)
        difference = paired_difference(first, second, draws, adapted=of_gain)
        called["metaward"] += difference.excludes_zero
        called["queries alone"] += paired_difference(first, second, without).excludes_zero
        spread = math.sqrt(found.mean * (1 - found.mean) / len(first))
        held["binomial"] += abs(found.mean - expected) <= 1.96 * spread
        means.append(found.mean)
        errors.append(found.standard_error)
    return {
        "ways": setting.ways,
        "patients_per_finding": setting.patients,
        "shots": setting.shots,
        "truth": expected,
        "held": {name: n / hospitals for name, n in held.items()},
        "called_a_difference": {name: n / hospitals for name, n in called.items()},
        "standard_error_over_spread": float(np.mean(errors) / np.std(means)),
        "hospitals": hospitals,
    }


def holds(found: Estimate, expected: float) -> bool:
    return found.low <= expected <= found.high


def print_table(results: list[dict[str, Any]]) -> None:
    table = Table(title="95% intervals that hold the truth; equal methods called different")
    for heading in (
        "ways", "patients", "shots", "ours", "queries", "binomial",
        "called", "queries", "error / spread",
    ):  # fmt: skip
        table.add_column(heading)
    for r in results:
        table.add_row(
            *(str(r[key]) for key in ("ways", "patients_per_finding", "shots")),
            *(f"{share:.1%}" for share in r["held"].values()),
            *(f"{share:.1%}" for share in r["called_a_difference"].values()),
            f"{r['standard_error_over_spread']:.2f}",
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hospitals", type=int, default=400, help="draws for each setting")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="40 draws")
    arguments = parser.parse_args()
    hospitals = 40 if arguments.quick else arguments.hospitals
    with WorkerPool(arguments.workers) as pool:
        results = list(pool.map(measure, [(setting, hospitals) for setting in SETTINGS]))
    print_table(results)
    save(__file__, {"settings": results})


if __name__ == "__main__":
    main()
