"""What tests of a stored model share: a small one, its card and its parameters."""

from typing import Any

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Arrays, to_arrays
from metaward.learner_settings import ReptileSettings
from metaward.model_artefact import ModelCard
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.privacy_statement import PrivacyStatement

MODEL = ModelSettings(filters=8, groups=2, image_size=16)


def card(**changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "study": "demo",
        "study_digest": "ab" * 32,
        "rounds": 12,
        "seed": 7,
        "model": MODEL,
        "learner": ReptileSettings(adapt=AdaptSettings(steps=9, lr=1.0e-3)),
        "privacy": PrivacyStatement(),
        "created_by": "metaward 0.1.0",
    }
    return ModelCard(**(fields | changes))


def parameters() -> Arrays:
    return to_arrays(build_body(MODEL, 3).initial_parameters())
