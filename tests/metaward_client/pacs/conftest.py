"""A PACS over DICOMweb, and one over DIMSE, that are healthy until a test says otherwise."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_factory import write_dicom
from dicomweb_site import N_IMAGES, PLANTED, healthy
from faulty_pacs import FaultyPacs, running_faulty_pacs
from scripted_pacs import ScriptedPacs, running_scripted_pacs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("images")
    return [
        write_dicom(path=folder / str(i), study="study", patient_id=PLANTED).read_bytes()
        for i in range(N_IMAGES)
    ]


@pytest.fixture
def pacs(images: list[bytes]) -> Iterator[FaultyPacs]:
    with running_faulty_pacs() as running:
        running.answer = healthy(images)
        yield running


@pytest.fixture
def dimse_pacs(tmp_path: Path) -> Iterator[ScriptedPacs]:
    with running_scripted_pacs(tmp_path / "made") as running:
        yield running


@pytest.fixture
def sockets_are_collected() -> Iterator[None]:
    """For pynetdicom, which leaves the socket of a connection that fails to the collector."""
    yield
    gc.collect()
