"""Pixels of a file become an array: syntaxes, depths, frames, size, and what is refused."""

import resource
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from decoded_images import columns_of, one_window, plane_of
from dicom_factory import TRANSFER_SYNTAXES, write_dicom
from metaward_client.dicom.pixels import decode_image
from metaward_client.dicom.refusals import RefusedImage


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
        pixels=columns_of(low, high, dtype=dtype),
        bits_stored=bits,
        transfer_syntax=syntax,
    )
    assert plane_of(path)[0].tolist() == [0.0, 1.0] * 8


def test_middle_frame_is_the_default_and_any_can_be_asked_for(tmp_path: Path) -> None:
    frames = np.stack([columns_of(0, grey) for grey in (100, 200, 300, 400, 500)])
    path = write_dicom(
        path=tmp_path / "a", pixels=frames, n_frames=5, elements=one_window(500.5, 1001)
    )
    assert plane_of(path)[0, 1] == pytest.approx(0.3, abs=1e-3)
    for frame in range(5):
        assert plane_of(path, frame=frame)[0, 1] == pytest.approx((frame + 1) / 10, abs=1e-3)
    with pytest.raises(RefusedImage, match="undecodable_pixels"):
        plane_of(path, frame=5)


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
        pixels=np.stack([columns_of(0, 25), columns_of(0, 25)]),
        n_frames=2,
        elements={
            "PerFrameFunctionalGroupsSequence": groups,
            "SharedFunctionalGroupsSequence": [shared],
        },
    )
    assert plane_of(path, frame=0)[0, 1] == pytest.approx(0.5, abs=1e-3)  # 50 of 0..100
    assert plane_of(path, frame=1)[0, 1] == pytest.approx(0.05, abs=1e-3)  # 50 of 0..1000


def test_a_wide_image_is_padded_to_a_square_and_keeps_its_shape(tmp_path: Path) -> None:
    pixels = np.full((32, 64), 1000, dtype=np.uint16)
    path = write_dicom(path=tmp_path / "a", pixels=pixels, elements=one_window(500, 100))
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
    assert plane_of(path).max() == 0


def test_file_without_transfer_syntax_is_decoded_as_it_is_encoded(tmp_path: Path) -> None:
    path = write_dicom(path=tmp_path / "a", pixels=columns_of(0, 100), transfer_syntax="implicit")
    content = path.read_bytes()
    start = content.index(b"\x08\x00\x16\x00", 132)  # first element after the meta information
    path.write_bytes(content[start:])
    assert plane_of(path)[0, :2].tolist() == [0.0, 1.0]


def test_damaged_compressed_pixels_are_refused_without_the_codecs_text(tmp_path: Path) -> None:
    path = write_dicom(path=tmp_path / "a", transfer_syntax="rle")
    content = bytearray(path.read_bytes())
    content[-40:] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(RefusedImage, match="undecodable_pixels") as caught:
        decode_image(path, size=16, channels=1)
    assert caught.value.__context__ is None


def test_a_compressed_image_that_is_cut_off_is_to_be_exported_again(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        transfer_syntax="jpeg_baseline",
        pixels=np.arange(4096, dtype=np.uint8).reshape(64, 64),
    )
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\xff\xd8\xff") + 100])
    with pytest.raises(RefusedImage, match=r"cut off or damaged: export it again"):
        decode_image(path, size=16, channels=1)
