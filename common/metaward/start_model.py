"""Where a study's training begins: at seeded random numbers, or at a model that is there already.

A model of public images costs the hospitals nothing: their budgets pay for what they add to it.
That is what private training lives on elsewhere (Tramer and Boneh 2021, arXiv:2011.11660; De et al.
2022, arXiv:2204.13650). For the proof it is no different from any other theta of a coordinator's.

A study says by its digest which parameters it begins from; whoever runs it keeps them in the run
directory, so that a resumed run needs nothing else.
"""

from pathlib import Path
from textwrap import shorten

from metaward.arrays import Arrays
from metaward.errors import ConfigError
from metaward.model_artefact import ModelArtefact, ModelCard, load_card, load_model, save_model
from metaward.privacy_statement import MAX_PROMISE, PrivacyStatement, StartStatement
from metaward.study import Study

START_FOLDER = "start"
"""In a run directory: the model artefact that the run began from."""


def read_start(folder: Path, study: Study) -> ModelArtefact:
    """Return a model that a study can begin from.

    Args:
        folder: A model artefact, which may come from anywhere.
        study: What is to begin; where it names parameters, they must be these.

    Raises:
        ConfigError: It is damaged, of another network, or not the one that the study names.
    """
    artefact = load_model(folder)
    _require_same_network(artefact.card, study, folder)
    found, wanted = artefact.card.parameters_sha256, study.start_sha256
    if wanted and wanted != found:
        raise ConfigError(
            f"parameters with SHA-256 {found[:12]}…",
            expected=f"{wanted[:12]}…, from which the study begins",
            where=str(folder),
            next_step="Name the model that start_sha256 means, or leave start_sha256 out.",
        )
    return artefact


def keep_start(start: ModelArtefact, run_dir: Path) -> Path:
    """Write the model that a run begins from into the run's folder; return where."""
    save_model(run_dir / START_FOLDER, start.card, start.theta)
    return run_dir / START_FOLDER


def begun_from(study: Study, untrained: Arrays, folder: Path) -> Arrays:
    """Return theta before round 0 of a study that begins from a model.

    Leaves that the model has, by name and shape, are the model's: all of the body's, and those of
    the study's learner where it had the same. The others are as in a study without a start.

    Args:
        study: Names the parameters.
        untrained: Theta before round 0 without a start.
        folder: The model artefact.

    Raises:
        ConfigError: See :func:`read_start`.
    """
    start = read_start(folder, study).theta
    return {
        name: start[name] if name in start and start[name].shape == leaf.shape else leaf
        for name, leaf in untrained.items()
    }


def with_start(statement: PrivacyStatement, study: Study, folder: Path) -> PrivacyStatement:
    """Return what is promised of a study's model, with what is said of the one it began from."""
    if not study.start_sha256:
        return statement
    card = load_card(folder)
    start = StartStatement(
        study=card.study,
        parameters_sha256=card.parameters_sha256,
        promise=shorten(card.privacy.sentence, MAX_PROMISE, placeholder=" […]"),
    )
    return statement.model_copy(update={"start": start})


def _require_same_network(card: ModelCard, study: Study, folder: Path) -> None:
    """Refuse a start whose body computes something else; the size of images is not part of it."""
    theirs, ours = card.model.model_dump(), study.model.model_dump()
    other = [key for key in ours if key != "image_size" and theirs[key] != ours[key]]
    if not other:
        return
    raise ConfigError(
        "a model with " + ", ".join(f"{key} {theirs[key]}" for key in other),
        expected=", ".join(f"{key} {ours[key]}" for key in other) + ", as the study's",
        where=str(folder),
        next_step="Begin from a model of the same network, or give the study that network.",
    )
