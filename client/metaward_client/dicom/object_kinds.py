"""What kind of object a SOP class is (PS3.4, B.5): an image, made from images, or neither."""

from pydicom.uid import UID

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

DERIVED_OBJECTS = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose
    }
)
"""They have the study and the patient of the images they were made from, so a label of a study or a
patient would find them too."""

_IMAGES_BY_ANOTHER_NAME = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.6.2",  # Enhanced US Volume
        "1.2.840.10008.5.1.4.1.1.77.1.5.8",  # Ophthalmic OCT B-scan Volume Analysis
        "1.2.840.10008.5.1.4.1.1.81.1",  # Ophthalmic Thickness Map
        "1.2.840.10008.5.1.4.1.1.82.1",  # Corneal Topography Map
    }
)


def is_image_class(uid: str) -> bool:
    """Say whether every object of a class has pixels; False for a class that is not known.

    >>> is_image_class("1.2.840.10008.5.1.4.1.1.4"), is_image_class("1.2.840.10008.5.1.4.1.1.88.11")
    (True, False)
    """
    return "Image Storage" in UID(uid).name or uid in _IMAGES_BY_ANOTHER_NAME
