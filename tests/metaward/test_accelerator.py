"""An accelerator gives what the CPU gives, but for rounding. Skipped where there is none."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import to_arrays, to_tensors
from metaward.episodes import sample_episode
from metaward.learner_settings import LearnerSettings, ReptileSettings
from metaward.meta.compose import build_learner, initial_parameters
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.tasks import Task

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")

CUDA = torch.device("cuda")
MODELS = {
    "pool": ModelSettings(image_size=28, filters=8, groups=2, downsample="pool"),
    "stride": ModelSettings(image_size=28, filters=8, groups=2),
    "two halved": ModelSettings(image_size=28, filters=8, groups=2, downsampled_blocks=2),
    "resnet": ModelSettings(name="resnet", image_size=16, filters=4, groups=2),
}


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    """Let convolutions keep all their digits: what is compared here is the algorithm."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def learners() -> dict[str, Any]:
    union = get_args(get_args(LearnerSettings)[0])
    found = {settings().name: settings() for settings in union}
    found["reptile, adam"] = ReptileSettings(inner_optimizer="adam", inner_lr=0.001)
    for name in ("maml", "fomaml", "reptile"):
        zeros = AdaptSettings(head="zeros")
        found[f"{name}, zeros"] = found[name].model_copy(update={"adapt": zeros})
    found["maml, checkpoint"] = found["maml"].model_copy(update={"checkpoint": True})
    return found


def task_of(model: ModelSettings) -> Task:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(5), 12)
    form = (len(labels), model.channels, model.image_size, model.image_size)
    images = rng.random(form, np.float32) * 0.5 + labels[:, None, None, None] / 10
    return Task(
        site="toy",
        images=images.astype(np.float32),
        labels=labels,
        patients=np.arange(len(labels)),
        label_names=tuple("abcde"),
    )


@pytest.mark.parametrize("name", learners())
@pytest.mark.parametrize("model", MODELS)
def test_a_learner_gives_the_delta_of_the_cpu(model: str, name: str) -> None:
    settings, task = learners()[name], task_of(MODELS[model])
    if name == "relation" and model == "pool":
        pytest.skip("a map of one pixel is nothing to compare")
    body, learner = build_body(MODELS[model], 1), build_learner(settings)
    theta = to_arrays(initial_parameters(MODELS[model], settings, 1))
    here = learner.local_delta(body, to_tensors(theta), task, np.random.default_rng(3))
    there = learner.local_delta(
        body, to_tensors(theta, CUDA), replace(task, device=CUDA), np.random.default_rng(3)
    )
    assert all(leaf.device.type == "cuda" for leaf in there.delta.values())
    assert there.loss == pytest.approx(here.loss, rel=1e-3)
    one, other = (
        np.concatenate([leaf.ravel() for leaf in to_arrays(found.delta).values()])
        for found in (here, there)
    )
    assert np.linalg.norm(one) > 0
    assert np.linalg.norm(one - other) < 0.01 * np.linalg.norm(one)


@pytest.mark.parametrize("name", learners())
def test_a_new_site_gets_the_classifier_of_the_cpu(name: str) -> None:
    settings, model = learners()[name], MODELS["stride"]
    task, body, learner = task_of(model), build_body(model, 1), build_learner(settings)
    theta = to_arrays(initial_parameters(model, settings, 1))

    def logits(device: torch.device) -> torch.Tensor:
        own = replace(task, device=device)
        drawn = sample_episode(own, n_way=4, n_shot=2, n_query=3, rng=np.random.default_rng(2))
        classify = learner.adapt(body, to_tensors(theta, device), drawn.support)
        return classify(drawn.query.images).softmax(dim=1).cpu()

    torch.testing.assert_close(logits(torch.device("cpu")), logits(CUDA), rtol=0, atol=5e-3)
