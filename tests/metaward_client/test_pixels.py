"""Grey values are worked out by hand; images of 16 x 16 decoded at size 16 are not resized."""

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_factory import TRANSFER_SYNTAXES, write_dicom
from metaward_client.dicom.pixels import decode_image
from metaward_client.dicom.refusals import RefusalReason, RefusedImage


def _plane(path: Path, **how: Any) -> NDArray[np.float16]:
    """Decode without resizing, as one plane."""
    return np.asarray(decode_image(path, size=16, channels=1, **how)[0])


def _one_window(center: float, width: float) -> dict[str, float]:
    return {"WindowCenter": center, "WindowWidth": width}


def _pixels(*values: int, dtype: type = np.uint16) -> NDArray[Any]:
    """Fill 16 x 16 with the values in turn, one per column."""
    return np.tile(np.array(values, dtype=dtype), (16, 16 // len(values)))


def test_result_is_float16_channels_first_in_zero_to_one(tmp_path: Path) -> None:
    image = decode_image(write_dicom(path=tmp_path / "a"), size=8, channels=3)
    assert image.dtype == np.float16
    assert image.shape == (3, 8, 8)
    assert image.min() >= 0
    assert image.max() <= 1
    assert (image[0] == image[1]).all()


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_every_transfer_syntax_gives_the_same_picture(tmp_path: Path, syntax: str) -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None], 64, axis=0)
    path = write_dicom(path=tmp_path / "a", pixels=ramp, transfer_syntax=syntax)
    expected = decode_image(write_dicom(path=tmp_path / "b", pixels=ramp), size=32, channels=1)
    atol = 0.02 if syntax == "jpeg_baseline" else 0
    np.testing.assert_allclose(decode_image(path, size=32, channels=1), expected, atol=atol)


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big", "rle", "jpeg_ls"])
@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.uint16, 16), (np.int16, 16)]
)
def test_bit_depths_and_signs_are_kept(tmp_path: Path, syntax: str, dtype: type, bits: int) -> None:
    low = -(2 ** (bits - 1)) if dtype == np.int16 else 0
    high = low + 2**bits - 1
    path = write_dicom(
        path=tmp_path / "a",
        pixels=_pixels(low, high, dtype=dtype),
        bits_stored=bits,
        transfer_syntax=syntax,
    )
    assert _plane(path)[0].tolist() == [0.0, 1.0] * 8


def test_window_of_the_file_follows_the_standards_linear_formula(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.2.1 with centre 100 and width 101: (x - 99.5) / 100 + 0.5
    path = write_dicom(
        path=tmp_path / "a",
        pixels=_pixels(0, 49, 50, 99, 124, 149, 150, 900),
        elements=_one_window(100, 101),
    )
    expected = [0, 0, 0.005, 0.495, 0.745, 0.995, 1, 1]
    np.testing.assert_allclose(_plane(path)[0, :8], expected, atol=1e-3)


def test_exact_and_sigmoid_windows(tmp_path: Path) -> None:
    pixels = _pixels(0, 50, 100, 200)
    exact = write_dicom(
        path=tmp_path / "a",
        pixels=pixels,
        elements=_one_window(100, 200) | {"VOILUTFunction": "LINEAR_EXACT"},
    )
    np.testing.assert_allclose(_plane(exact)[0, :4], [0, 0.25, 0.5, 1], atol=1e-3)
    sigmoid = write_dicom(
        path=tmp_path / "b",
        pixels=pixels,
        elements=_one_window(100, 200) | {"VOILUTFunction": "SIGMOID"},
    )
    # 1 / (1 + exp(-4 (x - 100) / 200)) at 0 and 100
    np.testing.assert_allclose(_plane(sigmoid)[0, [0, 2]], [0.1192, 0.5], atol=1e-3)


def test_first_of_several_windows_counts(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=_pixels(0, 100),
        elements={"WindowCenter": [50.5, 9], "WindowWidth": [101, 3]},
    )
    assert _plane(path)[0, :2].tolist() == [0.0, 1.0]


def test_own_window_is_in_modality_units_and_signed_images_stay_in_range(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=_pixels(-1000, 924, 1064, 3000, dtype=np.int16),
        modality="CT",
        elements={"RescaleSlope": 1, "RescaleIntercept": -1024, **_one_window(0, 10)},
    )
    # HU -2024, -100, 40, 1976 in a window of 40 +- 200
    np.testing.assert_allclose(
        _plane(path, window=(40.0, 400.0))[0, :4], [0, 0.15, 0.5, 1], atol=1e-3
    )


def test_without_window_the_percentile_range_is_stretched(tmp_path: Path) -> None:
    pixels = np.full((16, 16), 100, dtype=np.uint16)
    pixels[:8] = 200
    pixels[0, 0] = 60000  # one hot pixel, below half a percent
    path = write_dicom(path=tmp_path / "a", pixels=pixels)
    plane = _plane(path)
    assert plane[15, 15] == 0
    assert plane[4, 4] == 1


def test_monochrome1_is_inverted_once(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    window = _one_window(128, 256)
    two = _plane(write_dicom(path=tmp_path / "a", pixels=pixels, elements=window))
    one = _plane(
        write_dicom(path=tmp_path / "b", pixels=pixels, elements=window, photometric="MONOCHROME1")
    )
    np.testing.assert_allclose(one.astype(float), 1 - two.astype(float), atol=1e-3)


@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE"])
def test_presentation_lut_shape_does_not_invert_a_second_time(tmp_path: Path, shape: str) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=_pixels(0, 100),
        photometric="MONOCHROME1",
        elements={"PresentationLUTShape": shape},
    )
    assert _plane(path)[0, :2].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [-2000, 63536])
