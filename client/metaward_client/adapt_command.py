"""`metaward adapt`: a model that names a hospital's findings, from a shared one in seconds."""

import shlex
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from metaward.adapted_model import AdaptedCard
    from metaward.tasks import Task

LARGEST_SEED = 2**63 - 1
LABELS_NAMED = 12
EXAMPLE = (
    "Example:  metaward adapt runs/demo-20260101-120000 --site /data/north --out adapted-north"
)


def register(app: typer.Typer) -> None:
    """Add the command ``adapt``."""
    app.command("adapt", epilog=EXAMPLE)(adapt)


def adapt(
    run_or_model: Annotated[
        Path, typer.Argument(help="A run directory, or a folder with a model artefact.")
    ],
    site: Annotated[
        Path, typer.Option(help="site.yaml, or a folder of DICOM files with their labels.")
    ],
    out: Annotated[Path, typer.Option(help="New folder for the adapted model.")],
    shots: Annotated[
        int, typer.Option(min=1, help="Labelled images per finding to adapt on, at most.")
    ] = 20,
    seed: Annotated[
        int,
        typer.Option(min=0, max=LARGEST_SEED, help="Seed of which labelled images are taken."),
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; one per core by default.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the adapted model's card as JSON, nothing else.")
    ] = False,
) -> None:
    """Adapt a shared model to a hospital's labelled images; `metaward predict` uses what comes.

    It is asked about the hospital's own patients, each left out once from what
    it adapts on. The folder is made from patients' images and not protected:
    it stays at the hospital.
    """
    import numpy as np
    from rich.console import Console

    from metaward.adapted_model import AdaptedCard, adapted_classifier, save_adapted
    from metaward.labelled_support import labelled_support, with_images_of_each_label
    from metaward.left_out_check import check_left_out
    from metaward.model_artefact import load_model
    from metaward.report.wording import counted, seconds
    from metaward.run_directory import fresh_folder, model_folder
    from metaward_client.site import load_site

    artefact = load_model(model_folder(run_or_model))
    loaded, model = load_site(site), artefact.card.model
    window = loaded.config.preprocess.window
    console = Console(stderr=as_json)
    with fresh_folder(out):
        with console.status("Reading DICOM"):
            everything = loaded.load_task(
                image_size=model.image_size, channels=model.channels, workers=workers
            )
        task = _with_printable_labels(with_images_of_each_label(everything))
        of_model, of_check = np.random.default_rng(seed).spawn(2)
        support = labelled_support(task, most=shots, rng=of_model)
        with console.status("Adapting"):
            began = time.perf_counter()
            classify = adapted_classifier(artefact, support)
            took_s = time.perf_counter() - began
        with console.status("Asking about patients left out"):
            check = check_left_out(
                task, lambda seen: adapted_classifier(artefact, seen), most=shots, rng=of_check
            )
        card = AdaptedCard(
            site=loaded.name,
            labels=task.label_names,
            adapted_on=tuple(np.bincount(support.labels.numpy()).tolist()),
            most=shots,
            seed=seed,
            window=None if window is None else (window.center, window.width),
            check=check,
            created_by=f"metaward {version('metaward')}",
        )
        card = save_adapted(out, card, artefact, classify)
    if as_json:
        typer.echo(card.model_dump_json(indent=2))
    else:
        console.print(
            f"Adapted to {card.site}: {counted(len(card.labels), 'finding')}, "
            f"{counted(sum(card.adapted_on), 'labelled image')}, in {seconds(took_s)}"
        )
        _print_card(card, console)
        if card.check is None:
            _print_unchecked(task, console)
        console.print(
            f"\nUse it:  metaward predict {shlex.quote(str(out))} FILES\n"
            "It was made from patients' images and is not protected: it stays at the hospital.",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )


def _with_printable_labels(task: "Task") -> "Task":
    """Return the task with labels that command no terminal; they stay different."""
    from metaward.errors import DataError
    from metaward.terminal import printable

    names = tuple(map(printable, task.label_names))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"labels that differ in control characters alone: {twice[0]}",
            expected="labels that a reader can tell apart",
            where=f"site {task.site}",
            next_step="Take the control characters out of the label table, or the folders' names.",
        )
    return replace(task, label_names=names)


def _print_card(card: "AdaptedCard", console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    from metaward.report.wording import counted, percent, percent_interval, percent_with_interval

    table = Table(Column("finding", overflow="fold"), Column("adapted on", justify="right"))
    if card.check is not None:
        table.add_column("right, of patients left out", justify="right")
        table.add_column("% (95% interval)", justify="right")
    for row, (label, images) in enumerate(zip(card.labels, card.adapted_on, strict=True)):
        cells = [escape(label), str(images)]
        if card.check is not None:
            found = card.check.findings[row]
            cells += [
                f"{found.right} of {found.images} ({counted(found.patients, 'patient')})",
                percent_with_interval(found.share, found.ci95, 0),
            ]
        table.add_row(*cells)
    console.print(table)
    if card.check is not None:
        console.print(
            f"Mean over findings: {percent(card.check.share, 0)}% right "
            f"({percent_interval(card.check.ci95, 0)}); guessing, "
            f"{percent(1 / len(card.labels), 0)}%"
        )


def _print_unchecked(task: "Task", console: "Console") -> None:
    """Say why nothing could be checked: the findings of which nobody can be left out."""
    images_of = task.images_of
    single = [task.label_names[c] for c, patients in images_of.items() if len(patients) == 1]
    shown = ", ".join(single[:LABELS_NAMED])
    if len(single) > LABELS_NAMED:
        shown += f", and {len(single) - LABELS_NAMED} more"
    console.print(
        f"Not checked: there is a single patient with {shown}. Label images of a second one, or "
        "leave that finding out, to learn how often the model is right."
        if single
        else "Not checked: findings share too few patients to leave some out and adapt on others. "
        "Label images of more patients to learn how often the model is right.",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
