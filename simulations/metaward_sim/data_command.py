"""`metaward data`: make hospitals, from what researchers have (`import`) or drawn (`demo`)."""

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from metaward_sim.hospital_folder import HospitalSummary


class ModalityChoice(StrEnum):
    """Values of --modality."""

    CR = "CR"
    CT = "CT"
    MR = "MR"
    US = "US"
    XC = "XC"
    OT = "OT"


class SharedPatientsChoice(StrEnum):
    """Values of --shared-patients."""

    ONE_SITE = "one-site"
    SEPARATE = "separate"


Out = Annotated[
    Path, typer.Option("--out", help="Parent folder; one folder per hospital is made in it.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace hospitals that are there already.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

MOST_LISTED = 12
"""Labels of a hospital that are shown; --json has all."""


def register(app: typer.Typer) -> None:
    """Add the group `data` to the root command."""
    group = typer.Typer(
        help="Make DICOM hospitals: from your own images, or synthetic ones.",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("import")(import_images)
    group.command("demo")(demo)
    app.add_typer(group, name="data")


def import_images(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="An .npz, a folder of pictures per class, or a CSV table."
        ),
    ],
    out: Out,
    name: Annotated[
        str | None, typer.Option(help="Name of the hospital; with several sites, a prefix.")
    ] = None,
    site_column: Annotated[
        str | None, typer.Option(help="Array or column with the hospital of each image.")
    ] = None,
    patient_column: Annotated[
        str | None, typer.Option(help="Array or column with the patient of each image.")
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option("--label-column", "--labels-array", help="Array or column with the labels."),
    ] = None,
    images_array: Annotated[
        str | None,
        typer.Option(
            "--images-array",
            "--path-column",
            help="Array with the images, or column with the paths of pictures.",
        ),
    ] = None,
    label_names: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Names of the labels 0, 1, 2, ...")
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="Folder that a table's paths start from.")
    ] = None,
    modality: Annotated[
        ModalityChoice, typer.Option(help="Modality that the files state; OT is 'other'.")
    ] = ModalityChoice.OT,
    shared_patients: Annotated[
        SharedPatientsChoice,
        typer.Option(
            help="A patient id at several sites: 'one-site' keeps the person where most images "
            "are, 'separate' takes them for different persons."
        ),
    ] = SharedPatientsChoice.ONE_SITE,
    max_images: Annotated[
        int | None, typer.Option(help="Take a random subset of whole patients, at most so many.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that subset.")] = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn an .npz, picture folders or a table into DICOM hospitals, one per site.

    Example: metaward data import ham10000.npz --out hospitals --site-column site
    --patient-column lesion_id
    """
    from metaward_sim.importers.image_source import ColumnChoice
    from metaward_sim.importers.run import ImportRequest, plan_import, write_import

    request = ImportRequest(
        source=source,
        columns=ColumnChoice(
            images=images_array,
            label=label_column,
            patient=patient_column,
            site=site_column,
            label_names=_split_names(label_names),
        ),
        image_root=image_root,
        name=name,
        modality=modality.value,
        shared_patients=shared_patients.value,
        max_images=max_images,
        seed=seed,
        force=force,
    )
    plan = plan_import(request)
    with _progress("Writing DICOM", plan.n_images) as on_progress:
        result = write_import(plan, out, on_progress=on_progress)
    if as_json:
        _print_json(result.hospitals, synthetic=False, taken=result.taken, remarks=result.remarks)
        return
    _print_sentences(f"Imported {source}", (*result.taken, *result.remarks))
    _print_hospitals(result.hospitals)


def demo(
    out: Out,
    hospitals: Annotated[int, typer.Option(help="Number of hospitals.")] = 10,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal files.")] = 0,
    patients: Annotated[
        int | None, typer.Option(help="Mean patients per finding; 24 by default.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Draw synthetic hospitals: several modalities, scanners, formats and label sets.

    Example: metaward data demo --out hospitals --hospitals 10
    """
    import os

    from metaward_sim.demo_data import DemoRequest, drawn_plans, write_demo

    request = DemoRequest(hospitals=hospitals, seed=seed, patients=patients)
    n_images = sum(plan.n_images for plan in drawn_plans(request))
    with _progress("Drawing hospitals", n_images) as on_progress:
        summaries = write_demo(
            out,
            hospitals=hospitals,
            seed=seed,
            patients=patients,
            workers=os.cpu_count() or 1,
            force=force,
            on_progress=on_progress,
        )
    if as_json:
        _print_json(summaries, synthetic=True)
        return
    _print_sentences(
        "All of this is synthetic",
        ("a program drew every image; no image shows a patient, no hospital is meant",),
    )
    _print_hospitals(summaries)


def _split_names(names: str | None) -> tuple[str, ...]:
    from metaward.errors import ConfigError

    if names is None:
        return ()
    parts = tuple(part.strip() for part in names.split(","))
    if not all(parts) or len(set(parts)) != len(parts):
        raise ConfigError(
            f"'{names}' as label names",
            expected="different names with commas between them, as in benign,malignant",
            where="--label-names",
        )
    return parts


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on the error stream, where it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        "[progress.description]{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


def _print_sentences(title: str, sentences: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    console.print(f"[bold]{escape(title)}[/]", soft_wrap=True)
    for sentence in sentences:
        console.print(f"  {escape(sentence)}", soft_wrap=True)


def _print_hospitals(hospitals: "tuple[HospitalSummary, ...] | list[HospitalSummary]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("hospital", "images", "patients", "labels (images)")
    for hospital in hospitals:
        shown = [f"{label} ({n})" for label, n in hospital.labels.items()]
        more = f" and {len(shown) - MOST_LISTED} more" if len(shown) > MOST_LISTED else ""
        labels = ", ".join(shown[:MOST_LISTED]) + more
        table.add_row(
            hospital.name, str(hospital.n_images), str(hospital.n_patients), escape(labels)
        )
    console = Console(highlight=False)
    console.print(table)
    scan = shlex.join(["metaward", "site", "scan", str(hospitals[0].path)])
    console.print(f"Next: {scan}", soft_wrap=True, markup=False)


def _print_json(
    hospitals: "tuple[HospitalSummary, ...] | list[HospitalSummary]",
    *,
    synthetic: bool,
    taken: tuple[str, ...] = (),
    remarks: tuple[str, ...] = (),
) -> None:
    answer = {
        "synthetic": synthetic,
        "hospitals": [
            {
                "name": hospital.name,
                "path": str(hospital.path),
                "images": hospital.n_images,
                "patients": hospital.n_patients,
                "labels": hospital.labels,
            }
            for hospital in hospitals
        ],
        "taken": list(taken),
        "remarks": list(remarks),
    }
    typer.echo(json.dumps(answer, indent=2))
