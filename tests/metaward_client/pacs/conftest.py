"""A PACS over DICOMweb for several modules: healthy, until a test says otherwise."""

from collections.abc import Iterator

import pytest

from dicom_factory import write_dicom
from dicomweb_site import N_IMAGES, PLANTED, healthy
from faulty_pacs import FaultyPacs, running_faulty_pacs


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
