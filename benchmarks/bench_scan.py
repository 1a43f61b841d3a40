"""DICOM headers per second, decoded images per second, and what the caches are worth.

    python benchmarks/bench_scan.py [--files 3000] [--size 64] [--workers N] [--repeats 3] [--quick]

The files are written by the project's own writer, a fifth of them in each transfer syntax. The
operating system holds them in memory in every case, for us and for the peer: what is measured is
the reading, not the disk. The peer reads the same headers in the same run with

    for path in paths: pydicom.dcmread(path, stop_before_pixels=True)
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pydicom
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from figures import save
from metaward.workers import available_cores
from metaward_client.dicom.header_index import index_headers
from metaward_client.dicom.pixels import decode_image
from metaward_client.dicom.transfer_syntaxes import describe
from metaward_client.site import Site, load_site
from metaward_client.site_scan import SiteScan
from metaward_sim.hospital_folder import write_hospital
from metaward_sim.image_record import ImageRecord
from metaward_sim.scanner_style import ScannerStyle, TransferSyntax

DECODED_SIZE = 32
IMAGES_PER_PATIENT = 4
BATCH = 32
QUICK_FILES = 300


def write_files(folder: Path, n_files: int, size: int) -> Path:
    """Write one hospital; return its folder."""
    syntaxes = get_args(TransferSyntax)
    styles = [
        ScannerStyle("CR", bits_stored=12, transfer_syntax=syntax, nesting="hashed")
        for syntax in syntaxes
    ]

    def records() -> Iterator[ImageRecord]:
        rng = np.random.default_rng(0)
        ramp = np.linspace(0, 1500, size)[:, None] + np.linspace(0, 1500, size)
        for number in range(n_files):
            noisy = ramp + rng.normal(500, 40, ramp.shape)
            yield ImageRecord(
                np.clip(noisy, 0, 4095).astype(np.uint16),
                patient=f"p{number // IMAGES_PER_PATIENT:06d}",
                label="ab"[number // IMAGES_PER_PATIENT % 2],
                study=str(number),
            )

    turn = iter(range(n_files))
    write_hospital(
        folder,
        name="benchmark",
        records=records(),
        style=lambda _: styles[next(turn) % len(styles)],
        notice="Random images for a benchmark.",
        synthetic=True,
    )
    return folder / "benchmark"


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def headers(hospital: Path, workers: int, repeats: int) -> dict[str, float]:
    """Headers per second: index from nothing, index again, and the peer; taking turns."""
    root = hospital / "images"
    paths = sorted(str(path) for path in root.rglob("*") if path.is_file())
    cold, warm, peer = [], [], []

    def plain_loop() -> None:
        for path in paths:
            pydicom.dcmread(path, stop_before_pixels=True)

    plain_loop()  # files into memory, modules loaded
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            index = partial(index_headers, root, Path(name), workers=workers)
            cold.append(seconds(index))
            warm.append(seconds(index))
        peer.append(seconds(plain_loop))
    rate = {
        "index_from_nothing": len(paths) / statistics.median(cold),
        "index_again": len(paths) / statistics.median(warm),
        "pydicom_dcmread": len(paths) / statistics.median(peer),
    }
    return rate | {
        "ratio_from_nothing_to_pydicom": rate["index_from_nothing"] / rate["pydicom_dcmread"],
        "ratio_again_to_pydicom": rate["index_again"] / rate["pydicom_dcmread"],
    }


def decoding(hospital: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Images per second in one process, by transfer syntax; and pydicom's pixel_array alone."""
    by_syntax: dict[str, list[Path]] = {}
    for path in sorted((hospital / "images").rglob("*.dcm")):
        uid = str(pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID)
        by_syntax.setdefault(uid, []).append(path)
    rates = {}
    for uid, paths in sorted(by_syntax.items()):

        def ours(paths: list[Path] = paths) -> None:
            for path in paths:
                decode_image(path, size=DECODED_SIZE, channels=1)

        def peer(paths: list[Path] = paths) -> None:
            for path in paths:
                pydicom.dcmread(path).pixel_array  # noqa: B018 (decodes)

        ours()
        peer()
        pairs = [(seconds(ours), seconds(peer)) for _ in range(repeats)]
        ours_s, peer_s = (statistics.median(column) for column in zip(*pairs, strict=True))
        rates[describe(uid).name] = {
            "images_per_s": len(paths) / ours_s,
            "pydicom_pixel_array_per_s": len(paths) / peer_s,
            "ratio": peer_s / ours_s,
        }
    return rates


