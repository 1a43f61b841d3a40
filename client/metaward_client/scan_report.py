"""Say what a scan found: for people as tables, for machines as one JSON object.

Counts, label names, and names from closed lists; nothing else from the files.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from metaward.report.wording import counted
from metaward.terminal import either, printable
from metaward_client.dicom.refusals import EXPLANATIONS, RefusalReason
from metaward_client.dicom.transfer_syntaxes import describe, modality_name
from metaward_client.site_scan import SiteScan

SHOTS = (1, 5, 10, 20)
"""Support images per label that the reports of metaward are made for."""

LABELS_SHOWN = 50
"""On a terminal; more than that is rather a wrong column than a label set."""

ROWS_SHOWN = 5
ROWS_OF_ONE = 10


@dataclass(frozen=True)
class LabelCount:
    """What a site has of one label.

    Attributes:
        images_of_patients: Images of each patient with that label.
    """

    name: str
    images_of_patients: tuple[int, ...]

    @property
    def n_images(self) -> int:
        """Images with that label."""
        return sum(self.images_of_patients)

    def supports(self, n_shot: int) -> bool:
        """Say whether ``n_shot`` support images leave another patient to score on.

        Best is to score on the patient with the fewest images.
        """
        counts = self.images_of_patients
        return len(counts) > 1 and sum(counts) - min(counts) >= n_shot


def count_labels(scan: SiteScan) -> list[LabelCount]:
    """Return the counts of each label, in the order of the scan's labels."""
    images_of: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for image in scan.images:
        images_of[image.label][image.patient] += 1
    return [
        LabelCount(name, tuple(images_of[index].values()))
        for index, name in enumerate(scan.label_names)
    ]


def scan_as_json(scan: SiteScan) -> dict[str, Any]:
    """Return the scan as plain values."""
    labels = count_labels(scan)
    join = scan.join
    return {
        "site": scan.site,
        "files": scan.n_files,
        "headers_read": scan.n_headers_read,
        "pixels_read": scan.n_pixels_read,
        "usable_images": len(scan.images),
        "patients": scan.n_patients,
        "labels": [
            {
                "label": label.name,
                "images": label.n_images,
                "patients": len(label.images_of_patients),
                "shots": [shots for shots in SHOTS if label.supports(shots)],
            }
            for label in labels
        ],
        "few_shot": [
            {"shots": shots, "labels": sum(label.supports(shots) for label in labels)}
            for shots in SHOTS
        ],
        "modalities": dict(_modalities(scan).most_common()),
        "transfer_syntaxes": dict(_transfer_syntaxes(scan).most_common()),
        "refused": refused_as_json(scan.refused),
        "join": {
            "rows": join.n_rows,
            "images_matched": join.images_matched,
            "images_without_label": join.images_without_label,
            "rows_without_image": join.rows_without_image,
            "incomplete_rows": join.incomplete_rows,
            "unreadable_rows": list(join.unreadable_rows),
            "images_ambiguous": join.images_ambiguous,
            "ids_with_and_without_issuer": join.ids_with_and_without_issuer,
            "contradictions": [
                {"rows": list(c.rows), "labels": list(c.labels), "images": c.n_images}
                for c in join.contradictions
            ],
        },
    }


def refused_as_json(refused: Mapping[RefusalReason, int]) -> list[dict[str, Any]]:
    """Return files refused by reason, the most frequent first, as plain values."""
    return [
        {
            "reason": reason.value,
            "files": n_files,
            "what": EXPLANATIONS[reason].what,
            "next_step": EXPLANATIONS[reason].next_step,
        }
        for reason, n_files in sorted(refused.items(), key=lambda item: -item[1])
    ]


def what_to_do(scan: SiteScan) -> str:
    """Return the next step for whoever has read the report of a scan without a usable image."""
    if not scan.refused:
        return "Put the images there, or name the folder or site.yaml that has some."
    if RefusalReason.NO_LABEL not in scan.refused:
        return "Do what the report says of each reason."
    if scan.join.n_rows:
        return "Compare the keys of the label table, and data.key, with what the images have."
    return "Put the images into one folder per label, or name a label table in data.labels."


def refusal_table(refused: Mapping[RefusalReason, int]) -> Table:
    """Return files refused by reason, the most frequent first, as a table."""
    table = Table(Column("not used, because", no_wrap=True))  # to be looked up as it stands
    table.add_column("files", justify="right")
    table.add_column("what it means")
    table.add_column("next step")
    for reason, n_files in sorted(refused.items(), key=lambda item: -item[1]):
        explanation = EXPLANATIONS[reason]
        table.add_row(reason.value, str(n_files), explanation.what, explanation.next_step)
    return table


