"""How long a new hospital needs, from its first command to its first contributed round.

A coordinator and two hospitals run a study, as real processes with TLS. A third one comes and types
what docs/deploy-hospital.md says: init, the settings, a ledger, join, approve, start. What the
machine needs is measured. What is typed is counted in characters, the settings with it, and put in
minutes at 200 characters a minute (40 words); reading, deciding and the telephone are not in it.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from figures import save
from metaward_sim.demo_data import write_demo
from real_federation import PRIVATE, STUDY, Federation, federation, free_ports, typed

CHARACTERS_PER_MINUTE = 200
NEW = "north"
SETTINGS = "  key: sop_instance_uid\n  label: label\n"
"""What a newcomer adds to `data:`, beside the section `privacy`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=24, help="of the new hospital, per finding")
    parser.add_argument("--quick", action="store_true", help="6 patients")
    options = parser.parse_args()
    patients = 6 if options.quick else options.patients
    study = STUDY.replace("rounds: 4", "rounds: 500").replace("quorum: 3", "quorum: 2")
    study = study.replace("deadline_s: 240", "deadline_s: 60")
    with (
        TemporaryDirectory(prefix="metaward-") as folder,
        federation(Path(folder), study=study, hospitals=2) as made,
    ):
        write_demo(Path(folder) / "new", hospitals=3, patients=patients, seed=2, workers=2)
        made.run()
        made.until_round(1)
        steps = take_part(made, sorted((Path(folder) / "new").iterdir())[2])
        admitted_s = until_admitted(made, time.monotonic())
        made.end(NEW)
    steps.append({"step": "until its first round counts", "characters": 0, "seconds": admitted_s})
    report(steps)
    save(__file__, {"patients_per_finding": patients, "steps": steps,
                    "characters_per_minute": CHARACTERS_PER_MINUTE})  # fmt: skip


def take_part(made: Federation, data: Path) -> list[dict[str, Any]]:
    """Type everything up to the start, and return what each step took."""
    site, kit = made.site(NEW), made.folder / f"kit-{NEW}.yaml"
    init = ["site", "init", site, "--name", NEW,
            "--images", data / "images", "--labels", data / "labels.csv"]  # fmt: skip
    steps = [step("site init", made, init), edit(site / "site.yaml")]
    steps.append(step("site ledger create", made, ["site", "ledger", "create", site]))
    request = site / "node" / "enrolment.yaml"
    enrolled = typed("server", "enrol", made.coordinator, request, "--out", made.folder)
    fingerprint = enrolled.strip().splitlines()[-1]
    steps.append(step("site join", made, ["site", "join", site, kit, "--fingerprint", fingerprint]))
    approve = ["site", "approve", site, made.study, "--by", "A. Officer, data protection"]
    steps.append(step("site approve", made, [*approve, "--yes"], counted=approve))
    made.sites.append(NEW)
    made.start(NEW)
    steps.append({"step": "site start", "characters": characters(["site", "start", site]),
                  "seconds": 0.0})  # fmt: skip
    return steps


def step(
    name: str, made: Federation, arguments: list[Any], counted: list[Any] | None = None
) -> dict[str, Any]:
    began = time.monotonic()
    done = made.asked(NEW, *arguments)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, name, done.stdout, done.stderr)
    return {
        "step": name,
        "characters": characters(counted or arguments),
        "seconds": round(time.monotonic() - began, 1),
    }


def characters(arguments: list[Any]) -> int:
    """Return how long the line is, its paths by their last part: one works in the folder."""
    words = ["metaward", *(a.name if isinstance(a, Path) else str(a) for a in arguments)]
    return len(" ".join(words)) + 1


def edit(path: Path) -> dict[str, Any]:
    """Add the label table's columns and the policy."""
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition("\n# What patients may lose")
    port = f"health_port: {free_ports(1)[0]}\n"  # several nodes on one machine
    path.write_text(f"{head}{SETTINGS}\n# What{rest}\n{PRIVATE}{port}", encoding="utf-8")
    return {"step": "edit site.yaml", "characters": len(SETTINGS + PRIVATE), "seconds": 0.0}


def until_admitted(made: Federation, began: float) -> float:
    """Return the seconds until a closed round has three updates."""
    made.until(lambda: any(one["admitted"] == 3 for one in made.rounds()), "a round of three")
    return round(time.monotonic() - began, 1)


def report(steps: list[dict[str, Any]]) -> None:
    table = Table("step", "characters", "minutes to type", "seconds of the machine")
    total = {key: sum(one[key] for one in steps) for key in ("characters", "seconds")}
    for one in [*steps, {"step": "all"} | total]:
        minutes = one["characters"] / CHARACTERS_PER_MINUTE
        typing = f"{minutes:.1f}" if one["characters"] else ""
        table.add_row(one["step"], f"{one['characters'] or ''}", typing, f"{one['seconds']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
