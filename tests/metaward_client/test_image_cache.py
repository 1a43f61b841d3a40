import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dicom_factory import TRANSFER_SYNTAXES, write_dicom
from metaward.errors import DataError
from metaward_client import image_cache, image_store
from metaward_client.dicom import dicom_file, pixels
from metaward_client.dicom.progress import no_progress
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.dicom.walk import FoundFile
from metaward_client.image_cache import DecodedImages, SourceFile, load_images
from metaward_client.image_store import ImageSettings

SETTINGS = ImageSettings(size=16, channels=1, window=None, selection="")
Loader = Callable[..., DecodedImages]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(6):
        grey = np.zeros((16, 16), dtype=np.uint16)
        grey[:, : i + 2] = 100
        write_dicom(path=tmp_path / "root" / f"{i}", pixels=grey)
    return tmp_path / "root"


@pytest.fixture
def load(root: Path, tmp_path: Path) -> Loader:
    (tmp_path / "cache").mkdir()

    def loader(
        names: str = "012345", settings: ImageSettings = SETTINGS, syntax: str = "explicit"
    ) -> DecodedImages:
        return load_images(
            root,
            tmp_path / "cache",
            [_source(root, name, syntax) for name in names],
            settings,
            on_progress=no_progress,
            workers=2,
        )

    return loader


def _source(root: Path, name: str, syntax: str = "explicit") -> SourceFile:
    status = (root / name).stat()
    file = FoundFile(name, status.st_size, status.st_mtime_ns)
    return SourceFile(file, TRANSFER_SYNTAXES[syntax])


def _forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("pixels were decoded")

    monkeypatch.setattr(pixels, "decode_outcome", fail)
    monkeypatch.setattr(image_cache, "FileWorkers", fail)


def test_images_come_in_the_order_of_the_files(load: Loader) -> None:
    white = [float(image.mean()) for image in load("3051").images]
    assert white == pytest.approx([(i + 2) / 16 for i in (3, 0, 5, 1)], abs=1e-3)


