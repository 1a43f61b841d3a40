"""The hospitals of a simulation: written or found, read, checked, and split into two groups."""

import difflib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaward.errors import ConfigError, DataError
from metaward.meta.compose import build_learner
from metaward.study import Study
from metaward.tasks import Task
from metaward_client.dicom.file_workers import FileWorkers
from metaward_client.site import Site, load_site, patient_fingerprints
from metaward_sim.demo_data import write_demo
from metaward_sim.open_files import allow_open_files
from metaward_sim.scenario import HospitalChoice

HOSPITALS_FOLDER = "hospitals"


@dataclass(frozen=True)
class Hospitals:
    """The sites of a simulation.

    Attributes:
        training: Sites that take part, by name.
        held_out: Sites that take no part, by name.
    """

    training: dict[str, Site]
    held_out: dict[str, Site]

    @property
    def synthetic(self) -> bool:
        """True when a program drew the images of a site that is measured."""
        return any(site.config.synthetic for site in self.held_out.values())

    @property
    def everyone(self) -> dict[str, Site]:
        """Every site, those that take part first."""
        return self.training | self.held_out


def draw_hospitals(
    choice: HospitalChoice,
    run_dir: Path,
    *,
    seed: int,
    workers: int,
) -> None:
    """Write the synthetic hospitals of a run, unless they stand there from an interrupted one."""
    if choice.root is not None or (run_dir / HOSPITALS_FOLDER).is_dir():
        return
    write_demo(
        run_dir / HOSPITALS_FOLDER,
        hospitals=choice.synthetic + _n_synthetic_held_out(choice),
        seed=seed,
        patients=choice.patients,
        workers=workers,
    )


def find_hospitals(choice: HospitalChoice, run_dir: Path) -> Hospitals:
    """Return the sites of a run, split into those that take part and those that do not.

    Raises:
        ConfigError: The folder is missing, holds too few sites, or a held-out name is unknown.
    """
    root = choice.root or run_dir / HOSPITALS_FOLDER
    sites = _sites_in(root)
    held_out = _held_out_names(choice.held_out, list(sites), root)
    training = {name: site for name, site in sites.items() if name not in held_out}
    if not training:
        raise ConfigError(
            f"all {len(sites)} hospitals are held out",
            expected="at least one hospital that takes part",
            where=str(root),
            next_step="Hold out fewer hospitals.",
        )
    return Hospitals(training, {name: sites[name] for name in held_out})


def refuse_shared_patients(sites: Sequence[Site]) -> None:
    """Stop when a patient is in two hospitals: held-out scores would be too good.

    Raises:
        DataError: Names the two hospitals and how many patients they share.
    """
    salt = secrets.token_bytes(32)
    seen: dict[bytes, str] = {}
    for site in sites:
        shared: dict[str, int] = {}
        for fingerprint in patient_fingerprints(site, salt):
            other = seen.setdefault(fingerprint, site.name)
            if other != site.name:
                shared[other] = shared.get(other, 0) + 1
        for other, n_patients in shared.items():
            raise DataError(
                f"{n_patients} patient IDs are in both hospitals",
                expected="patients of one hospital only: a score at one would include patients "
                "of the other",
                where=f"{other} and {site.name}",
                next_step="Give those patients to one hospital. If only the numbering is the "
                "same, set a different Issuer of Patient ID (0010,0021) at each.",
            )


def read_tasks(
    sites: Sequence[Site],
    *,
    image_size: int,
    channels: int,
    workers: int,
    on_site: Callable[[int], None],
) -> dict[str, Task]:
    """Decode every site's images (cached) and return its task, by name.

    Raises:
        ConfigError: This user may not hold so many files open.
        DataError: A site has no usable image.
    """
    allow_open_files(len(sites))
    tasks: dict[str, Task] = {}
    with FileWorkers(workers) as pool:
        for number, site in enumerate(sites, start=1):
            tasks[site.name] = site.load_task(
                image_size=image_size, channels=channels, workers=workers, pool=pool
            )
            on_site(number)
    return tasks


def refuse_unfit_sites(study: Study, tasks: Sequence[Task]) -> None:
    """Stop before the first round when a hospital's data cannot give what the learner needs.

    Raises:
        DataError: Names the hospital, the labels that are too small, and what to change.
    """
    learner = build_learner(study.learner)
    for task in tasks:
        learner.require_fit(task)


def _sites_in(root: Path) -> dict[str, Site]:
    if not root.is_dir():
        raise ConfigError(
            "there is no such folder",
            expected="a folder with one site folder per hospital",
            where=str(root),
            next_step="Make one with `metaward data import` or `metaward data demo`.",
        )
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    sites: dict[str, Site] = {}
    for folder in folders:
        site = load_site(folder)
        if site.name in sites:
            raise ConfigError(
                f"two hospitals are called {site.name}",
                expected="a name of its own for each hospital",
                where=f"{sites[site.name].path} and {folder}",
                next_step="Change `name` in one of the two site.yaml files.",
            )
        sites[site.name] = site
    if len(sites) < 2:
        raise ConfigError(
            f"{len(sites)} site folders",
            expected="at least two: one that takes part and one that is held out",
            where=str(root),
            next_step="Put one folder per hospital into this folder.",
        )
    return sites


def _n_synthetic_held_out(choice: HospitalChoice) -> int:
    if isinstance(choice.held_out, int):
        return choice.held_out
    raise ConfigError(
        "names of held-out hospitals",
        expected="a number, since synthetic hospitals are drawn by the run",
        where="hospitals.held_out",
        next_step="Give a number, or name a folder of hospitals with --data.",
    )


def _held_out_names(wanted: int | tuple[str, ...], names: list[str], root: Path) -> tuple[str, ...]:
    if isinstance(wanted, int):
        if not 1 <= wanted < len(names):
            raise ConfigError(
                f"{wanted} hospitals to hold out of {len(names)}",
                expected=f"from 1 to {len(names) - 1}",
                where=str(root),
                next_step="Change --held-out, or add hospitals.",
            )
        return tuple(names[-wanted:])
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise ConfigError(
                f"no hospital is called {name}" + (f" (did you mean {near[0]}?)" if near else ""),
                expected=f"some of: {', '.join(names)}",
                where=str(root),
                next_step="Correct --held-out.",
            )
    return wanted
