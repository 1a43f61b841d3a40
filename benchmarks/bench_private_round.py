"""What privacy adds to a site's round: the same images through the same network, private or not.

    python benchmarks/bench_private_round.py [--repeats N] [--quick]

Both sides go through the door `metaward_client.privacy.release.release` in one worker process, as a
site's rounds do, and take turns; the private side pays for clipping, noise and the ledger with all
its fsyncs. Patient DP-SGD runs at the policy's defaults, q = 0.3 and two noised sums a round:
prototypical networks against a plain round of episodes, FedAvg against plain steps on batches of
100, each on the expected number of images. block: the expected number of blocks, one episode each,
against as many episodes. Median over repeats, and their ratio.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from figures import save
from metaward.learner_settings import FedAvgSettings, LearnerSettings, PrototypicalSettings
from metaward.model_settings import ModelSettings
from metaward.study import Study
from metaward.tasks import Task
from metaward.workers import WorkerPool
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.policy import (
    BlockPolicy,
    DpSgdPolicy,
    NoPrivacy,
    ProtectedSettings,
    read_policy_file,
)
from metaward_client.privacy.release import AskedRound, release
from metaward_server.study_run import initial_theta
from metaward_sim.privacy_of_run import set_up

PATIENTS, IMAGES, LABELS = 1000, 2, 5
RATE, SUMS, BLOCKS, BLOCK_RATE = 0.3, 2, 20, 0.5
SEEN = int(RATE * SUMS * PATIENTS * IMAGES)
"""Images that a round of patient DP-SGD works on, on average."""


@dataclass(frozen=True)
class Case:
    """A policy, and the plain learner that does the same work."""

    name: str
    filters: int
    image_size: int
    policy: ProtectedSettings
    private: LearnerSettings
    plain: LearnerSettings


def cases() -> list[Case]:
    common: dict[str, Any] = {
        "target_epsilon": 100.0,
        "target_delta": 1e-5,
        "population": PATIENTS,
        "noise_multiplier": 4.0,
    }
    labels = tuple("abcde")
    dp_sgd = DpSgdPolicy(sample_rate=RATE, steps_per_round=SUMS, labels=labels, **common)
    block = BlockPolicy(sample_rate=BLOCK_RATE, blocks=BLOCKS, **common)
    fedavg = FedAvgSettings(local_steps=SEEN // 100, batch_size=100, augment="none")
    few: dict[str, Any] = {"n_shot": 2, "n_query": 2, "augment": "none"}
    one = PrototypicalSettings(episodes=1, **few)
    many = PrototypicalSettings(episodes=int(BLOCKS * BLOCK_RATE), **few)
    episodes = PrototypicalSettings(
        episodes=SEEN // (LABELS * 10), n_way=LABELS, n_shot=5, n_query=5, augment="none"
    )
    found = []
    for image_size, filters in itertools.product((32, 64), (16, 32)):
        size: dict[str, Any] = {"filters": filters, "image_size": image_size}
        found.append(Case("dp-sgd", policy=dp_sgd, private=episodes, plain=episodes, **size))
        found.append(Case("dp-sgd", policy=dp_sgd, private=fedavg, plain=fedavg, **size))
        found.append(Case("block", policy=block, private=one, plain=many, **size))
    return found


def task(image_size: int) -> Task:
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(PATIENTS), IMAGES)
    shape = (len(patients), 1, image_size, image_size)
    return Task(
        site="benchmark",
        images=rng.random(shape, dtype=np.float32).astype(np.float16),
        labels=patients % LABELS,
        patients=patients,
        label_names=tuple("abcde"),
        patient_tokens=tuple(str(number).encode() for number in range(PATIENTS)),
    )


def measure(case: Case, repeats: int) -> dict[str, Any]:
    data = task(case.image_size)
    with tempfile.TemporaryDirectory() as folder:
        policy = read_policy_file(set_up(Path(folder), {"site": case.policy})["site"])
        private = _rounds(case, case.private, policy, data)
        plain = _rounds(case, case.plain, NoPrivacy(), data)
        times: dict[str, list[float]] = {"private": [], "plain": []}
        for repeat in range(repeats + 1):
            for name, work in (("plain", plain), ("private", private)):
                began = time.perf_counter()
                work(repeat)
                if repeat:  # the first warms up, and asks the accountant once
                    times[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "mechanism": case.name,
        "learner": case.private.name,
        "filters": case.filters,
        "image_size": case.image_size,
        "private_s": median["private"],
        "plain_s": median["plain"],
        "ratio": median["private"] / median["plain"],
    }


def _rounds(case: Case, learner: LearnerSettings, policy: Any, data: Task) -> Any:
    model = ModelSettings(filters=case.filters, image_size=case.image_size)
    study = Study(rounds=1000, model=model, learner=learner)
    theta, source = initial_theta(study), os_noise()

    def work(round_index: int) -> None:
        asked = AskedRound(study, round_index, theta, (0, 1, round_index), 1)
        release(asked, lambda: data, policy, source)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    repeats = 2 if arguments.quick else arguments.repeats
    with WorkerPool(1, preload=("torch", "metaward_client.privacy.release")) as pool:
        results = [pool.submit(measure, case, repeats).result() for case in cases()]
    table = Table(
        "mechanism", "learner", "filters", "image", "plain round", "private round", "ratio"
    )
    for result in results:
        table.add_row(
            result["mechanism"],
            result["learner"],
            str(result["filters"]),
            "{0}x{0}".format(result["image_size"]),
            f"{1000 * result['plain_s']:.0f} ms",
            f"{1000 * result['private_s']:.0f} ms",
            f"{result['ratio']:.2f}",
        )
    Console().print(table)
    save(__file__, {"rows": results})


if __name__ == "__main__":
    main()
