"""Join headers with labels and patients, and say what does not fit, by reason."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from metaward_client.dicom.header import Header
from metaward_client.dicom.header_index import IndexedFile
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.dicom.walk import FoundFile
from metaward_client.labels import LabelTable, comparable_key
from metaward_client.patients import PatientKey, patient_key
from metaward_client.site_config import LabelKey
from metaward_client.unicode_form import one_form

Labels = dict[str, list[int]]
"""label -> rows of the table that give it; no rows where the folder gives it."""


@dataclass(frozen=True)
class Contradiction:
    """Images with two labels.

    Attributes:
        rows: Rows of the label table, ascending; empty where folders are the labels.
        labels: The labels, sorted.
        n_images: Images concerned.
    """

    rows: tuple[int, ...]
    labels: tuple[str, ...]
    n_images: int


@dataclass(frozen=True)
class JoinSummary:
    """How well images and labels fit.

    Attributes:
        n_rows: Rows of the label table; 0 where folders are the labels.
        images_matched: Images with one label.
        images_without_label: Images that no row names.
        rows_without_image: Rows whose key no usable image has.
        incomplete_rows: Rows without key or label.
        unreadable_rows: Rows that cannot be read.
        contradictions: Images with two labels.
        ids_with_and_without_issuer: Patient IDs that some images have with an issuer and others
            without: of one person they make two patients.
    """

    n_rows: int = 0
    images_matched: int = 0
    images_without_label: int = 0
    rows_without_image: int = 0
    incomplete_rows: int = 0
    unreadable_rows: tuple[int, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    ids_with_and_without_issuer: int = 0

    @property
    def images_ambiguous(self) -> int:
        """Images with two labels."""
        return sum(contradiction.n_images for contradiction in self.contradictions)


@dataclass(frozen=True, slots=True)
class JoinedImage:
    """An image with a header, a patient and a label."""

    file: FoundFile
    header: Header
    patient: PatientKey
    label: str


@dataclass(frozen=True)
class Join:
    """Images that have all they need, and the others by reason.

    Attributes:
        images: Sorted by SOP Instance UID: the order depends neither on file names nor on where
            the folder is.
    """

    images: tuple[JoinedImage, ...]
    refused: Counter[RefusalReason]
    summary: JoinSummary


@dataclass
class _Copies:
    """Files that hold one image."""

    members: list[tuple[FoundFile, Header, PatientKey]] = field(default_factory=list)


def join_labels(files: Iterable[IndexedFile], table: LabelTable | None, *, key: LabelKey) -> Join:
    """Give each image its patient and its label.

    Args:
        files: From the header index.
        table: The label table, or None where the first folder of a path is the label.
        key: What a row of the table names.
    """
    refused: Counter[RefusalReason] = Counter()
    instances: defaultdict[str, _Copies] = defaultdict(_Copies)
    for indexed in files:
        header = indexed.outcome
        if not isinstance(header, Header):
            refused[header] += 1
        elif not header.sop_instance_uid:
            refused[RefusalReason.NO_INSTANCE_UID] += 1
        elif (patient := patient_key(header)) is None:
            refused[RefusalReason.NO_PATIENT_ID] += 1
        else:
            copies = instances[header.sop_instance_uid]
            copies.members.append((indexed.file, header, patient))
    issuers = _issuers_of_ids(instances.values())
    labels_of = _folder_labels if table is None else _table_labels(table, key, issuers)
    images: list[JoinedImage] = []
    contradicted: Counter[tuple[tuple[int, ...], tuple[str, ...]]] = Counter()
    for _, copies in sorted(instances.items()):
        outcome = _label_of(copies, labels_of)
        n_copies = len(copies.members)
        if isinstance(outcome, JoinedImage):
            images.append(outcome)
            refused[RefusalReason.DUPLICATE_INSTANCE] += n_copies - 1
        elif isinstance(outcome, RefusalReason):
            refused[outcome] += 1 if outcome is RefusalReason.NO_LABEL else n_copies
            if outcome is RefusalReason.NO_LABEL:
                refused[RefusalReason.DUPLICATE_INSTANCE] += n_copies - 1
        else:
            refused[RefusalReason.AMBIGUOUS_LABEL] += n_copies
            rows = tuple(sorted({row for rows in outcome.values() for row in rows}))
            contradicted[rows, tuple(sorted(outcome))] += 1
    summary = JoinSummary(
        n_rows=table.n_rows if table else 0,
        images_matched=len(images),
        images_without_label=refused[RefusalReason.NO_LABEL],
        rows_without_image=_rows_without_image(table, key, instances.values()) if table else 0,
        incomplete_rows=len(table.incomplete_rows) if table else 0,
        unreadable_rows=table.unreadable_rows if table else (),
        contradictions=tuple(
            Contradiction(rows, labels, n) for (rows, labels), n in sorted(contradicted.items())
        ),
        ids_with_and_without_issuer=sum("" in who and len(who) > 1 for who in issuers.values()),
    )
    return Join(tuple(images), +refused, summary)


def _label_of(
    copies: _Copies, labels_of: Callable[[FoundFile, Header], Labels]
) -> JoinedImage | RefusalReason | Labels:
    """Return the image, why there is none, or the labels that contradict each other."""
    if len({patient for _, _, patient in copies.members}) > 1:
        return RefusalReason.CONFLICTING_INSTANCE
    labels: Labels = {}
    chosen: tuple[FoundFile, Header, PatientKey] | None = None
    for file, header, patient in copies.members:  # sorted by path
        found = labels_of(file, header)
        if found and chosen is None:
            chosen = (file, header, patient)
        for label, rows in found.items():
            labels.setdefault(label, []).extend(rows)
    if chosen is None:
        return RefusalReason.NO_LABEL
    if len(labels) > 1:
        return labels
    return JoinedImage(*chosen, label=next(iter(labels)))


def _folder_labels(file: FoundFile, header: Header) -> Labels:  # noqa: ARG001 (same shape as others)
    folder, slash, _ = file.path.partition("/")
    return {_as_text(folder): []} if slash else {}


def _as_text(name: str) -> str:
    """Return a file's name as a text that can be written anywhere, whatever its bytes.

    Two names stay two: bytes that are not UTF-8 become escapes.
    """
    return one_form(os.fsencode(name).decode("utf-8", "backslashreplace"))


def _table_labels(
    table: LabelTable, key: LabelKey, issuers: dict[str, set[str]]
) -> Callable[[FoundFile, Header], Labels]:
    shared = {identifier for identifier, who in issuers.items() if len(who) > 1}

    def labels_of(file: FoundFile, header: Header) -> Labels:
        value = _key_of(file, header, key)
        # An ID that two issuers gave to two patients does not say whom the row means.
        is_unclear = key == "patient_id" and value in shared
        return {} if is_unclear else table.labels_of.get(value, {})

    return labels_of


def _issuers_of_ids(instances: Iterable[_Copies]) -> dict[str, set[str]]:
    """Return who gave each patient ID; an empty text where an image does not say."""
    issuers: defaultdict[str, set[str]] = defaultdict(set)
    for copies in instances:
        for _, _, (issuer, identifier) in copies.members:
            issuers[identifier].add(issuer)
    return issuers


def _rows_without_image(table: LabelTable, key: LabelKey, instances: Iterable[_Copies]) -> int:
    there = {
        _key_of(file, header, key) for copies in instances for file, header, _ in copies.members
    }
    return sum(
        len(rows)
        for value, labels in table.labels_of.items()
        if value not in there
        for rows in labels.values()
    )


def _key_of(file: FoundFile, header: Header, key: LabelKey) -> str:
    value = file.path if key == "path" else str(getattr(header, key))
    return comparable_key(key, value)
