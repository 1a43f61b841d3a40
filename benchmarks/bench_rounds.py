"""What a federation costs on this machine: start-up, overhead per round, memory over rounds.

    python benchmarks/bench_rounds.py [--rounds 30] [--many 200] [--workers N] [--quick]

start      from the start of the process to the first closed round, once for a bare federation over
           8 hospitals that stand on the disk (images not yet decoded, then decoded), and once for
           the whole `metaward simulate`, which draws its hospitals first
overhead   8 hospitals, the default study. Per round: its wall time, less what the sites' own logs
           say they computed, divided by the workers that computed it. It holds all that is not a
           site's work: sampling, encoding, pickling, admission, the mean, the outer step, log and
           checkpoint, and a worker that idles because 8 jobs do not divide evenly in time.
           `coordinator` is the part that the coordinator spends outside the wait for sites.
many       200 small hospitals: seconds per round, and the memory of the process tree after round
           2, half way and at the end. RSS counts pages that processes share once per process,
           PSS counts them once.
threads    the same learner work for 8 sites in 2 processes of one thread, and in one process of 2

Every federation runs in a process of its own.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from figures import save
from metaward.learner_settings import PrototypicalSettings
from metaward.model_settings import ModelSettings
from metaward.progress import RoundEvent
from metaward.study import Study
from metaward.tasks import Task
from metaward.workers import WorkerPool, available_cores
from metaward_client.privacy.policy import NoPrivacy
from metaward_client.site import load_site
from metaward_client.site_work import site_seed
from metaward_sim.demo_data import write_demo
from metaward_sim.federation import PRELOADED, SITES_FOLDER, run_federation
from metaward_sim.privacy_of_run import set_up
from metaward_sim.scenario import Scenario

SITES = 8
PATIENTS = 24
MANY_PATIENTS = 6
POLL_S = 0.01
MIB = 2**20
CHILD = "import sys; sys.path.insert(0, sys.argv[1]); import bench_rounds; bench_rounds.child()"
"""Not this script as a script: its workers would each import it once more."""

METAWARD = Path(sys.executable).with_name("metaward")

MANY_STUDY = Study(
    name="many",
    model=ModelSettings(filters=16),
    learner=PrototypicalSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
)
"""Little work per site, so that what grows with sites and rounds is seen."""


@dataclass(frozen=True)
class Closed:
    """A round, as the process that ran it saw it; memory only after some rounds."""

    at: float
    seconds: float
    overhead_s: float
    admitted: int
    rss: int
    pss: int


# --- the federation, in a process of its own -------------------------------------------------


def child() -> None:
    """Run a study and print one line of JSON per closed round."""
    study = Study.model_validate_json(sys.argv[2])
    hospitals, run_dir, workers = Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5])

    def on_round(event: RoundEvent) -> None:
        now = time.time()
        measured = event.round_index in memory_marks(event.n_rounds).values()
        rss, pss = memory_of_tree(os.getpid()) if measured else (0, 0)
        closed = Closed(now, event.seconds, event.overhead_s, event.admitted, rss, pss)
        print(json.dumps(asdict(closed)), flush=True)

    sites = site_folders(hospitals)
    run_federation(
        study,
        sites,
        run_dir,
        policies=set_up(run_dir, {load_site(site).name: NoPrivacy() for site in sites}),
        workers=workers,
        on_round=on_round,
    )


def memory_marks(rounds: int) -> dict[str, int]:
    """Return the rounds after which memory is measured."""
    return {"after_round_2": 1, "half_way": rounds // 2, "at_the_end": rounds - 1}


def site_folders(hospitals: Path) -> list[Path]:
    return sorted(path for path in hospitals.iterdir() if path.is_dir())


def memory_of_tree(pid: int) -> tuple[int, int]:
    """Return RSS and PSS in bytes, summed over a process and all that descend from it."""
    rss = pss = 0
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            info = process.memory_full_info()
        except psutil.Error:  # it has ended
            continue
        rss += info.rss
        pss += getattr(info, "pss", 0)
    return rss, pss


def run_child(study: Study, hospitals: Path, run_dir: Path, workers: int) -> list[Closed]:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent)]
    command += [study.model_dump_json(), str(hospitals), str(run_dir), str(workers)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [Closed(**json.loads(line)) for line in done.stdout.splitlines()]


# --- what is measured ------------------------------------------------------------------------


def start_up(work: Path, workers: int, repeats: int) -> dict[str, float]:
    first: list[float] = []
    again: list[float] = []
    whole: list[float] = []
    for number in range(repeats):
        hospitals = work / f"start-{number}"
        write_demo(hospitals, hospitals=SITES, patients=PATIENTS, workers=workers)
        study = Scenario(rounds=1).study()
        for times, run_dir in ((first, f"first-{number}"), (again, f"again-{number}")):
            began = time.time()
            times.append(run_child(study, hospitals, work / run_dir, workers)[0].at - began)
        whole.append(seconds_to_first_round(work / f"simulate-{number}"))
    return {
        "federation_s": statistics.median(first),
        "federation_again_s": statistics.median(again),
        "simulate_s": statistics.median(whole),
    }


def seconds_to_first_round(out: Path) -> float:
    """Return the seconds from the start of `metaward simulate` to its first closed round."""
    began = time.monotonic()
    process = subprocess.Popen(
        [str(METAWARD), "simulate", "--hospitals", str(SITES), "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    rounds = out / "rounds.jsonl"
    try:
        while not (rounds.is_file() and rounds.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"metaward simulate ended with code {process.returncode}")
            time.sleep(POLL_S)
        return time.monotonic() - began
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def overhead(work: Path, workers: int, rounds: int) -> dict[str, float]:
    hospitals, run_dir = work / "eight", work / "eight-run"
    write_demo(hospitals, hospitals=SITES, patients=PATIENTS, workers=workers)
    closed = run_child(Scenario(rounds=rounds).study(), hospitals, run_dir, workers)
    compute = [0.0] * rounds
    for log in (run_dir / SITES_FOLDER).glob("*.jsonl"):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            compute[entry["round_index"]] += entry["seconds"]
    # In the first round every site decodes its images; that is no round like the others.
    later = slice(1, None)
    used = min(workers, SITES)
    beyond = [
        round_.seconds - seconds / used
        for round_, seconds in zip(closed[later], compute[later], strict=True)
    ]
    apart = [b.at - a.at for a, b in itertools.pairwise(closed)]
    return {
        "rounds": rounds - 1,
        "round_s": statistics.median(r.seconds for r in closed[later]),
        "sites_compute_s": statistics.median(compute[later]),
        "overhead_s": statistics.median(beyond),
        "worst_overhead_s": max(beyond),
        "coordinator_s": statistics.median(r.overhead_s for r in closed[later]),
        "log_and_checkpoint_s": statistics.median(
            gap - r.seconds for gap, r in zip(apart, closed[later], strict=True)
        ),
    }


def many(work: Path, sites: int, workers: int, rounds: int) -> dict[str, Any]:
    hospitals = work / "many"
    began = time.monotonic()
    write_demo(hospitals, hospitals=sites, patients=MANY_PATIENTS, workers=workers)
    drawing = time.monotonic() - began
    study = MANY_STUDY.model_copy(update={"rounds": rounds})
    closed = run_child(study, hospitals, work / "many-run", workers)
    marks = {name: closed[index] for name, index in memory_marks(rounds).items()}
    return {
        "sites": sites,
        "rounds": rounds,
        "admitted_in_every_round": min(round_.admitted for round_ in closed),
        "drawing_s": drawing,
        "first_round_s": closed[0].seconds,
        "round_s": statistics.median(round_.seconds for round_ in closed[1:]),
        "coordinator_s": statistics.median(round_.overhead_s for round_ in closed[1:]),
        "rss_mib": {name: round_.rss / MIB for name, round_ in marks.items()},
        "pss_mib": {name: round_.pss / MIB for name, round_ in marks.items()},
    }


def threads(hospitals: Path, repeats: int) -> dict[str, float]:
    """Time the work of 8 sites in 2 processes of one thread and in one of two, taking turns."""
    study = Scenario().study()
    jobs = [(str(site), study) for site in site_folders(hospitals)]
    with WorkerPool(2, preload=PRELOADED) as two, WorkerPool(1, preload=PRELOADED) as one:
        pools = {"two_processes_s": (two, 1), "two_threads_s": (one, 2)}
        taken: dict[str, list[float]] = {name: [] for name in pools}
        for repeat in range(repeats + 1):
            for name, (pool, n_threads) in pools.items():
                began = time.perf_counter()
                list(pool.map(site_work, [(*job, repeat, n_threads) for job in jobs]))
                taken[name].append(time.perf_counter() - began)
    # The first turn imports and maps the images.
    median = {name: statistics.median(times[1:]) for name, times in taken.items()}
    return median | {"ratio": median["two_threads_s"] / median["two_processes_s"]}


def site_work(job: tuple[str, Study, int, int]) -> float:
    """Run in a worker: what one site computes in one round."""
    import torch

    from metaward.meta.compose import build_learner
    from metaward.models.build import build_body

    path, study, round_index, n_threads = job
    torch.set_num_threads(n_threads)
    task = open_task(path, study.model.image_size, study.model.channels)
    body = build_body(study.model, study.seed)
    seed = np.random.SeedSequence([*site_seed(study.seed, task.site), round_index])
    rng = np.random.default_rng(seed)
    learner = build_learner(study.learner)
    return learner.local_delta(body, body.initial_parameters(), task, rng).loss


@lru_cache
def open_task(path: str, image_size: int, channels: int) -> Task:
    return load_site(Path(path)).load_task(image_size=image_size, channels=channels)


# --- results ---------------------------------------------------------------------------------


def show(results: dict[str, Any]) -> None:
    start, rounds, crowd, split = (
        results[name] for name in ("start", "overhead", "many", "threads")
    )
    table = Table("what", "figure", title=f"A federation, {results['setting']['workers']} workers")

    def add(what: str, figure: str) -> None:
        table.add_row(what, figure)

    add(f"start to first round, {SITES} hospitals on disk", f"{start['federation_s']:.1f} s")
    add("  images decoded by an earlier run", f"{start['federation_again_s']:.1f} s")
    add("  `metaward simulate`, which draws hospitals", f"{start['simulate_s']:.1f} s")
    add(f"a round of {SITES} hospitals", f"{rounds['round_s']:.3f} s")
    add("  beyond the hospitals' own compute", f"{rounds['overhead_s']:.3f} s")
    add("  the worst round", f"{rounds['worst_overhead_s']:.3f} s")
    add("  of that, the coordinator", f"{rounds['coordinator_s']:.4f} s")
    add("  log and checkpoint, between rounds", f"{rounds['log_and_checkpoint_s']:.4f} s")
    add(f"a round of {crowd['sites']} small hospitals", f"{crowd['round_s']:.2f} s")
    add("  updates admitted in every round", str(crowd["admitted_in_every_round"]))
    for kind in ("rss", "pss"):
        figures = " -> ".join(f"{value:,.0f}" for value in crowd[f"{kind}_mib"].values())
        label = f"  {kind.upper()} after round 2, half way, after {crowd['rounds']}"
        add(label, f"{figures} MiB")
    add("one process of 2 threads / 2 processes of one", f"{split['ratio']:.2f} x the time")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--many", type=int, default=200, help="sites of the large federation")
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="6 rounds, 20 sites, no repeats")
    options = parser.parse_args()
    rounds, sites, repeats = options.rounds, options.many, options.repeats
    if options.quick:
        rounds, sites, repeats = 6, 20, 1
    if rounds < 3:
        parser.error("--rounds: at least 3")

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        results = {
            "setting": {"rounds": rounds, "workers": options.workers, "repeats": repeats},
            "start": start_up(work, options.workers, repeats),
            "overhead": overhead(work, options.workers, rounds),
            "many": many(work, sites, options.workers, rounds),
            "threads": threads(work / "eight", max(repeats, 3)),
        }
    show(results)
    save(__file__, results)


if __name__ == "__main__":
    main()