def test_padding_does_not_count_and_is_black(
    tmp_path: Path, photometric: str, padding: int
) -> None:
    pixels = _pixels(-2000, 0, 50, 100, dtype=np.int16)
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
    np.testing.assert_allclose(_plane(path)[0, :4], [0.0, *grey], atol=1e-3)


def test_padding_range_is_masked(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=_pixels(0, 5, 20, 40),
        elements={"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 5},
    )
    assert _plane(path)[0, :4].tolist() == [0.0, 0.0, 0.0, 1.0]


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
        pixels=_pixels(9, 10, 11, 99),
        elements={"ModalityLUTSequence": [_lut(10, [0, 500, 1000], 16)]} | _one_window(500.5, 1001),
    )
    np.testing.assert_allclose(_plane(path)[0, :4], [0, 0, 0.5, 1], atol=1e-3)


def test_voi_lut_goes_before_the_window(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=_pixels(0, 1, 2, 7),
        elements={"VOILUTSequence": [_lut(0, [255, 0, 51], 8)]} | _one_window(1, 2),
    )
    np.testing.assert_allclose(_plane(path)[0, :4], [1, 0, 0.2, 0.2], atol=1e-3)


def test_an_empty_lut_counts_as_none(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=_pixels(0, 100),
        elements={"ModalityLUTSequence": [Dataset()], "VOILUTSequence": [Dataset()]},
    )
    assert _plane(path)[0, :2].tolist() == [0.0, 1.0]


def test_negative_slope_turns_the_grey_values(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        pixels=_pixels(0, 100),
        elements={"RescaleSlope": -2, "RescaleIntercept": 0},
    )
    assert _plane(path)[0, :2].tolist() == [1.0, 0.0]


def test_middle_frame_is_the_default_and_any_can_be_asked_for(tmp_path: Path) -> None:
    frames = np.stack([_pixels(0, grey) for grey in (100, 200, 300, 400, 500)])
    path = write_dicom(
        path=tmp_path / "a", pixels=frames, n_frames=5, elements=_one_window(500.5, 1001)
    )
    assert _plane(path)[0, 1] == pytest.approx(0.3, abs=1e-3)
    for frame in range(5):
        assert _plane(path, frame=frame)[0, 1] == pytest.approx((frame + 1) / 10, abs=1e-3)
    with pytest.raises(RefusedImage, match="undecodable_pixels"):
        _plane(path, frame=5)


def test_functional_groups_give_each_frame_its_window(tmp_path: Path) -> None:
    groups = []
    for center in (50.5, 500.5):
        voi = Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 2 * (center - 0.5) + 1
        group = Dataset()
        group.FrameVOILUTSequence = [voi]
        groups.append(group)
    rescale = Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, 0
    shared = Dataset()
    shared.PixelValueTransformationSequence = [rescale]
    path = write_dicom(
        path=tmp_path / "a",
        pixels=np.stack([_pixels(0, 25), _pixels(0, 25)]),
        n_frames=2,
        elements={
            "PerFrameFunctionalGroupsSequence": groups,
            "SharedFunctionalGroupsSequence": [shared],
        },
    )
    assert _plane(path, frame=0)[0, 1] == pytest.approx(0.5, abs=1e-3)  # 50 of 0..100
    assert _plane(path, frame=1)[0, 1] == pytest.approx(0.05, abs=1e-3)  # 50 of 0..1000


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