def test_a_second_call_decodes_nothing_and_maps_the_file(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load()
    _forbid_decoding(monkeypatch)
    second = load()
    assert (first.n_decoded_now, second.n_decoded_now) == (6, 0)
    assert isinstance(second.images.base, np.memmap) or isinstance(second.images, np.memmap)
    assert not second.images.flags.writeable
    np.testing.assert_array_equal(first.images, second.images)


def test_only_new_and_changed_files_are_decoded(load: Loader, root: Path) -> None:
    load("01234")
    os.utime(root / "2", ns=(1, 1))
    again = load("012345")
    assert again.n_decoded_now == 2
    white = [float(image.mean()) for image in again.images]
    assert white == pytest.approx([(i + 2) / 16 for i in range(6)], abs=1e-3)


def test_another_order_decodes_nothing(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = load("012").images.copy()
    _forbid_decoding(monkeypatch)
    np.testing.assert_array_equal(load("210").images, forward[::-1])


@pytest.mark.parametrize(
    "settings",
    [
        ImageSettings(8, 1, None, ""),
        ImageSettings(16, 3, None, ""),
        ImageSettings(16, 1, (50.0, 10.0), ""),
        ImageSettings(16, 1, None, "other labels"),
    ],
)
def test_other_settings_have_images_of_their_own(load: Loader, settings: ImageSettings) -> None:
    load()
    other = load(settings=settings)
    assert other.n_decoded_now == 6
    assert other.images.shape[1:] == (settings.channels, settings.size, settings.size)
    assert load().n_decoded_now == 0


def test_versions_of_what_reads_files_are_part_of_the_key(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    monkeypatch.setattr(image_store, "readers_digest", lambda: "other")
    assert load().n_decoded_now == 6


def test_files_that_cannot_be_decoded_are_refused_once(
    load: Loader, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "2").write_bytes((root / "2").read_bytes()[:-100])
    first = load()
    assert first.refused == {2: RefusalReason.UNDECODABLE_PIXELS}
    assert len(first.images) == 5
    _forbid_decoding(monkeypatch)
    assert load().refused == first.refused


def test_no_image_left_is_an_empty_array(load: Loader, root: Path) -> None:
    (root / "2").write_bytes(b"")
    for _ in range(2):
        decoded = load("2")
        assert decoded.images.shape == (0, 1, 16, 16)
        assert len(decoded.refused) == 1


@pytest.mark.parametrize("damaged", ["npy", "json"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"\x93NUMPY garbage"])
def test_a_damaged_cache_is_made_anew(
    load: Loader, tmp_path: Path, damaged: str, damage: bytes
) -> None:
    expected = load().images.copy()
    (path,) = (tmp_path / "cache").glob(f"*.{damaged}")
    path.write_bytes(damage)
    again = load()
    assert again.n_decoded_now == 6
    np.testing.assert_array_equal(again.images, expected)


def test_old_generations_are_removed(load: Loader, tmp_path: Path) -> None:
    for names in ("0", "01", "012"):
        load(names)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_nobody_else_can_read_the_cache(load: Loader, tmp_path: Path) -> None:
    load()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "cache").iterdir())


def test_compressed_files_are_decoded_by_workers_with_the_same_result(
    tmp_path: Path, root: Path, load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = load().images.copy()
    for path in list(root.iterdir()):
        os.utime(path, ns=(2, 2))
    monkeypatch.setattr(image_cache, "FEW_IMAGES", 0)
    by_workers = load()
    assert by_workers.n_decoded_now == 6
    np.testing.assert_array_equal(by_workers.images, alone)


def test_a_file_that_kills_its_decoder_is_refused_and_tried_again_later(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "FEW_IMAGES", 0)
    monkeypatch.setattr(pixels, "decode_outcome", os.abort)  # a TypeError in the worker: lost
    lost = load("01")
    assert lost.refused == {0: RefusalReason.DECODER_DIED, 1: RefusalReason.DECODER_DIED}
    monkeypatch.undo()
    assert load("01").refused == {}


def test_a_file_that_could_not_be_read_is_refused_and_tried_again_later(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: str) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(dicom_file, "_open_regular", stale)
        assert load("01").refused == dict.fromkeys((0, 1), RefusalReason.UNREADABLE_FILE)
    again = load("01")
    assert again.refused == {}
    assert len(again.images) == 2


def test_a_full_disk_leaves_the_old_state(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    load("012")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"No space left.*Free space"):
            load("0123")
    assert load("012").n_decoded_now == 0


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from metaward_client.image_cache import load_images
from test_image_cache import _source, SETTINGS
step = sys.argv[2]
real = getattr(os, "fsync")
calls = []
def die(fd):
    calls.append(fd)
    if len(calls) == int(step):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(fd)
os.fsync = die
root = Path(sys.argv[1])
load_images(root, root.parent / "cache", [_source(root, n) for n in "012345"], SETTINGS,
            on_progress=lambda *_: None)
"""


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_process_killed_while_writing_leaves_a_usable_cache(
    load: Loader, root: Path, step: int
) -> None:
    load("012")
    here = str(Path(__file__).parent)
    script = KILLED.format(path=[here, str(Path(here).parent)])
    ended = subprocess.run([sys.executable, "-c", script, str(root), str(step)], check=False)
    assert ended.returncode == -signal.SIGKILL
    expected = 6 if step == 3 else 3  # the third fsync comes after the rename
    assert load("012345").n_decoded_now == 6 - expected
    assert not list((root.parent / "cache").glob("*.tmp"))


def test_two_processes_at_once_do_the_work_once(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(load().n_decoded_now)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 6]


def test_progress_counts_up(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(exist_ok=True)
    told: list[tuple[str, int, int]] = []
    load_images(
        root,
        tmp_path / "cache",
        [_source(root, "0"), _source(root, "1")],
        SETTINGS,
        on_progress=lambda *step: told.append(step),
    )
    assert told == [("pixels", 0, 2), ("pixels", 1, 2), ("pixels", 2, 2)]


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_only_files_that_do_not_grow_when_read_are_decoded_in_this_process(syntax: str) -> None:
    """A deflated file of some kilobytes can hold gigabytes, and a codec can crash."""
    small = SourceFile(FoundFile("a", 1000, 0), TRANSFER_SYNTAXES[syntax])
    assert small.is_harmless() == (syntax in ("implicit", "explicit", "big"))
    assert not SourceFile(FoundFile("a", 2**30, 0), TRANSFER_SYNTAXES[syntax]).is_harmless()