def print_scan(scan: SiteScan, console: Console) -> None:
    """Print the scan as tables."""
    console.print(
        f"[bold]Site {escape(scan.site)}[/]  {counted(scan.n_files, 'file')}, "
        f"{counted(len(scan.images), 'usable image')} of {counted(scan.n_patients, 'patient')}"
    )
    known, decoded = scan.n_headers_known, scan.n_pixels_read
    console.print(
        f"  {counted(scan.n_headers_read, 'header')} read now"
        + (f", {known:,} known from an earlier scan" if known else "")
        + ("" if decoded is None else f"; {counted(decoded, 'image')} decoded now")
    )
    labels = count_labels(scan)
    if labels:
        console.print(_label_table(labels, either(console, "✓", "yes")))
    if len(labels) > LABELS_SHOWN:
        more = counted(len(labels) - LABELS_SHOWN, "more label")
        console.print(f"  and {more}; is it the right column?")
    if scan.images:
        console.print(_two_column_table("modality", _modalities(scan)))
        console.print(_two_column_table("transfer syntax", _transfer_syntaxes(scan)))
    if scan.refused:
        console.print(refusal_table(scan.refused))
    _print_join(scan, console)
    if labels:
        _print_few_shot(labels, console)


def _label_table(labels: list[LabelCount], tick: str) -> Table:
    table = Table(Column("label", overflow="fold"), title_justify="left")
    for heading in ("images", "patients", *(f"{shots}-shot" for shots in SHOTS)):
        table.add_column(heading, justify="right")
    for label in labels[:LABELS_SHOWN]:
        marks = [tick if label.supports(shots) else "-" for shots in SHOTS]
        counts = [str(label.n_images), str(len(label.images_of_patients))]
        table.add_row(escape(printable(label.name)), *counts, *marks)
    return table


def _two_column_table(heading: str, counts: Counter[str]) -> Table:
    table = Table(Column(heading, overflow="fold"))
    table.add_column("images", justify="right")
    for name, n_images in counts.most_common():
        table.add_row(name, str(n_images))
    return table


def _print_join(scan: SiteScan, console: Console) -> None:
    join = scan.join
    matched, without = counted(join.images_matched, "image"), f"{join.images_without_label:,}"
    if not join.n_rows:
        console.print(f"Labels are folder names: {matched} in a folder, {without} in none")
    else:
        incomplete = counted(join.incomplete_rows, "row")
        console.print(
            f"Label table: {counted(join.n_rows, 'row')}; {matched} with a label, {without} "
            f"without; {counted(join.rows_without_image, 'row')} without image"
            + (f"; {incomplete} without key or label" if join.incomplete_rows else "")
        )
    if join.unreadable_rows:
        console.print(
            f"  [red]not read[/]: {counted(len(join.unreadable_rows), 'row')} (not UTF-8, or a "
            f"quotation that does not end in the row): {_named(join.unreadable_rows)}"
        )
    for contradiction in join.contradictions[:ROWS_SHOWN]:
        names = " and ".join(f"'{name}'" for name in contradiction.labels)
        console.print(
            f"  [red]two labels[/] for {counted(contradiction.n_images, 'image')}"
            + (f", {_named(contradiction.rows)}" if contradiction.rows else "")
            + f": {escape(printable(names))}"
        )
    if len(join.contradictions) > ROWS_SHOWN:
        more = counted(len(join.contradictions) - ROWS_SHOWN, "more contradiction")
        console.print(f"  and {more}")
    if join.ids_with_and_without_issuer:
        console.print(
            "  [yellow]patient IDs with and without an issuer[/]: "
            f"{join.ids_with_and_without_issuer}; each counts as two patients, and a person behind "
            "it has a weaker privacy bound. Export all images with the issuer, or all without."
        )


def _named(rows: tuple[int, ...]) -> str:
    """Return the first row numbers."""
    shown = ", ".join(map(str, rows[:ROWS_OF_ONE]))
    more = ", …" if len(rows) > ROWS_OF_ONE else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {shown}{more}"


def _print_few_shot(labels: list[LabelCount], console: Console) -> None:
    counts = ", ".join(
        f"{shots}-shot: {sum(label.supports(shots) for label in labels)}" for shots in SHOTS
    )
    console.print(
        f"Labels with enough patients to adapt on some and score on another: {counts} "
        f"of {len(labels)}"
    )


def _modalities(scan: SiteScan) -> Counter[str]:
    return Counter(modality_name(image.modality) for image in scan.images)


def _transfer_syntaxes(scan: SiteScan) -> Counter[str]:
    return Counter(describe(image.transfer_syntax).name for image in scan.images)
