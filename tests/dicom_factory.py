"""Build valid DICOM files for tests: one call, one file."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config, uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate

TRANSFER_SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "big": uid.ExplicitVRBigEndian,
    "rle": uid.RLELossless,
    "jpeg_ls": uid.JPEGLSLossless,
    "jpeg_2000": uid.JPEG2000Lossless,
    "jpeg_baseline": uid.JPEGBaseline8Bit,
}


def uid_of(name: str) -> str:
    """Return a valid UID that depends on ``name`` alone."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:12], "big")
    return f"2.25.{number}"


def write_dicom(
    *,
    path: Path,
    pixels: NDArray[Any] | None = None,
    patient_id: str | None = "p1",
    issuer: str | None = None,
    instance: str | None = None,
    series: str = "series",
    study: str = "study",
    modality: str = "MR",
    transfer_syntax: str = "explicit",
    photometric: str = "MONOCHROME2",
    bits_stored: int | None = None,
    n_frames: int | None = None,
    elements: dict[str, Any] | None = None,
) -> Path:
    """Write one file.

    Args:
        path: Where to; folders are made.
        pixels: (rows, columns), with (…, 3) for colour and (frames, …) for several frames;
            integers. By default a 16 x 16 ramp of 16 bits.
        patient_id: None leaves the element out.
        issuer: Issuer of the patient ID.
        instance: Name that the SOP Instance UID is made of; by default the path's name.
        series: Likewise for the series.
        study: Likewise for the study.
        modality: For example ``CT``.
        transfer_syntax: A key of ``TRANSFER_SYNTAXES``.
        photometric: For example ``MONOCHROME1``, ``PALETTE COLOR``, ``RGB``.
        bits_stored: By default all bits of the array's type.
        n_frames: Frames along the first axis; None for an image of one frame.
        elements: keyword -> value, set last; a value of None removes the element.

    Returns:
        ``path``.
    """
    array = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16 if pixels is None else pixels
    syntax = TRANSFER_SYNTAXES[transfer_syntax]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid_of(instance or path.name)
    meta.TransferSyntaxUID = (
        syntax if syntax in _WRITTEN_AS_THEY_ARE else uid.ExplicitVRLittleEndian
    )
    dataset = FileDataset(
        str(path),
        {},
        file_meta=meta,
        preamble=b"\0" * 128,
        is_implicit_VR=syntax.is_implicit_VR,
        is_little_endian=syntax.is_little_endian,
    )
    dataset.SOPClassUID = uid.MRImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid_of(study), uid_of(series)
    dataset.Modality = modality
    dataset.PatientName = "Test^Patient"
    if patient_id is not None:
        dataset.PatientID = patient_id
    if issuer is not None:
        dataset.IssuerOfPatientID = issuer
    _set_pixels(dataset, array, photometric, bits_stored, n_frames)
    if syntax not in _WRITTEN_AS_THEY_ARE:
        _compress(dataset, syntax, array)
    elif transfer_syntax == "big" and array.dtype.itemsize > 1:
        dataset.PixelData = array.astype(array.dtype.newbyteorder(">")).tobytes()
    for keyword, value in (elements or {}).items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with config.disable_value_validation():
        dataset.save_as(path, enforce_file_format=True)
    return path


_WRITTEN_AS_THEY_ARE = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
}


def _set_pixels(
    dataset: FileDataset,
    array: NDArray[Any],
    photometric: str,
    bits_stored: int | None,
    n_frames: int | None,
) -> None:
    frame = array if n_frames is None else array[0]
    dataset.Rows, dataset.Columns = frame.shape[:2]
    dataset.SamplesPerPixel = 1 if frame.ndim == 2 else 3
    if frame.ndim == 3:
        dataset.PlanarConfiguration = 0
    if n_frames is not None:
        dataset.NumberOfFrames = n_frames
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = 8 * array.dtype.itemsize
    dataset.BitsStored = bits_stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    data = array.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if array.dtype.itemsize == 1 else "OW"


def _compress(dataset: FileDataset, syntax: uid.UID, array: NDArray[Any]) -> None:
    if syntax == uid.JPEGBaseline8Bit:
        dataset.PixelData = encapsulate([_jpeg(array)])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)


def _jpeg(array: NDArray[Any]) -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    return data + b"\0" * (len(data) % 2)
