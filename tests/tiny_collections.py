"""What the tests of the importers share: tiny collections, and what an import makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread

from metaward.tasks import Task
from metaward_client.site import load_site
from metaward_sim.importers.image_source import ColumnChoice
from metaward_sim.importers.run import ImportRequest, ImportResult, plan_import, write_import


def grey(n: int, size: int = 12) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (n, size, size)).astype(np.uint8)


def save_npz(folder: Path, name: str = "set.npz", **arrays: Any) -> Path:
    path = folder / name
    np.savez_compressed(path, **arrays)
    return path


def save_picture(path: Path, pixels: NDArray[Any] | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey(1)[0] if pixels is None else pixels).save(path, **options)
    return path


def import_to(out: Path, source: Path, **options: Any) -> ImportResult:
    columns = {
        key: options.pop(key)
        for key in ("images", "label", "patient", "site", "label_names")
        if key in options
    }
    request = ImportRequest(source=source, columns=ColumnChoice(**columns), **options)
    return write_import(plan_import(request), out)


def datasets(hospital: Path) -> list[Dataset]:
    files = [path for path in (hospital / "images").rglob("*") if path.is_file()]
    return sorted((dcmread(path) for path in files), key=lambda ds: ds.InstanceNumber)


def task_of(hospital: Path, channels: int = 1) -> Task:
    return load_site(hospital).load_task(image_size=12, channels=channels)
