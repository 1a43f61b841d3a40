"""Grey values are worked out by hand; images of 16 x 16 decoded at size 16 are not resized."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from decoded_images import columns_of, one_window, plane_of
from dicom_factory import write_dicom


def test_window_of_the_file_follows_the_standards_linear_formula(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.2.1 with centre 100 and width 101: (x - 99.5) / 100 + 0.5
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 49, 50, 99, 124, 149, 150, 900),
        elements=one_window(100, 101),
    )
    expected = [0, 0, 0.005, 0.495, 0.745, 0.995, 1, 1]
    np.testing.assert_allclose(plane_of(path)[0, :8], expected, atol=1e-3)


def test_a_window_of_width_1_is_a_threshold(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.2.1: black up to 100 - 0.5 - (1 - 1) / 2, white above
    path = write_dicom(
        path=tmp_path / "a", pixels=columns_of(0, 99, 100, 900), elements=one_window(100, 1)
    )
    assert plane_of(path)[0, :4].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_exact_and_sigmoid_windows(tmp_path: Path) -> None:
    pixels = columns_of(0, 50, 100, 200)
    exact = write_dicom(
        path=tmp_path / "a",
        pixels=pixels,
        elements=one_window(100, 200) | {"VOILUTFunction": "LINEAR_EXACT"},
    )
    np.testing.assert_allclose(plane_of(exact)[0, :4], [0, 0.25, 0.5, 1], atol=1e-3)
    sigmoid = write_dicom(
        path=tmp_path / "b",
        pixels=pixels,
        elements=one_window(100, 200) | {"VOILUTFunction": "SIGMOID"},
    )
    # 1 / (1 + exp(-4 (x - 100) / 200)) at 0 and 100
    np.testing.assert_allclose(plane_of(sigmoid)[0, [0, 2]], [0.1192, 0.5], atol=1e-3)


def test_first_of_several_windows_counts(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 100),
        elements={"WindowCenter": [50.5, 9], "WindowWidth": [101, 3]},
    )
    assert plane_of(path)[0, :2].tolist() == [0.0, 1.0]


def test_own_window_is_in_modality_units_and_signed_images_stay_in_range(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(-1000, 924, 1064, 3000, dtype=np.int16),
        modality="CT",
        elements={"RescaleSlope": 1, "RescaleIntercept": -1024, **one_window(0, 10)},
    )
    # HU -2024, -100, 40, 1976 in a window of 40 +- 200
    np.testing.assert_allclose(
        plane_of(path, window=(40.0, 400.0))[0, :4], [0, 0.15, 0.5, 1], atol=1e-3
    )


def test_without_window_the_percentile_range_is_stretched(tmp_path: Path) -> None:
    pixels = np.full((16, 16), 100, dtype=np.uint16)
    pixels[:8] = 200
    pixels[0, 0] = 60000  # one hot pixel, below half a percent
    path = write_dicom(path=tmp_path / "a", pixels=pixels)
    plane = plane_of(path)
    assert plane[15, 15] == 0
    assert plane[4, 4] == 1


def test_monochrome1_is_inverted_once(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    window = one_window(128, 256)
    two = plane_of(write_dicom(path=tmp_path / "a", pixels=pixels, elements=window))
    one = plane_of(
        write_dicom(path=tmp_path / "b", pixels=pixels, elements=window, photometric="MONOCHROME1")
    )
    np.testing.assert_allclose(one.astype(float), 1 - two.astype(float), atol=1e-3)


@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE"])
def test_presentation_lut_shape_does_not_invert_a_second_time(tmp_path: Path, shape: str) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 100),
        photometric="MONOCHROME1",
        elements={"PresentationLUTShape": shape},
    )
    assert plane_of(path)[0, :2].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [-2000, 63536])
def test_padding_does_not_count_and_is_black(
    tmp_path: Path, photometric: str, padding: int
) -> None:
    pixels = columns_of(-2000, 0, 50, 100, dtype=np.int16)
    path = write_dicom(
        path=tmp_path / "a",
        pixels=pixels,
        photometric=photometric,
        elements={"PixelPaddingValue": 0},
    )
    content = path.read_bytes()
    old = b"\x28\x00\x20\x01SS\x02\x00\x00\x00"
    assert old in content
    path.write_bytes(content.replace(old, old[:8] + (padding % 65536).to_bytes(2, "little")))
    grey = [0.0, 0.5, 1.0] if photometric == "MONOCHROME2" else [1.0, 0.5, 0.0]
    np.testing.assert_allclose(plane_of(path)[0, :4], [0.0, *grey], atol=1e-3)


def test_padding_range_is_masked(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 5, 20, 40),
        elements={"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 5},
    )
    assert plane_of(path)[0, :4].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_a_padding_value_beyond_8_bits_marks_no_pixel_of_an_8_bit_image(tmp_path: Path) -> None:
    # What a CT has for padding, -2000, stays in the header of a picture made from it: 63536, which
    # is 48 where only the last 8 bits count.
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 48, 100, 200, dtype=np.uint8),
        elements={"PixelPaddingValue": 63536, **one_window(100.5, 201)},
    )
    np.testing.assert_allclose(plane_of(path)[0, :4], [0, 0.24, 0.5, 1], atol=1e-3)


def _lut(first: int, entries: list[int], bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = entries
    item["LUTData"].VR = "US"
    item.ModalityLUTType = "US"
    return item


def test_modality_lut_is_applied_before_the_window(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(9, 10, 11, 99),
        elements={"ModalityLUTSequence": [_lut(10, [0, 500, 1000], 16)]} | one_window(500.5, 1001),
    )
    np.testing.assert_allclose(plane_of(path)[0, :4], [0, 0, 0.5, 1], atol=1e-3)


def test_voi_lut_goes_before_the_window(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 1, 2, 7),
        elements={"VOILUTSequence": [_lut(0, [255, 0, 51], 8)]} | one_window(1, 2),
    )
    np.testing.assert_allclose(plane_of(path)[0, :4], [1, 0, 0.2, 0.2], atol=1e-3)


def test_a_voi_lut_takes_the_rescaled_values(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.1: its input is what the modality transformation gives. 65436 is -100.
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 924, 925, 926),
        modality="CT",
        elements={
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
            "VOILUTSequence": [_lut(65436, [0, 51, 102], 8)],
        }
        | one_window(40, 400),
    )
    np.testing.assert_allclose(plane_of(path)[0, :4], [0, 0, 0.2, 0.4], atol=1e-3)


def test_what_a_modality_lut_gives_is_unsigned(tmp_path: Path) -> None:
    # PS3.3 C.11.1.1: so the second table starts at 40,000, and not below 0
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 1, 2, 3),
        elements={
            "ModalityLUTSequence": [_lut(0, [0, 40000, 40001, 65535], 16)],
            "VOILUTSequence": [_lut(40000, [0, 51, 102], 8)],
        },
    )
    np.testing.assert_allclose(plane_of(path)[0, :4], [0, 0, 0.2, 0.4], atol=1e-3)


@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
def test_a_lut_of_a_signed_image_may_have_more_than_32767_entries(
    tmp_path: Path, syntax: str
) -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "SS", [40000, -20000, 16])
    table.add_new("LUTData", "OW", np.arange(40000, dtype="<u2").tobytes())
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(-20000, -10000, 0, 19999, dtype=np.int16),
        transfer_syntax=syntax,
        elements={"VOILUTSequence": [table]},
    )
    expected = np.array([0, 10000, 20000, 39999]) / 65535
    np.testing.assert_allclose(plane_of(path)[0, :4], expected, atol=1e-3)


def test_an_empty_lut_counts_as_none(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 100),
        elements={"ModalityLUTSequence": [Dataset()], "VOILUTSequence": [Dataset()]},
    )
    assert plane_of(path)[0, :2].tolist() == [0.0, 1.0]


def test_negative_slope_turns_the_grey_values(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=columns_of(0, 100),
        elements={"RescaleSlope": -2, "RescaleIntercept": 0},
    )
    assert plane_of(path)[0, :2].tolist() == [1.0, 0.0]
