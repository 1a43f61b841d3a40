"""The whole `metaward simulate`: time by phase, memory, and what the shared model is worth.

    python benchmarks/bench_simulate.py [--seeds 0,1,2] [--quick]

Each seed is one run of the command as a user types it, in a new folder, with nothing cached. Memory
is the RSS of the whole process tree, looked at ten times a second: pages that processes share count
once per process, so the true figure is lower. Gains are paired differences, mean over the
hospitals that were held out, with the 95% interval of the report.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from figures import save

SHOTS = 5
LOOK_EVERY_S = 0.1
GIB = 2**30
MEDIANS = ("wall_s", "peak_rss_gib")
METAWARD = Path(sys.executable).with_name("metaward")

QUICK = """\
name: quick
hospitals: {synthetic: 3, held_out: 1, patients: 12}
rounds: 3
baselines: {fedavg: {rounds: 3}}
evaluation: {shots: [1, 5], n_query: 4, episodes: 20}
"""


def run_once(work: Path, seed: int, scenario: Path | None) -> dict[str, Any]:
    out = work / f"seed-{seed}"
    command = [str(METAWARD), "simulate", *([str(scenario)] if scenario else [])]
    command += ["--seed", str(seed), "--out", str(out)]
    environment = os.environ | {"XDG_CACHE_HOME": str(work / "cache")}
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    peak = peak_memory(process)
    total = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"metaward simulate ended with code {process.returncode}")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "command": shlex.join(["metaward", *command[1:]]),
        "wall_s": total,
        "phases_s": report["provenance"]["wall_seconds"],
        "peak_rss_gib": peak / GIB,
        "accuracy": {
            row["method"]: {"mean": row["mean"], "ci95": row["ci95"]}
            for row in report["pooled"]
            if row["shots"] == SHOTS and row["metric"] == "accuracy"
        },
        "gain": {
            row["reference"]: {"difference": row["difference"], "ci95": row["ci95"]}
            for row in report["comparison"]
            if row["site"] is None and row["shots"] == SHOTS and row["metric"] == "accuracy"
        },
    }


def peak_memory(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the process; return the largest RSS of its tree, in bytes."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, rss_of_tree(process.pid))
        time.sleep(LOOK_EVERY_S)
    return peak


def rss_of_tree(pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    except psutil.Error:  # it has ended
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def show(runs: list[dict[str, Any]]) -> None:
    table = Table("what", *(f"seed {run['seed']}" for run in runs), title="metaward simulate")
    table.add_row("wall time", *(f"{run['wall_s']:.0f} s" for run in runs))
    for phase in runs[0]["phases_s"]:
        table.add_row(f"  {phase}", *(f"{run['phases_s'][phase]:.1f} s" for run in runs))
    table.add_row(
        "  everything else",
        *(f"{run['wall_s'] - sum(run['phases_s'].values()):.1f} s" for run in runs),
    )
    table.add_row("peak RSS of all processes", *(f"{run['peak_rss_gib']:.2f} GiB" for run in runs))
    for method in runs[0]["accuracy"]:
        table.add_row(
            f"{SHOTS} shots, {method}", *(percent(run["accuracy"][method]["mean"]) for run in runs)
        )
    for reference in runs[0]["gain"]:
        table.add_row(
            f"  gain on {reference}", *(points(run["gain"].get(reference)) for run in runs)
        )
    Console().print(table)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def points(gain: dict[str, Any] | None) -> str:
    if gain is None or gain["difference"] is None:
        return "-"
    low, high = gain["ci95"]
    return f"{100 * gain['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0", help="separated by commas; one run each")
    parser.add_argument("--quick", action="store_true", help="3 hospitals, 3 rounds, 20 episodes")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        scenario = work / "quick.yaml" if options.quick else None
        if scenario is not None:
            scenario.write_text(QUICK, encoding="utf-8")
        runs = [run_once(work, seed, scenario) for seed in seeds]
    show(runs)
    median = {name: statistics.median(run[name] for run in runs) for name in MEDIANS}
    save(__file__, {"quick": options.quick, "median": median, "runs": runs})


if __name__ == "__main__":
    main()
