"""An adapted model: a shared model, made to name one hospital's findings.

A folder, closed to other users:

    model/                 the shared model as it came (metaward.model_artefact)
    adapted.safetensors    what adaptation kept of the hospital's labelled images, float32
    adapted.yaml           AdaptedCard; written last, so that a folder without it is not whole

What is kept is made from patients' images, with no protection: it stays at the hospital. A study
that starts from this folder starts from the shared model in it.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import softmax

from metaward.arrays import Arrays, to_arrays, to_tensors
from metaward.artefact_files import MAX_CARD_BYTES, read_bounded, refuse_tangled_yaml, write_durably
from metaward.config import Settings, load_settings
from metaward.episodes import Examples
from metaward.errors import ConfigError
from metaward.left_out_check import LeftOutCheck
from metaward.meta.classifier import Classifier
from metaward.meta.compose import build_learner
from metaward.model_artefact import CARD_FILE, ModelArtefact, load_model, save_model
from metaward.models.build import build_body
from metaward.parameter_file import MAX_HEADER_BYTES, parse_parameters
from metaward.patterns import NAME, SHA256_OR_NOTHING
from metaward.scoring import class_scores
from metaward.study import SeedInt
from metaward.tasks import standardise
from metaward.terminal import printable

MODEL_FOLDER = "model"
KEPT_FILE = "adapted.safetensors"
ADAPTED_CARD_FILE = "adapted.yaml"
MOST_CARD_BYTES = 4 * 2**20
"""A finding takes some 250 bytes."""
MOST_VALUES = 2**28
"""Of all that is kept; a network of 512 filters has some ten million."""
ADAPT_AGAIN = "Make it anew with `metaward adapt`."

Label = Annotated[str, Field(min_length=1)]
Axis = Annotated[int, Field(ge=1, le=MOST_VALUES)]


class AdaptedCard(Settings):
    """What an adapted model names, from what it was made, and what it was right in."""

    format_version: Literal[1] = 1
    site: str = Field(pattern=NAME)
    labels: tuple[Label, ...] = Field(min_length=2, description="in the order of the logits")
    adapted_on: tuple[int, ...] = Field(description="images of each label")
    most: int = Field(ge=1, description="images of a label that were asked for")
    seed: SeedInt
    window: tuple[float, Annotated[float, Field(gt=0)]] | None = Field(
        None, description="centre and width for grey images, as the site's settings have it"
    )
    check: LeftOutCheck | None = Field(
        None, description="on patients left out; none where a label has too few patients"
    )
    created_by: str = Field(max_length=100, description="version of metaward that wrote it")
    kept: dict[str, Annotated[tuple[Axis, ...], Field(min_length=1, max_length=4)]] = Field(
        {}, description="shapes of what is kept"
    )
    kept_sha256: str = Field("", pattern=SHA256_OR_NOTHING)
    shared_card_sha256: str = Field(
        "", pattern=SHA256_OR_NOTHING, description="of model/model.yaml, which has its parameters'"
    )

    @model_validator(mode="after")
    def _each_label_once_with_its_count(self) -> "AdaptedCard":
        if len(self.adapted_on) != len(self.labels):
            raise ValueError(f"{len(self.adapted_on)} counts for {len(self.labels)} labels")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label stands twice")
        if any(printable(label) != label for label in self.labels):
            raise ValueError("a label with a control character")
        if self.n_values() > MOST_VALUES:
            raise ValueError(f"kept has more than {MOST_VALUES:,} values")
        return self

    def n_values(self) -> int:
        """Return how many numbers are kept."""
        return sum(math.prod(shape) for shape in self.kept.values())


@dataclass(frozen=True)
class AdaptedModel:
    """A card, the shared model, and the classifier that both make."""

    card: AdaptedCard
    artefact: ModelArtefact
    classify: Classifier

    def scores(self, images: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the softmax of the logits, (n, n_labels), each row summing to 1.

        They rank findings. Nothing makes them probabilities: 0.9 is not right nine times of ten.

        Args:
            images: (n, channels, size, size) in [0, 1], as the shared model's card has them.
        """
        pixels = torch.from_numpy(np.asarray(images, dtype=np.float32))
        shares: NDArray[np.float64] = softmax(
            class_scores(self.classify(standardise(pixels))), axis=1
        )
        return shares