def epochs(hospital: Path, workers: int, repeats: int) -> dict[str, float]:
    """Seconds of an epoch that decodes, and of the next, which finds the images in the cache.

    An epoch opens the images and reads every one of them in batches of 32. `task` is the same with
    the look at the folder in front of it (which files are there, have they changed, labels).
    """
    taken: dict[str, list[float]] = {
        "decoding": [], "cached": [], "task_first": [], "task_again": []
    }  # fmt: skip
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            site = with_cache(load_site(hospital), Path(cache))
            scan = site.scan(workers=workers)
            for name in ("decoding", "cached"):
                taken[name].append(seconds(partial(pixel_epoch, site, scan, workers)))
        with tempfile.TemporaryDirectory() as cache:
            site = with_cache(load_site(hospital), Path(cache))
            for name in ("task_first", "task_again"):
                taken[name].append(seconds(partial(task_epoch, site, workers)))
    median = {name: statistics.median(times) for name, times in taken.items()}
    return median | {
        "ratio_decoding_to_cached": median["decoding"] / median["cached"],
        "ratio_task_first_to_again": median["task_first"] / median["task_again"],
    }


def pixel_epoch(site: Site, scan: SiteScan, workers: int) -> None:
    read_all(site.decode(scan, workers=workers)[1])


def task_epoch(site: Site, workers: int) -> None:
    read_all(site.load_task(workers=workers).images)


def with_cache(site: Site, cache: Path) -> Site:
    return Site(site.config.model_copy(update={"cache": cache}), site.path)


def read_all(images: NDArray[np.float16]) -> float:
    total = 0.0
    for start in range(0, len(images), BATCH):
        total += float(images[start : start + BATCH].astype(np.float32).sum())
    return total


def show(results: dict[str, Any]) -> None:
    rates, setting, epoch = results["headers"], results["setting"], results["epochs"]
    table = Table(
        "headers", "per second", "to pydicom",
        title=f"{setting['files']} files of {setting['size']} x {setting['size']}, "
        f"{setting['workers']} workers",
    )  # fmt: skip
    for label, key, ratio in (
        ("index, from nothing", "index_from_nothing", "ratio_from_nothing_to_pydicom"),
        ("index, again", "index_again", "ratio_again_to_pydicom"),
    ):
        table.add_row(label, f"{rates[key]:,.0f}", f"{rates[ratio]:.2f}")
    table.add_row("pydicom.dcmread in a loop", f"{rates['pydicom_dcmread']:,.0f}", "1")
    pixels = Table(
        "transfer syntax", "images/s", "pixel_array/s", "ratio",
        title=f"Decode to {DECODED_SIZE} x {DECODED_SIZE}, one process; pydicom decodes only",
    )  # fmt: skip
    for name, row in results["decoding"].items():
        pixels.add_row(
            name,
            f"{row['images_per_s']:,.0f}",
            f"{row['pydicom_pixel_array_per_s']:,.0f}",
            f"{row['ratio']:.2f}",
        )
    caches = Table(
        "one epoch", "first, s", "again, s", "times faster", title="What a cache is worth"
    )
    for label, first, again, ratio in (
        ("pixels", "decoding", "cached", "ratio_decoding_to_cached"),
        ("headers, labels and pixels", "task_first", "task_again", "ratio_task_first_to_again"),
    ):
        caches.add_row(label, f"{epoch[first]:.3f}", f"{epoch[again]:.4f}", f"{epoch[ratio]:,.0f}")
    console = Console()
    for each in (table, pixels, caches):
        console.print(each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--size", type=int, default=64, help="pixels, height and width of a file")
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FILES} files")
    options = parser.parse_args()
    n_files = QUICK_FILES if options.quick else options.files

    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = str(Path(name) / "cache")
        hospital = write_files(Path(name), n_files, options.size)
        results = {
            "setting": {
                "files": n_files,
                "size": options.size,
                "workers": options.workers,
                "repeats": options.repeats,
            },
            "headers": headers(hospital, options.workers, options.repeats),
            "decoding": decoding(hospital, options.repeats),
            "epochs": epochs(hospital, options.workers, options.repeats),
        }
    show(results)
    save(__file__, results)


if __name__ == "__main__":
    main()
