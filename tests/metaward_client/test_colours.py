"""Colours come out as they were drawn, or as luma where one channel is asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from decoded_images import columns_of
from dicom_factory import write_dicom
from metaward_client.dicom.pixels import decode_image
from metaward_client.dicom.refusals import RefusalReason, RefusedImage


def _colours() -> NDArray[np.uint8]:
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    image[:8, :, 0] = 255
    image[8:, :, 2] = 51
    return image


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg_ls", "big"])
def test_rgb_keeps_its_colours_and_becomes_luma_on_request(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(
        path=tmp_path / "a", pixels=_colours(), photometric="RGB", transfer_syntax=syntax
    )
    colour = decode_image(path, size=16, channels=3)
    np.testing.assert_allclose(colour[:, 0, 0], [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(colour[:, 15, 0], [0, 0, 0.2], atol=1e-3)
    grey = decode_image(path, size=16, channels=1)
    np.testing.assert_allclose(grey[0, [0, 15], 0], [0.299, 0.114 * 0.2], atol=1e-3)


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    ybr = np.zeros((16, 16, 3), dtype=np.uint8)
    ybr[...] = (76, 85, 255)  # red
    path = write_dicom(path=tmp_path / "a", pixels=ybr, photometric="YBR_FULL")
    np.testing.assert_allclose(
        decode_image(path, size=4, channels=3)[:, 0, 0], [1, 0, 0], atol=0.01
    )


@pytest.mark.parametrize("samples", [1, 3, 4])
@pytest.mark.parametrize("photometric", ["YBR_PARTIAL_420", "HSV", "CMYK"])
def test_other_colour_spaces_are_refused_whatever_the_samples_of_a_pixel(
    tmp_path: Path, photometric: str, samples: int
) -> None:
    shape = (16, 16) if samples == 1 else (16, 16, samples)
    path = write_dicom(
        path=tmp_path / "a",
        pixels=np.zeros(shape, dtype=np.uint8),
        photometric=photometric,
        elements={"SamplesPerPixel": samples},
    )
    with pytest.raises(RefusedImage) as caught:
        decode_image(path, size=16, channels=3)
    assert caught.value.reason is RefusalReason.UNSUPPORTED_PHOTOMETRIC


def _palette(n_entries: int, first: int, table: NDArray[Any], bits: int) -> dict[str, Any]:
    elements: dict[str, Any] = {}
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [n_entries, first, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = table[:, channel].tobytes()
    return elements


def test_palette_is_expanded(tmp_path: Path) -> None:
    table = np.array([[0, 0, 0], [65535, 0, 0], [0, 0, 13107], [0, 0, 0]], dtype="<u2")
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(5, 6, 7, 99, dtype=np.uint8),
        photometric="PALETTE COLOR",
        elements=_palette(4, 5, table, 16),
    )
    image = decode_image(path, size=16, channels=3)[:, 0, :4].T
    np.testing.assert_allclose(image, [[0, 0, 0], [1, 0, 0], [0, 0, 0.2], [0, 0, 0]], atol=1e-3)


def test_a_colour_that_is_dark_in_all_of_a_palette_stays_dark(tmp_path: Path) -> None:
    table = np.array([[0, 0, 0], [65535, 32768, 255]], dtype="<u2")
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 1, dtype=np.uint8),
        photometric="PALETTE COLOR",
        elements=_palette(2, 0, table, 16),
    )
    image = decode_image(path, size=16, channels=3)[:, 0, :2].T
    np.testing.assert_allclose(image, [[0, 0, 0], [1, 0.5, 0.0039]], atol=1e-3)


def test_palette_of_bytes_with_more_than_256_entries_does_not_wrap(tmp_path: Path) -> None:
    table = np.zeros((512, 3), dtype=np.uint8)
    table[300] = (255, 0, 255)
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(44, 300),
        photometric="PALETTE COLOR",
        elements=_palette(512, 0, table, 8),
    )
    image = decode_image(path, size=16, channels=3)[:, 0, :2].T
    np.testing.assert_allclose(image, [[0, 0, 0], [1, 0, 1]], atol=1e-3)
