"""`metaward adapt`: a model that names a hospital's findings, from a shared one in seconds."""

import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from metaward.adapted_model import AdaptedCard

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
    seed: Annotated[int, typer.Option(min=0, help="Seed of which labelled images are taken.")] = 0,
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
    from metaward.private_file import whole_or_empty
    from metaward.run_directory import fresh_folder, model_folder
    from metaward.terminal import printable
    from metaward_client.site import load_site

    artefact = load_model(model_folder(run_or_model))
    loaded, model = load_site(site), artefact.card.model
    window = loaded.config.preprocess.window
    console = Console(stderr=as_json)
    with fresh_folder(out):
        with console.status("Reading DICOM"):
            task = with_images_of_each_label(
                loaded.load_task(
                    image_size=model.image_size, channels=model.channels, workers=workers
                )
            )
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
            labels=tuple(map(printable, task.label_names)),
            adapted_on=tuple(np.bincount(support.labels.numpy()).tolist()),
            most=shots,
            seed=seed,
            window=None if window is None else (window.center, window.width),
            check=check,
            created_by=f"metaward {version('metaward')}",
        )
        with whole_or_empty(out):
            card = save_adapted(out, card, artefact, classify)
    if as_json:
        typer.echo(card.model_dump_json(indent=2))
    else:
        _print_card(card, out, took_s, console)


def _print_card(card: "AdaptedCard", out: Path, took_s: float, console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    from metaward.report.wording import (
        counted,
        percent,
        percent_interval,
        percent_with_interval,
        seconds,
    )

    total = sum(card.adapted_on)
    console.print(
        f"Adapted to {card.site}: {counted(len(card.labels), 'finding')}, "
        f"{counted(total, 'labelled image')}, in {seconds(took_s)}"
    )
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
    if card.check is None:
        console.print(
            "Not checked: a finding has too few patients to leave some out and adapt on others. "
            "Label images of more patients to learn how often the model is right."
        )
    else:
        console.print(
            f"Mean over findings: {percent(card.check.share, 0)}% right "
            f"({percent_interval(card.check.ci95, 0)}); guessing, "
            f"{percent(1 / len(card.labels), 0)}%"
        )
    console.print(
        f"\nUse it:  metaward predict {out} FILES\nIt was made from patients' images and is not "
        "protected: it stays at the hospital.",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