@pytest.mark.parametrize("photometric", ["YBR_PARTIAL_420", "HSV", "CMYK"])
def test_other_colour_spaces_are_refused(tmp_path: Path, photometric: str) -> None:
    path = write_dicom(path=tmp_path / "a", pixels=_colours(), photometric=photometric)
    with pytest.raises(RefusedImage) as caught:
        decode_image(path, size=16, channels=3)
    assert caught.value.reason in (
        RefusalReason.UNSUPPORTED_PHOTOMETRIC,
        RefusalReason.UNDECODABLE_PIXELS,
    )


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
        pixels=_pixels(5, 6, 7, 99, dtype=np.uint8),
        photometric="PALETTE COLOR",
        elements=_palette(4, 5, table, 16),
    )
    image = decode_image(path, size=16, channels=3)[:, 0, :4].T
    np.testing.assert_allclose(image, [[0, 0, 0], [1, 0, 0], [0, 0, 0.2], [0, 0, 0]], atol=1e-3)


def test_palette_of_bytes_with_more_than_256_entries_does_not_wrap(tmp_path: Path) -> None:
    table = np.zeros((512, 3), dtype=np.uint8)
    table[300] = (255, 0, 255)
    path = write_dicom(
        path=tmp_path / "a",
        pixels=_pixels(44, 300),
        photometric="PALETTE COLOR",
        elements=_palette(512, 0, table, 8),
    )
    image = decode_image(path, size=16, channels=3)[:, 0, :2].T
    np.testing.assert_allclose(image, [[0, 0, 0], [1, 0, 1]], atol=1e-3)


def test_a_wide_image_is_padded_to_a_square_and_keeps_its_shape(tmp_path: Path) -> None:
    pixels = np.full((32, 64), 1000, dtype=np.uint16)
    path = write_dicom(path=tmp_path / "a", pixels=pixels, elements=_one_window(500, 100))
    plane = decode_image(path, size=16, channels=1)[0]
    assert plane[:3].max() == 0
    assert plane[-3:].max() == 0
    assert plane[5:11].min() == 1


def test_a_row_of_65535_pixels_takes_no_more_memory_than_an_image(tmp_path: Path) -> None:
    """Its square would be 16 GiB."""
    pixels = np.zeros((1, 65_535), dtype=np.uint8)
    pixels[:, 30_000:36_000] = 200
    path = write_dicom(path=tmp_path / "a", pixels=pixels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plane = decode_image(path, size=16, channels=1)[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024
    assert plane.shape == (16, 16)
    assert np.isfinite(plane).all()


def test_an_image_with_a_side_beyond_the_longest_looks_as_a_smaller_one_does(
    tmp_path: Path,
) -> None:
    small = np.random.default_rng(0).integers(0, 200, (60, 90)).astype(np.uint8)
    large = np.kron(small, np.ones((100, 100), dtype=np.uint8))  # 6,000 x 9,000
    planes = [
        decode_image(write_dicom(path=tmp_path / name, pixels=pixels), size=16, channels=1)[0]
        for name, pixels in (("small", small), ("large", large))
    ]
    np.testing.assert_allclose(planes[1], planes[0], atol=0.03)


def test_resizing_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((256, 256), dtype=np.uint16)
    stripes[:, ::2] = 1000  # finer than the result can show: grey
    path = write_dicom(path=tmp_path / "a", pixels=stripes)
    plane = decode_image(path, size=16, channels=1)[0]
    np.testing.assert_allclose(plane[:, 1:-1], 0.5, atol=0.02)


def test_a_constant_image_is_black(tmp_path: Path) -> None:
    path = write_dicom(path=tmp_path / "a", pixels=np.full((16, 16), 700, dtype=np.uint16))
    assert _plane(path).max() == 0


def test_file_without_transfer_syntax_is_decoded_as_it_is_encoded(tmp_path: Path) -> None:
    path = write_dicom(path=tmp_path / "a", pixels=_pixels(0, 100), transfer_syntax="implicit")
    content = path.read_bytes()
    start = content.index(b"\x08\x00\x16\x00", 132)  # first element after the meta information
    path.write_bytes(content[start:])
    assert _plane(path)[0, :2].tolist() == [0.0, 1.0]


def test_damaged_compressed_pixels_are_refused_without_the_codecs_text(tmp_path: Path) -> None:
    path = write_dicom(path=tmp_path / "a", transfer_syntax="rle")
    content = bytearray(path.read_bytes())
    content[-40:] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(RefusedImage, match="undecodable_pixels") as caught:
        decode_image(path, size=16, channels=1)
    assert caught.value.__context__ is None
