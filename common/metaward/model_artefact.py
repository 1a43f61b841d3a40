"""The model artefact: the meta-parameters and a card that says what they are.

A folder with two files: ``meta.safetensors`` (float32 leaves of the body) and ``model.yaml``
(:class:`ModelCard`). It is what a hospital that took no part receives, so loading trusts nothing:
sizes, names, shapes and types are checked against the architecture that the card names before
any parameter is read, nothing is unpickled, and the SHA-256 in the card must fit.
"""

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import Field

from metaward.arrays import Arrays
from metaward.artefact_files import (
    MAX_CARD_BYTES,
    read_bounded,
    refuse_tangled_yaml,
    replacing,
    write_durably,
)
from metaward.config import Settings, load_settings
from metaward.errors import ConfigError
from metaward.learner_settings import LearnerSettings
from metaward.model_settings import ModelSettings
from metaward.parameter_file import ASK_AGAIN, MAX_HEADER_BYTES, parse_parameters
from metaward.patterns import NAME, SHA256, SHA256_OR_NOTHING
from metaward.privacy_statement import PrivacyStatement
from metaward.study import SeedInt, Study

PARAMETERS_FILE = "meta.safetensors"
CARD_FILE = "model.yaml"


class ModelCard(Settings):
    """What a model artefact is, where it comes from, and how a new site adapts it."""

    format_version: Literal[1] = 1
    method: str = Field("meta", pattern=NAME)
    label: str = Field("Meta-model", max_length=100, description="name that a reader sees")
    study: str = Field(pattern=NAME)
    study_digest: str = Field(pattern=SHA256)
    rounds: int = Field(ge=0, description="rounds of training behind the parameters")
    seed: SeedInt
    model: ModelSettings
    learner: LearnerSettings
    privacy: PrivacyStatement
    created_by: str = Field(max_length=100, description="version of metaward that wrote it")
    parameters_sha256: str = Field("", pattern=SHA256_OR_NOTHING)

    @classmethod
    def of_study(
        cls, study: Study, privacy: PrivacyStatement, *, method: str = "meta", label: str = ""
    ) -> "ModelCard":
        """Return the card of what a whole study gave."""
        return cls(
            method=method,
            label=label or str(cls.model_fields["label"].default),
            study=study.name,
            study_digest=study.digest(),
            rounds=study.rounds,
            seed=study.seed,
            model=study.model,
            learner=study.learner,
            privacy=privacy,
            created_by=f"metaward {version('metaward')}",
        )


@dataclass(frozen=True)
class ModelArtefact:
    """A card and the parameters that it speaks of."""

    card: ModelCard
    theta: Arrays


def save_model(folder: Path, card: ModelCard, theta: Arrays) -> ModelCard:
    """Write a model artefact; the folder appears complete or not at all.

    Args:
        folder: Made here; an artefact that stands there is replaced.
        card: Its ``parameters_sha256`` is filled in here.
        theta: Leaves of the body and the learner that the card describes.

    Returns:
        The card as written.
    """
    from safetensors.numpy import save

    assert _shapes(theta) == expected_shapes(card.model, card.learner)
    content = save({name: np.ascontiguousarray(leaf) for name, leaf in theta.items()})
    written = card.model_copy(update={"parameters_sha256": hashlib.sha256(content).hexdigest()})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as fresh:
        write_durably(fresh / PARAMETERS_FILE, content)
        text = yaml.safe_dump(written.model_dump(mode="json"), sort_keys=False)
        write_durably(fresh / CARD_FILE, text.encode())
    return written


def load_model(folder: Path) -> ModelArtefact:
    """Read a model artefact that may come from anywhere.

    Raises:
        ConfigError: A file is missing, too large or damaged; the parameters do not fit the
            architecture of the card; or a value is not finite.
    """
    card = load_card(folder)
    path = folder / PARAMETERS_FILE
    expected = expected_shapes(card.model, card.learner)
    n_values = sum(int(np.prod(shape)) for shape in expected.values())
    content = _read(path, 4 * n_values + 8 + MAX_HEADER_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.parameters_sha256:
        raise ConfigError(
            f"the parameters have SHA-256 {digest[:12]}…",
            expected=f"{card.parameters_sha256[:12] or '(none)'}…, as {CARD_FILE} says",
            where=str(path),
            next_step=ASK_AGAIN,
        )
    return ModelArtefact(card, parse_parameters(content, expected, path))


def load_card(folder: Path) -> ModelCard:
    """Read the card of a model artefact; see :func:`load_model` for what is raised."""
    path = folder / CARD_FILE
    content = _read(path, MAX_CARD_BYTES)
    refuse_tangled_yaml(content, path, next_step=ASK_AGAIN)
    return load_settings(path, ModelCard)


def expected_shapes(model: ModelSettings, learner: LearnerSettings) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of theta's leaves, without allocating them."""
    import torch

    from metaward.meta.compose import initial_parameters

    with torch.device("meta"):
        theta = initial_parameters(model, learner, seed=0)
    return {name: tuple(leaf.shape) for name, leaf in theta.items()}


def _shapes(theta: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in theta.items()}


def _read(path: Path, limit: int) -> bytes:
    return read_bounded(
        path,
        limit=limit,
        expected=f"a model artefact: a folder with {PARAMETERS_FILE} and {CARD_FILE}, of which "
        f"this has at most {limit:,} bytes",
        next_step="Name the folder that holds both: of a run, `model`.",
    )
