"""The constant part of a scanner's headers: the attributes that its object class demands.

Type 1 attributes get a value, type 2 attributes may be empty (PS3.3, section A and C). What is
not known is left empty instead of made up, except where the object class insists on a value.
"""

from typing import TYPE_CHECKING

from metaward_sim.scanner_style import SECONDARY_CAPTURE, ScannerStyle

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PIXEL_SPACING_MM = "1\\1"
"""Made up: the images come from no scanner, but CT and MR demand a spacing."""

SLICE_THICKNESS_MM = 1.0


def constant_header(style: ScannerStyle, *, institution: str, synthetic: bool) -> "Dataset":
    """Return every attribute that is the same in all files of a scanner, without pixels.

    Args:
        style: The scanner.
        institution: Institution Name, at most 64 characters.
        synthetic: Say in the file that a program drew the image.
    """
    from pydicom.dataset import Dataset

    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID = style.object_class.uid
    header.Modality = style.modality
    header.Manufacturer = style.manufacturer
    header.InstitutionName = institution
    for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"):
        setattr(header, keyword, "")
    for keyword in ("PatientBirthDate", "PatientSex"):
        setattr(header, keyword, None)
    header.StudyID = "1"
    header.SeriesNumber = 1
    header.ImageType = ["DERIVED", "SECONDARY"]
    header.BurnedInAnnotation = "NO"
    if synthetic:
        header.DerivationDescription = "Synthetic: drawn by a program, shows no patient"
    _add_pixel_description(header, style)
    _add_grey_scale(header, style)
    _add_object_class(header, style)
    return header


def _add_pixel_description(header: "Dataset", style: ScannerStyle) -> None:
    header.SamplesPerPixel = 3 if style.is_colour else 1
    header.PhotometricInterpretation = style.stored_photometric
    if style.is_colour:
        header.PlanarConfiguration = 0
    header.BitsAllocated = style.bits_allocated
    header.BitsStored = style.bits_stored
    header.HighBit = style.bits_stored - 1
    header.PixelRepresentation = int(style.signed)


def _add_grey_scale(header: "Dataset", style: ScannerStyle) -> None:
    if style.rescale is not None:
        header.RescaleSlope, header.RescaleIntercept = style.rescale
        header.RescaleType = "HU" if style.modality == "CT" else "US"
    if style.window is not None:
        header.WindowCenter, header.WindowWidth = style.window


def _add_object_class(header: "Dataset", style: ScannerStyle) -> None:
    header.Laterality = None
    if style.object_class == SECONDARY_CAPTURE:
        header.ConversionType = "WSD"
        header.PatientOrientation = None
        return
    match style.modality:
        case "CR":
            header.PatientOrientation = None
            header.BodyPartExamined = None
            header.ViewPosition = None
        case "CT":
            _add_plane(header)
            header.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
            header.KVP = None
            header.AcquisitionNumber = None
        case "MR":
            _add_plane(header)
            header.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
            header.ScanningSequence = "RM"
            header.SequenceVariant = "NONE"
            for keyword in ("ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength"):
                setattr(header, keyword, None)
            header.RepetitionTime = None
        case "US":
            header.PatientOrientation = None
            header.LossyImageCompression = "00"
        case "XC":
            header.PatientOrientation = None
            header.LossyImageCompression = "00"
            header.AcquisitionContextSequence = []


def _add_plane(header: "Dataset") -> None:
    header.PatientPosition = None
    header.PixelSpacing = PIXEL_SPACING_MM
    header.SliceThickness = SLICE_THICKNESS_MM
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.PositionReferenceIndicator = None
