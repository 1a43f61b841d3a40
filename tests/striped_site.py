"""A site of stripes, methods that have learned nothing, and a plan to measure them by."""

import numpy as np

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import to_arrays
from metaward.episode_scores import Method
from metaward.evaluation_design import EvaluationPlan
from metaward.learner_settings import FomamlSettings
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.tasks import Task

MODEL = ModelSettings(filters=16, groups=2, image_size=16, downsample="pool")


def striped_task(n_labels=4, patients=12, images=2, seed=0, site="north"):
    """Each label has stripes of its own direction; patients differ in contrast."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    labels, owners, pictures = [], [], []
    for label in range(n_labels):
        across = x * np.cos(np.pi * label / n_labels) + y * np.sin(np.pi * label / n_labels)
        for patient in range(patients):
            contrast = rng.uniform(0.2, 0.5)
            for _ in range(images):
                phase = rng.uniform(0, 2 * np.pi)
                picture = 0.5 + contrast * np.sin(1.6 * across + phase)[None]
                picture += rng.normal(0.0, 0.05, picture.shape)
                pictures.append(np.clip(picture, 0, 1))
                labels.append(label)
                owners.append(label * patients + patient)
    return Task(
        site=site,
        images=np.array(pictures, dtype=np.float16),
        labels=np.array(labels),
        patients=np.array(owners),
        label_names=tuple(f"finding {label}" for label in range(n_labels)),
    )


def method(name, seed, steps=0):
    return Method(
        name=name,
        label=name.capitalize(),
        model=MODEL,
        learner=FomamlSettings(adapt=AdaptSettings(steps=steps)),
        theta=to_arrays(build_body(MODEL, seed).initial_parameters()),
    )


PLAN = EvaluationPlan(shots=(1, 3), n_way=3, n_query=4, episodes=7, seed=5)


def same_scores(one, other):
    return all(
        np.array_equal(getattr(one.scores, name), getattr(other.scores, name))
        for name in ("episode", "patient", "label", "correct", "auroc")
    )
