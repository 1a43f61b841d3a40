"""What an adapted model says of images: files and folders in, a finding and scores out."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaward.adapted_model import AdaptedModel
from metaward.errors import ConfigError
from metaward_client.dicom.file_worker import WorkerLost
from metaward_client.dicom.file_workers import FileWorkers, usable_cpus
from metaward_client.dicom.input_image import InputOutcome, read_input
from metaward_client.dicom.pixels import DecodeRequest
from metaward_client.dicom.progress import OnProgress
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.dicom.walk import walk_files
from metaward_client.scan_report import refused_as_json

AT_ONCE = 64
"""Images that are held, and that a model is shown, at once."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        path: As the user named it, or below the folder that they named.
        sop_instance_uid: Empty where the file has none of the form that DICOM allows.
        scores: One per label of the model; they sum to 1.
    """

    path: str
    sop_instance_uid: str
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What a model says of some files: each is either named or counted in ``refused``.

    Attributes:
        labels: Of the model, in the order of the scores.
        named: In the order of the files.
        refused: Reason -> files.
    """

    labels: tuple[str, ...]
    named: tuple[Prediction, ...]
    refused: Counter[RefusalReason]

    def finding(self, prediction: Prediction) -> str:
        """Return the label with the highest score; nothing where several have it."""
        highest = np.flatnonzero(prediction.scores == prediction.scores.max())
        return self.labels[int(highest[0])] if len(highest) == 1 else ""


@dataclass(frozen=True)
class Inputs:
    """The files that a user named.

    Attributes:
        files: Paths; those of a folder in the order of their names.
        unreadable: Files and folders below that could not be looked at.
    """

    files: tuple[str, ...]
    unreadable: int


def files_of(named: Sequence[Path]) -> Inputs:
    """Return the files that paths name, folders with all that is below them.

    Raises:
        ConfigError: A path is not there, or is neither a file nor a folder.
    """
    files: list[str] = []
    unreadable = 0
    for path in named:
        if path.is_dir():
            walk = walk_files(path)
            files += [os.path.join(path, file.path) for file in walk.files]  # noqa: PTH118 (speed)
            unreadable += walk.unreadable
        elif path.is_file():
            files.append(os.fspath(path))
        else:
            raise ConfigError(
                "neither a file nor a folder" if path.exists() else "no such file or folder",
                expected="DICOM files, or folders of them",
                where=str(path),
                next_step="Correct the path.",
            )
    return Inputs(tuple(files), unreadable)


def predict_files(
    model: AdaptedModel,
    inputs: Inputs,
    *,
    on_progress: OnProgress,
    workers: int | None = None,
) -> Predictions:
    """Return what a model says of files; what is no usable image is counted by reason.

    Args:
        model: It says how images are prepared, too.
        inputs: From :func:`files_of`.
        on_progress: Told the stage ``"images"``.
        workers: Processes that read; by default one per usable core.
    """
    named: list[Prediction] = []
    refused: Counter[RefusalReason] = Counter()
    if inputs.unreadable:
        refused[RefusalReason.UNREADABLE_FILE] = inputs.unreadable
    body, files = model.artefact.card.model, inputs.files
    n_workers = min(usable_cpus() if workers is None else workers, len(files))
    with FileWorkers(n_workers) as pool:
        for first in range(0, len(files), AT_ONCE):
            paths = files[first : first + AT_ONCE]
            requests = [
                DecodeRequest(path, body.image_size, body.channels, model.card.window)
                for path in paths
            ]
            outcomes = _in_order(pool, requests)
            good = [
                (path, outcome)
                for path, outcome in zip(paths, outcomes, strict=True)
                if not isinstance(outcome, RefusalReason)
            ]
            refused.update(outcome for outcome in outcomes if isinstance(outcome, RefusalReason))
            if good:
                scores = model.scores(np.stack([image.pixels for _, image in good]))
                named += [
                    Prediction(path, image.sop_instance_uid, row)
                    for (path, image), row in zip(good, scores, strict=True)
                ]
            on_progress("images", first + len(paths), len(files))
    return Predictions(model.card.labels, tuple(named), refused)


def _in_order(pool: FileWorkers, requests: Sequence[DecodeRequest]) -> list[InputOutcome]:
    outcomes: list[InputOutcome] = [RefusalReason.DECODER_DIED] * len(requests)
    for row, outcome in pool.run(read_input, requests):
        if not isinstance(outcome, WorkerLost):
            outcomes[row] = outcome
    return outcomes


def as_json(predictions: Predictions) -> dict[str, Any]:
    """Return predictions as plain values."""
    return {
        "labels": list(predictions.labels),
        "predictions": [
            {
                "path": prediction.path,
                "sop_instance_uid": prediction.sop_instance_uid,
                "finding": predictions.finding(prediction),
                "scores": dict(zip(predictions.labels, prediction.scores.tolist(), strict=True)),
            }
            for prediction in predictions.named
        ],
        "refused": refused_as_json(predictions.refused),
    }


def as_csv(predictions: Predictions) -> bytes:
    """Return predictions as a table, one row for each image; paths keep their bytes."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(_rows(predictions))
    return text.getvalue().encode("utf-8", "surrogateescape")


def _rows(predictions: Predictions) -> Iterator[list[str]]:
    columns = [f"score of {label}" for label in predictions.labels]
    yield ["path", "sop_instance_uid", "finding", *columns]
    for prediction in predictions.named:
        scores = [f"{score:.6f}" for score in prediction.scores]
        finding = predictions.finding(prediction)
        yield [prediction.path, prediction.sop_instance_uid, finding, *scores]
