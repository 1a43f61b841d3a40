"""Every file of real collections is decoded or refused with a reason; none crashes.

The files of pydicom and pydicom-data come with those wheels. A larger collection is tried where
``METAWARD_DATA`` names a folder with ``dicom_corpus/dicom_corpus.zip`` and its ``index.csv``.
"""

import csv
import os
import zipfile
from collections import Counter
from pathlib import Path

import data_store
import numpy as np
import pydicom
import pytest

from metaward_client.dicom.file_worker import WorkerLost
from metaward_client.dicom.file_workers import FileWorkers
from metaward_client.dicom.header import Header
from metaward_client.dicom.header_index import index_headers
from metaward_client.dicom.pixels import DecodeOutcome, DecodeRequest, decode_outcome
from metaward_client.dicom.refusals import RefusalReason


def _decode_all(paths: list[Path]) -> list[DecodeOutcome | WorkerLost]:
    requests = [DecodeRequest(str(path), 32, 1, None) for path in paths]
    with FileWorkers(2) as workers:
        results = dict(workers.run(decode_outcome, requests))
    return [results[index] for index in range(len(paths))]


def _files(package_folder: str) -> list[Path]:
    return sorted(path for path in Path(package_folder).rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("folder", "least"), [(f"{pydicom.__path__[0]}/data", 100), (data_store.__path__[0], 60)]
)
def test_every_test_file_is_decoded_or_refused(
    folder: str, least: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = index_headers(Path(folder), tmp_path)
    files = [Path(folder) / indexed.file.path for indexed in index.files]
    assert files == sorted(files, key=lambda path: str(path.relative_to(folder)))
    outcomes = _decode_all(files)
    images = [outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]
    assert len(images) >= least * 0.6
    for image in images:
        assert image.shape == (1, 32, 32)
        assert image.dtype == np.float16
        assert 0 <= image.min() <= image.max() <= 1
    assert WorkerLost() not in [o for o in outcomes if not isinstance(o, np.ndarray)]
    # What the header lets pass is an image, but for pixels that turn out to be damaged.
    refused_later = Counter(
        outcome
        for indexed, outcome in zip(index.files, outcomes, strict=True)
        if isinstance(indexed.outcome, Header) and not isinstance(outcome, np.ndarray)
    )
    assert set(refused_later) <= {RefusalReason.UNDECODABLE_PIXELS}
    assert refused_later.total() <= 3
    # What the header refuses cannot be decoded, but for objects that are no picture of a patient.
    for indexed, outcome in zip(index.files, outcomes, strict=True):
        if indexed.outcome in set(RefusalReason) - {RefusalReason.DERIVED_OBJECT}:
            assert isinstance(outcome, RefusalReason)
    assert capfd.readouterr() == ("", "")


CORPUS = Path(os.environ.get("METAWARD_DATA", "/nonexistent")) / "dicom_corpus"


WITHOUT_PIXELS = {
    RefusalReason.NO_PIXELS,
    RefusalReason.TRUNCATED_PIXELS,  # images of which the corpus has the header only
    RefusalReason.UNREADABLE_HEADER,
    RefusalReason.NOT_DICOM,
}


@pytest.mark.skipif(not CORPUS.is_dir(), reason="METAWARD_DATA names no folder with dicom_corpus")
def test_the_corpus_decodes_as_its_index_says(tmp_path: Path) -> None:
    with zipfile.ZipFile(CORPUS / "dicom_corpus.zip") as archive:
        archive.extractall(tmp_path)
    with (CORPUS / "index.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    located = [next(tmp_path.glob(f"*/{row['file']}")) for row in rows]
    worse = []
    for row, outcome in zip(rows, _decode_all(located), strict=True):
        assert not isinstance(outcome, WorkerLost)
        if row["decode"].startswith("ok") and isinstance(outcome, RefusalReason):
            worse.append((row["ts"], row["bits"], outcome))
        if row["decode"] == "nopixels":
            assert outcome in WITHOUT_PIXELS
    # 12-bit JPEG needs a decoder under the GPL, which is not among our dependencies.
    assert worse == [("JPEG Extended (Process 2 and 4)", "16", RefusalReason.UNDECODABLE_PIXELS)]