def adapted_classifier(artefact: ModelArtefact, support: Examples) -> Classifier:
    """Return the classifier that a shared model makes of a support set.

    Raises:
        DataError: The support set has more labels than the model can tell apart.
    """
    card = artefact.card
    body, theta = build_body(card.model, seed=0).eval(), to_tensors(artefact.theta)
    return build_learner(card.learner).adapt(body, theta, support)


def save_adapted(
    folder: Path, card: AdaptedCard, artefact: ModelArtefact, classify: Classifier
) -> AdaptedCard:
    """Write an adapted model into an empty folder of this user's own.

    Args:
        folder: Closed to others here.
        card: What is said of ``kept`` and of the shared model's card is filled in here.
        artefact: The shared model.
        classify: From :func:`adapted_classifier`.

    Returns:
        The card as written.
    """
    from safetensors.numpy import save

    kept = to_arrays(classify.kept)
    content = save(kept)
    folder.chmod(0o700)
    save_model(folder / MODEL_FOLDER, artefact.card, artefact.theta)
    written = card.model_copy(
        update={
            "kept": {name: leaf.shape for name, leaf in kept.items()},
            "kept_sha256": hashlib.sha256(content).hexdigest(),
            "shared_card_sha256": _digest_of_shared_card(folder),
        }
    )
    write_durably(folder / KEPT_FILE, content, mode=0o600)
    text = yaml.safe_dump(written.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_durably(folder / ADAPTED_CARD_FILE, text.encode(), mode=0o600)
    return written


def load_adapted(folder: Path) -> AdaptedModel:
    """Read an adapted model.

    Raises:
        ConfigError: A file is missing, too large or damaged, or does not belong to the others.
    """
    card_path, kept_path = folder / ADAPTED_CARD_FILE, folder / KEPT_FILE
    refuse_tangled_yaml(_read(card_path, MOST_CARD_BYTES), card_path, next_step=ADAPT_AGAIN)
    card = load_settings(card_path, AdaptedCard)
    content = _read(kept_path, 4 * card.n_values() + 8 + MAX_HEADER_BYTES)
    if hashlib.sha256(content).hexdigest() != card.kept_sha256:
        raise _unfit("a file that is not the one that the card speaks of", kept_path)
    kept = parse_parameters(content, dict(card.kept), kept_path)
    artefact = load_model(folder / MODEL_FOLDER)
    if _digest_of_shared_card(folder) != card.shared_card_sha256:
        raise _unfit("another shared model than that which was adapted", folder / MODEL_FOLDER)
    return AdaptedModel(card, artefact, _classifier_of(artefact, kept, card, kept_path))


def _digest_of_shared_card(folder: Path) -> str:
    content = _read(folder / MODEL_FOLDER / CARD_FILE, MAX_CARD_BYTES)
    return hashlib.sha256(content).hexdigest()


def _classifier_of(
    artefact: ModelArtefact, kept: Arrays, card: AdaptedCard, where: Path
) -> Classifier:
    """Return the classifier, once it has named blank images: what does not fit fails there.

    Two, because numbers made for several images at once also fit a single one.
    """
    model = artefact.card.model
    body = build_body(model, seed=0).eval()
    blank = torch.zeros(2, model.channels, model.image_size, model.image_size)
    try:
        classify = build_learner(artefact.card.learner).classifier(
            body, to_tensors(artefact.theta), to_tensors(kept)
        )
        fits = classify(blank).shape == (2, len(card.labels))
    except (LookupError, RuntimeError, ValueError):
        fits = False
    if not fits:
        raise _unfit("numbers that are not of this model, or of other findings", where)
    return classify


def _read(path: Path, limit: int) -> bytes:
    return read_bounded(
        path,
        limit=limit,
        expected=f"an adapted model: a folder with {ADAPTED_CARD_FILE}, {KEPT_FILE} and "
        f"{MODEL_FOLDER}/, of which this has at most {limit:,} bytes",
        next_step="Name the folder that `metaward adapt --out` wrote, or make it anew.",
    )


def _unfit(found: str, where: Path) -> ConfigError:
    return ConfigError(
        found,
        expected="the adapted model as it was written",
        where=str(where),
        next_step=ADAPT_AGAIN,
    )
