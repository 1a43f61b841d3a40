"""Orders as a coordinator sends them, and a site that answers them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message, Metadata, RecordDict

from metaward.arrays import to_arrays
from metaward.learner_settings import FomamlSettings
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.study import Study
from metaward.tasks import Task
from metaward.wire import RoundOrder, SiteRefusal, decode_update, encode_order
from metaward.wire_arrays import spec_of
from metaward_client.node.approval import Consent
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.policy import NoPrivacy, ProtectedSettings
from metaward_client.site_work import SiteAtWork

STUDY = Study(
    seed=5,
    model=ModelSettings(filters=8, image_size=16, groups=2),
    learner=FomamlSettings(n_way=2, n_shot=2, n_query=2, inner_steps=1, episodes=1),
)
THETA = to_arrays(build_body(STUDY.model, STUDY.seed).initial_parameters())


def a_task(site: str = "north") -> Task:
    """Two labels that differ in brightness gradient; 8 patients per label, one image each."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 8)
    ramp = np.linspace(0, 1, 16, dtype=np.float32)
    images = np.stack([ramp[None, :].repeat(16, 0) if y else ramp[:, None].repeat(16, 1)
                       for y in labels])[:, None]  # fmt: skip
    noise = rng.uniform(0, 0.2, images.shape).astype(np.float32)
    tokens = tuple(bytes([number]) for number in range(16))
    return Task(site, images + noise, labels, np.arange(16), ("a", "b"), tokens)


def site_at_work(
    folder: Path,
    load_task: Callable[[Study], Task] = lambda _: a_task(),
    policy: NoPrivacy | ProtectedSettings | None = None,
    consent: Consent = lambda _: None,
) -> SiteAtWork:
    """Return a site with its log below a folder; it takes every study unless told otherwise."""
    return SiteAtWork(
        load_task=load_task,
        round_log=folder / "logs" / "north.jsonl",
        name="north",
        policy=policy or NoPrivacy(),
        source=os_noise(),
        consent=consent,
    )


def an_order(study: Study = STUDY, round_index: int = 2) -> RecordDict:
    return encode_order(RoundOrder(study, round_index, THETA))


def a_message(content: RecordDict) -> Message:
    metadata = Metadata(1, "m1", 0, 7, "", "1", 1.0e9, 60.0, "train")
    return Message(metadata=metadata, content=content)  # type: ignore[call-overload,no-any-return]


def log_of(site: SiteAtWork) -> list[dict[str, Any]]:
    return [json.loads(line) for line in site.round_log.read_text().splitlines()]


def delta_bytes(answer: RecordDict | SiteRefusal) -> bytes:
    assert isinstance(answer, RecordDict)
    delta = decode_update(answer, spec_of(THETA)).delta
    return b"".join(delta[name].tobytes() for name in sorted(delta))


def raising(error: Exception) -> Callable[[Study], Task]:
    def load(_: Study) -> Task:
        raise error

    return load
